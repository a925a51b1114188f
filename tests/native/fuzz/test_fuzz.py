"""Thousands of calls that no client makes: each is answered, and then all is as it was.

20,000 of them, the same in every run, some 25 seconds on two cores. More, and others::

    make fuzz CASES=1000000 SEED=7
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from pytest_localcluster import LocalCluster, Server, Session, Variable, device, placeholder
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._context import token_for
from pytest_localcluster._proto.graph_pb2 import Status
from pytest_localcluster._proto.master_pb2 import ResetRequest
from pytest_localcluster._proto.worker_pb2 import CleanupGraphRequest, DeregisterGraphRequest
from tests.native.fuzz.cases import Cases
from tests.native.fuzz.lanes import Lane
from tests.native.fuzz.recording import METHODS, Corpus, record

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what a task holds is in /proc")

SHARDS = 4
SELDOM = {"Reset", "CloseSession", "CleanupAll"}  # called: they leave little to test
LANES = 2  # for each task
MOST = 6 << 30  # bytes of address space: a task that wants more is better refused than the machine
PEAK = 200  # MiB that a task may ever hold; it begins with some 40
GROWTH = 40  # MiB that it may hold more at the end than after the first quarter


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return record()


def prepare() -> None:
    """In a task: have the log show what gRPC and we complain of, and memory be refused early."""
    import logging
    import resource

    logging.basicConfig(level=logging.WARNING)
    resource.setrlimit(resource.RLIMIT_AS, (MOST, MOST))


def holdings() -> dict[str, int]:
    """In a task: count what it holds that calls left there."""
    import gc
    from pathlib import Path

    from pytest_localcluster._runtimes.native.server import _serving

    (server,) = _serving
    gc.collect()
    with server._threads._lock:
        busy = len(server._threads._members) - server._threads._idle
    busy -= server._conversations.idle()  # the other tasks keep their streams
    return {
        "steps": len(server._steps),
        "operations": len(server._site.running),
        "sessions": len(server._master._sessions),
        "graphs": len(server._worker._graphs),
        "variables": len(server._worker.variables._variables),
        "busy threads": busy,
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
    }


def memory() -> tuple[int, int]:
    """In a task: the MiB that it holds, and the most that it ever held."""
    from pathlib import Path

    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) >> 10, int(lines["VmHWM"].split()[0]) >> 10


def run_lanes(lanes: Sequence[Lane], numbers: range) -> None:
    with ThreadPoolExecutor(len(lanes)) as threads:
        done = [
            threads.submit(lane.run, numbers[place :: len(lanes)])
            for place, lane in enumerate(lanes)
        ]
    for one in done:
        one.result()


def clean_up(lanes: Sequence[Lane]) -> None:
    """Give back, by the calls that are there for it, all that the lanes had made."""
    for lane in lanes:
        lane.call("Reset", ResetRequest())
        for handle in filter(None, lane.sessions):
            lane.call("DeregisterGraph", DeregisterGraphRequest(session_handle=handle))
        for handle in lane.graphs:
            lane.call("DeregisterGraph", DeregisterGraphRequest(graph_handle=handle))
        for step_id in lane.step_ids:
            over = CleanupGraphRequest(step_id=step_id, status=Status(code=10, message="over"))
            lane.call("CleanupGraph", over)


def train(cluster: LocalCluster) -> None:
    """Run real steps on all tasks, from a session to each worker."""
    with device("/job:ps/task:0"):
        total = Variable(np.zeros(3), name="after_all")
    x = placeholder(np.float64, (3,))
    with device("/job:worker/task:1"):
        there = np.sqrt(x) + total
    update = total.assign_add(there * 2)
    expected = np.zeros(3)
    for server in cluster.workers:
        with Session(server.target) as session:
            session.run(total.initializer)
            expected = np.zeros(3)
            for number in range(5):
                fed = np.full(3, float(number))
                expected = expected + (np.sqrt(fed) + expected) * 2
                assert np.array_equal(session.run(update, {x: fed}, timeout=20), expected)
    assert np.array_equal(cluster.ps[0].variables()["after_all"], expected)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_whatever_is_sent_is_answered_and_leaves_nothing(
    corpus: Corpus, shard: int, pytestconfig: pytest.Config
) -> None:
    count: int = pytestconfig.getoption("--fuzz-cases")
    cases = Cases(corpus, pytestconfig.getoption("--fuzz-seed"))
    first, last = shard * count // SHARDS, (shard + 1) * count // SHARDS
    with LocalCluster(workers=2, ps=1) as cluster:
        servers: list[Server] = list(cluster.servers)
        for server in servers:
            server.run(prepare)
        token = token_for(servers[0].target)
        assert token is not None
        lanes = [Lane(corpus, cases, server, token) for server in servers * LANES]
        try:
            quarter = first + (last - first) // 4
            run_lanes(lanes, range(first, quarter))
            early = [server.run(memory)[0] for server in servers if server.is_alive()]
            run_lanes(lanes, range(quarter, last))
            faults = [fault for lane in lanes for fault in lane.faults]
            assert not faults, "\n\n".join(faults)
            clean_up(lanes)
        finally:
            for lane in lanes:
                lane.close()
        check_outcomes(sum((lane.outcomes for lane in lanes), Counter()), last - first)
        train(cluster)
        check_tasks(servers, early)


def check_outcomes(outcomes: Counter[str], count: int) -> None:
    """See that all that was tested that should be: no method was only ever refused."""
    calls = sum(number for outcome, number in outcomes.items() if " status " not in outcome)
    assert calls == count
    for method in METHODS.keys() - SELDOM:
        assert outcomes[f"{method} OK"], (method, outcomes)
        assert outcomes[f"{method} INVALID_ARGUMENT"], (method, outcomes)
    assert outcomes["RunStep status 0"] > count / 200
    assert outcomes["RunGraph status 0"] > count / 1000


def check_tasks(servers: Sequence[Server], early: Sequence[int]) -> None:
    for server, before in zip(servers, early, strict=True):
        held: dict[str, Any] = {}

        def is_idle(server: Server = server) -> bool:
            nonlocal held
            held = server.run(holdings)
            # One variable is the one of the real steps; descriptors: three tasks and the listener.
            ours = {name: held[name] for name in held if name not in ("variables", "descriptors")}
            return not any(ours.values())

        assert poll(is_idle, Deadline(20)), f"{server.task} keeps {held}"
        assert held["variables"] == (server.job_name == "ps"), held
        assert held["descriptors"] < 40, held
        now, peak = server.run(memory)
        assert peak < PEAK, f"{server.task} held {peak} MiB"
        assert now - before < GROWTH, f"{server.task} grew from {before} to {now} MiB"
        assert "Traceback" not in server.log.text()
        assert server.is_alive()
