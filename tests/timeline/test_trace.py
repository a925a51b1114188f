"""A trace is what Perfetto and chrome://tracing read: slices that nest, flows between slices."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from pytest_localcluster import Variable, device
from pytest_localcluster._timeline.story import Arrow, Bar, Group, Mark, Row, Story
from pytest_localcluster._timeline.trace import trace_of
from tests.timeline.conftest import Start, Tell

Event = dict[str, Any]


def events_of(story: Story) -> list[Event]:
    events: list[Event] = json.loads(trace_of(story))["traceEvents"]
    return events


def check(events: list[Event]) -> None:
    """Check what readers of the format take for granted."""
    threads: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for event in events:
        assert {"ph", "pid", "tid", "name"} <= event.keys()
        if event["ph"] == "X":
            assert event["dur"] >= 0
            threads[event["pid"], event["tid"]].append(event)
    for slices in threads.values():
        open_until: list[float] = []
        for one in sorted(slices, key=lambda event: (event["ts"], -event["dur"])):
            while open_until and open_until[-1] <= one["ts"] + 1e-6:
                open_until.pop()
            assert not open_until or one["ts"] + one["dur"] <= open_until[-1] + 1e-6
            open_until.append(one["ts"] + one["dur"])
    assert len({tid for _, tid in threads}) == len(threads), "Perfetto takes them for one"
    flows: dict[int, dict[str, Event]] = defaultdict(dict)
    for event in events:
        if event["ph"] in "sf":
            assert event["ph"] not in flows[event["id"]]
            flows[event["id"]][event["ph"]] = event
            around = [
                one
                for one in threads[event["pid"], event["tid"]]
                if one["ts"] - 1e-6 <= event["ts"] <= one["ts"] + one["dur"] + 1e-6
            ]
            assert around, f"no slice has {event}"
    for flow in flows.values():
        assert flow.keys() == {"s", "f"}
        assert flow["f"]["bp"] == "e"
        assert (flow["s"]["name"], flow["s"]["cat"]) == (flow["f"]["name"], flow["f"]["cat"])


def test_a_small_story() -> None:
    one, two = (
        Bar("op", "add", 1_000, 5_000, {"step": "step 1"}),
        Bar("recv", "add:0", 2_000, 9_000),
    )
    lap = Bar("op", "other", 3_000, 4_000, failed=True)
    lap.depth = 1
    story = Story("test_it[<&>]", "failed", "why", 0, 10_000)
    story.groups = [
        Group("the test", ""),
        Group(
            "/job:ps/task:0", "native", [Row("device", [one, lap], [Mark("log", "said", 6_000)])]
        ),
        Group("/job:worker/task:0", "native", [Row("receives", [two])]),
    ]
    story.arrows = [Arrow("tensor", "add:0", one, 5_000, two, 9_000, 2048)]
    events = events_of(story)
    check(events)
    processes = [e["args"]["name"] for e in events if e["name"] == "process_name"]
    assert processes == ["the test", "/job:ps/task:0 (native)", "/job:worker/task:0 (native)"]
    slices = {e["name"]: e for e in events if e["ph"] == "X"}
    assert (slices["add"]["ts"], slices["add"]["dur"]) == (1.0, 4.0)
    assert slices["add"]["args"] == {"step": "step 1"}
    assert slices["other"]["args"] == {"failed": "yes"}
    assert slices["other"]["tid"] != slices["add"]["tid"]
    start, finish = (next(e for e in events if e["ph"] == ph) for ph in "sf")
    assert (start["pid"], finish["pid"]) == (2, 3)
    assert start["args"] == {"size": "2 KiB"}
    (instant,) = (e for e in events if e["ph"] == "i")
    assert (instant["name"], instant["ts"], instant["s"]) == ("said", 6.0, "t")
    assert json.loads(trace_of(story))["otherData"]["test"] == "test_it[<&>]"


@pytest.mark.parametrize("launcher", ["process", "thread"])
def test_a_real_story(start: Start, tell: Tell, launcher: str) -> None:
    cluster = start(workers=2, ps=1, launcher=launcher)
    with device("/job:ps/task:0"):
        w = Variable(np.ones(8), name="w")
    with device("/job:worker/task:1"):
        there = w.read() + 1.0
    with device("/job:ps/task:0"):
        step = w.assign_sub(there * 0.1)
    with cluster.session() as session:
        session.run(w.initializer)
        for _ in range(20):
            session.run(step)
    cluster.run(print, "words")
    cluster.stop()
    events = events_of(tell(cluster))
    check(events)
    tensors = [e["name"] for e in events if e["ph"] == "s" and e["cat"] == "tensor"]
    assert tensors.count("w/read:0") == 20
    assert {e["cat"] for e in events if e["ph"] == "X"} >= {"session", "step", "part", "op", "life"}
