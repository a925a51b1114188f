"""The soak itself: a short one is clean, it ends when told to, and it finds what there is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_localcluster import LocalCluster
from pytest_localcluster._clock import Deadline, now, poll
from tests.soak.plan import draw
from tests.soak.report import Findings, read
from tests.soak.runs import ROOT
from tests.soak.witness import Settings, Witness, write_process
from tests.survivors.runs import processes

Soak = subprocess.Popen[str]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Start a soak of so many seconds; it keeps its record in ``tmp_path / "kept"``."""
    started: list[Soak] = []

    def soak(seconds: float) -> Soak:
        options = [
            "--seconds",
            str(seconds),
            "--workers=0",
            "--seed=1",
            "--keep",
            tmp_path / "kept",
        ]
        command = [sys.executable, "-m", "tests.soak", *map(str, options)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=pipe, text=True))
        return started[-1]

    yield soak
    for one in started:
        with one:
            one.terminate()


def test_a_short_one_is_clean(start: Any, tmp_path: Path) -> None:
    soak = start(2)
    output, _ = soak.communicate()
    assert soak.returncode == 0, output
    table = dict(line.split(maxsplit=1) for line in output.splitlines()[1:])
    assert [table[what].split()[0] for what in ("leaks", "hangs", "failed")] == ["0", "0", "0"]
    lines = read(tmp_path / "kept/record.jsonl")
    assert {(line["what"], line["run"]) for line in lines} == {
        ("cluster", "main"),
        ("cluster", "beside"),
        ("process", "main"),
        ("process", "beside"),
        ("stranger", "stranger"),
    }


def test_it_ends_when_told_to(start: Any, tmp_path: Path) -> None:
    soak = start(60)
    record = tmp_path / "kept/record.jsonl"

    def clusters() -> bool:
        return any(line["what"] == "cluster" for line in read(record))

    assert poll(clusters, Deadline(40))
    assert processes(str(tmp_path / "kept"))
    soak.send_signal(signal.SIGTERM)
    output, _ = soak.communicate()
    assert soak.returncode == 130, output
    assert processes(str(tmp_path / "kept")) == []


def test_what_is_left_is_found(tmp_path: Path) -> None:
    settings = Settings(1, "main", 1.0, now() + 1, str(tmp_path / "record"))
    with LocalCluster(workers=1, ps=0) as cluster:
        witness = Witness(draw("1/main/gw0/1", first=False), cluster, now())
        witness.look()
        left = witness.close(settings)
    (worker,) = cluster.servers
    assert left == [f"pid {worker.pid} lives", f"{worker.log.path.parent} is there"]
    assert witness.close(settings) == []
    first, second = read(tmp_path / "record")
    assert [f"localhost:{port}" for port, *_ in first["lingering"]] == [worker.address]
    assert second["lingering"] == []
    assert len(Findings([first], now(), 1.0).leaks) == 2


def test_who_is_below_and_of_no_cluster_is_found(tmp_path: Path) -> None:
    settings = Settings(1, "main", 1.0, now() + 1, str(tmp_path / "record"))
    with LocalCluster(workers=1, ps=0) as cluster:
        child = cluster.workers[0].run(os.spawnlp, os.P_NOWAIT, "sleep", "sleep", "1000")
        write_process(settings, [cluster])
        write_process(settings, [])
    write_process(settings, [])
    lines = read(tmp_path / "record")
    assert [f"process {child} (sleep)" in line["strays"] for line in lines] == [False, True, False]
    assert any("(sleep)" in leak for leak in Findings(lines, now(), 1.0).leaks)


def cluster(name: str, up: float, until: float, **facts: Any) -> dict[str, Any]:
    plain = {"seconds": 1.0, "start": 0.1, "lingering": [], "left": [], "survived": [], "ports": []}
    times = {"asked": up - 1, "up": up, "until": until, "at": until + 1}
    kind = {"kind": "native", "launcher": "process", "links": False, "run": "main"}
    return {"what": "cluster", "plan": name, **plain, **times, **kind, **facts}


def found(*lines: dict[str, Any]) -> Findings:
    return Findings(lines, 0.0, 60.0)


def test_collisions_are_found() -> None:
    long, short = cluster("long", 0, 9, ports=[1, 2]), cluster("short", 1, 2, ports=[1])
    later, after = cluster("later", 3, 4, ports=[1]), cluster("after", 9, 10, ports=[1, 2])
    assert found(later, short, after).collisions == []
    assert found(later, short, after, long).collisions == [
        "port 1: long and short",
        "port 1: long and later",
    ]
    stranger = {"what": "stranger", "up": 8, "until": 12, "at": 12, "ports": [2]}
    assert found(long, stranger).collisions == ["port 2: long and the stranger"]


def test_a_port_that_is_listened_on_afterwards_may_be_anothers() -> None:
    gone = cluster("gone", 0, 5, ports=[1], lingering=[[1, 6, 6.5]])
    assert len(found(gone).leaks) == 1
    assert found(gone, cluster("next", 7, 8, ports=[1])).leaks == []
    assert len(found(gone, cluster("much later", 9, 10, ports=[1])).leaks) == 1


def test_what_failed_is_told_apart() -> None:
    failure = {"what": "failure", "run": "main", "test": "test_it", "when": "call"}
    findings = found(
        {**failure, "text": "AssertionError"},
        {**failure, "text": "Failed: Timeout (>120.0s) from pytest-timeout."},
        {**failure, "text": "stayed behind (--cluster-leak-check)", "when": "teardown"},
        cluster("endless", 0, 90, seconds=90),
    )
    counts = findings.failures, findings.hangs, findings.leaks
    assert [len(texts) for texts in counts] == [1, 2, 1]
