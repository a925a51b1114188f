"""Our own figures: starting, stopping, resetting, stepping; memory and imports."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pytest_localcluster import (
    LocalCluster,
    Session,
    Variable,
    device,
    function,
    group,
    placeholder,
    variables_initializer,
)

from . import links, machine
from ._measure import Row, Stopwatch, cpu, per_call, pss

# The budgets of the foundation, by launcher: start, stop.
BUDGETS = {"process": (25, 10), "thread": (8, 5)}
LARGE = 64 * 2**20


def lives(launcher: str, repeat: int) -> Iterator[Row]:
    """Start, use nothing, reset and stop 2 workers and 2 ps."""
    start, stop, reset = Stopwatch(), Stopwatch(), Stopwatch()
    for _ in range(repeat + 1):
        cluster = LocalCluster(workers=2, ps=2, launcher=launcher)
        with start.lap():
            cluster.start()
        with reset.lap():
            cluster.reset()
        with stop.lap():
            cluster.stop()
    first = start.seconds.pop(0) * 1000
    if launcher == "process":
        yield Row(f"first start of 2+2, {launcher}", first)
    up, down = BUDGETS[launcher]
    yield Row(f"start 2+2, {launcher}", start.median, budget=up)
    yield Row(f"stop 2+2, {launcher}", stop.median, budget=down)
    yield Row(f"reset 2+2, {launcher}", reset.median, budget=5)


def sizes(repeat: int) -> Iterator[Row]:
    """1 to 32 processes, and what one of them weighs."""
    for tasks in (1, 2, 4, 8, 16, 32):
        start, stop, weights = Stopwatch(), Stopwatch(), []
        for _ in range(max(3, repeat // 4)):
            cluster = LocalCluster(workers=tasks, ps=0)
            with start.lap():
                cluster.start()
            weights += [pss(server.pid or 0) or 0.0 for server in cluster.servers]
            with stop.lap():
                cluster.stop()
        yield Row(
            f"start {tasks} tasks, process", start.median, budget=200 if tasks == 32 else None
        )
        yield Row(f"stop {tasks} tasks, process", stop.median)
        if tasks in (4, 32) and any(weights):
            memory = statistics.median(weights)
            yield Row(f"memory of one of {tasks} tasks (PSS)", memory, "MiB", budget=12)


def across(value: Any) -> Any:
    """Send a value on its way: a ps, then two workers, each working on what it is given."""
    with device("/job:ps/task:0"):
        held = value + 1
    with device("/job:worker/task:0"):
        doubled = held * 2
    with device("/job:worker/task:1"):
        return doubled + 1


def steps(launcher: str, repeat: int) -> Iterator[Row]:
    """The first step of a fresh cluster, and those after it."""
    first, vector = Stopwatch(), np.ones(16)
    for _ in range(max(3, repeat // 3)):
        with LocalCluster(workers=2, ps=2, launcher=launcher) as cluster:
            fed = placeholder(np.float64, (16,))
            result = across(fed)
            with first.lap(), Session(cluster.workers[0].target) as session:
                session.run(result, {fed: vector})
    yield Row(f"first step on a fresh cluster, {launcher}", first.median, budget=25)

    with LocalCluster(workers=2, ps=2, launcher=launcher) as cluster:
        with device("/job:ps/task:0"):
            state = Variable(vector, name="state")
        result = across(state.read())
        with Session(cluster.workers[0].target) as session:
            session.run(state.initializer)
            step = per_call(partial(session.run, result), repeat * 20)
    yield Row(f"step over ps and two workers, {launcher}", step, ratio=1.2)


def large(repeat: int) -> Iterator[Row]:
    """64 MiB from a ps to a worker and back, without the client."""
    with LocalCluster(workers=1, ps=1) as cluster, ExitStack() as stack:
        size = LARGE // 8
        with device("/job:ps/task:0"):
            held = Variable(np.ones(size), name="held")
        with device("/job:worker/task:0"):
            kept = Variable(np.ones(size), name="kept")
            pull = group(function(len)(held.read()))
        with device("/job:ps/task:0"):
            push = group(function(len)(kept.read()))
        session = stack.enter_context(Session(cluster.workers[0].target))
        session.run(variables_initializer([held, kept]))
        for name, op in (("ps to worker", pull), ("worker to ps", push)):
            seconds = per_call(partial(session.run, op), max(5, repeat // 2)) / 1000
            yield Row(f"64 MiB, {name}", LARGE / 2**30 / seconds, "GiB/s", at_least=True, ratio=0.7)


def unused(repeat: int) -> Iterator[Row]:
    """What a suite pays that uses no cluster: the plugin's import, and pytest as a whole."""
    code = (
        "import time, pytest, argparse, dataclasses\n"
        "start = time.perf_counter()\n"
        "import pytest_localcluster.plugin\n"
        "print(time.perf_counter() - start)\n"
    )
    imports = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(repeat)
    ]
    yield Row("import of the plugin", statistics.median(imports) * 1000, budget=5)

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_nothing.py").write_text("def test_nothing(): pass\n", encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder]
        without = [*command, "-p", "no:localcluster"]
        added = [cpu(command, folder) - cpu(without, folder) for _ in range(repeat)]
        yield Row("CPU added to a run that uses none", statistics.median(added), budget=5)


SUITE = """
import pytest
from pytest_localcluster import Variable, device

@pytest.mark.cluster(workers=2, ps=1)
@pytest.mark.parametrize("n", range({tests}))
def test_step(local_cluster, n):
    with device("/job:ps/task:0"):
        total = Variable(n)
    with local_cluster.session() as session:
        session.run(total.initializer)
"""


def suite(tests: int) -> Iterator[Row]:
    """Many tests, each with a fresh cluster of three and one step, in two xdist workers."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_many.py").write_text(SUITE.format(tests=tests), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2"]
        start = time.perf_counter()
        subprocess.run([*command, folder], cwd=folder, capture_output=True, check=True)
        seconds = time.perf_counter() - start
    yield Row(
        f"{tests} tests with a fresh 2+1, -n 2",
        tests / seconds,
        "tests/s",
        budget=30,
        at_least=True,
    )


def all_rows(repeat: int) -> Iterator[Row]:
    """Measure everything, one row after the other."""
    yield from machine.bare(repeat)
    for launcher in BUDGETS:
        yield from lives(launcher, repeat)
    yield from sizes(repeat)
    for launcher in BUDGETS:
        yield from steps(launcher, repeat)
    yield from large(repeat)
    yield from links.passing(repeat)
    for launcher in BUDGETS:
        yield from links.lives(launcher, repeat)
    yield from links.verbs(repeat)
    yield from unused(repeat)
    yield from suite(200)
