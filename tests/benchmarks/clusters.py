"""Our own figures: starting, stopping, resetting, stepping; memory."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
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

from ._measure import Row, Stopwatch, laps_of, per_call, pss, together

# By launcher: start, stop.
BUDGETS = {"process": (12, 5), "thread": (4, 2.5)}
LARGE = 64 * 2**20
# How many sessions step at once, and how often each does for one lap.
SESSIONS, STEPS = 16, 10


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
    del start.seconds[0]  # of all in this process: early.py has that
    up, down = BUDGETS[launcher]
    yield start.row(f"start 2+2, {launcher}", budget=up)
    yield stop.row(f"stop 2+2, {launcher}", budget=down)
    yield reset.row(f"reset 2+2, {launcher}", budget=2)


def hundredth(launcher: str) -> Iterator[Row]:
    """Start 2 workers and 2 ps 110 times, and compare the last starts with the first."""
    start = Stopwatch()
    for _ in range(110):
        cluster = LocalCluster(workers=2, ps=2, launcher=launcher)
        with start.lap():
            cluster.start()
        cluster.stop()
    yield Row(f"starts 90-110 to starts 2-20, {launcher}", drift(start), "x", budget=1.1, laps=20)


def drift(start: Stopwatch) -> float:
    """Return the median of the 90th to 110th lap as a multiple of that of the 2nd to 20th."""
    late, early = start.seconds[89:110], start.seconds[1:20]
    return statistics.median(late) / statistics.median(early)


def sizes(repeat: int) -> Iterator[Row]:
    """1 to 32 processes, and what one of them weighs."""
    up, down, memory = {32: 80}, {32: 25}, {4: None, 32: 5}
    for tasks in (1, 2, 4, 8, 16, 32):
        start, stop, weights = Stopwatch(), Stopwatch(), []
        for _ in range(repeat):
            cluster = LocalCluster(workers=tasks, ps=0)
            with start.lap():
                cluster.start()
            weights += [weight for server in cluster.servers if (weight := pss(server.pid or 0))]
            with stop.lap():
                cluster.stop()
        yield start.row(f"start {tasks} tasks, process", budget=up.get(tasks))
        yield stop.row(f"stop {tasks} tasks, process", budget=down.get(tasks))
        if tasks in memory and weights:
            what, median = f"memory of one of {tasks} tasks (PSS)", statistics.median(weights)
            yield Row(what, median, "MiB", budget=memory[tasks], laps=len(weights))


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
    for _ in range(repeat):
        with LocalCluster(workers=2, ps=2, launcher=launcher) as cluster:
            fed = placeholder(np.float64, (16,))
            result = across(fed)
            with first.lap(), Session(cluster.workers[0].target) as session:
                session.run(result, {fed: vector})
    yield first.row(f"first step on a fresh cluster, {launcher}", budget=10)

    with LocalCluster(workers=2, ps=2, launcher=launcher) as cluster, ExitStack() as stack:
        (step,) = concurrent(cluster, stack, 1)
        median = per_call(step, repeat * 20)
    what = f"step over ps and two workers, {launcher}"
    yield Row(what, median, ratio=0.6, laps=repeat * 20)


def concurrent(cluster: LocalCluster, stack: ExitStack, number: int) -> list[partial[object]]:
    """Return a warm step of each of ``number`` sessions, open as long as ``stack``."""
    with device("/job:ps/task:0"):
        state = Variable(np.ones(16), name="state")
    result = across(state.read())
    targets = [worker.target for worker in cluster.workers]
    opened = [stack.enter_context(Session(targets[one % len(targets)])) for one in range(number)]
    opened[0].run(state.initializer)
    steps = [partial(session.run, result) for session in opened]
    together(steps, 2)
    return steps


def sessions(launcher: str, repeat: int) -> Iterator[Row]:
    """Steps of many sessions at once, each in a thread of its own."""
    with LocalCluster(workers=2, ps=2, launcher=launcher) as cluster, ExitStack() as stack:
        calls = concurrent(cluster, stack, SESSIONS)
        seconds = statistics.median(together(calls, STEPS) for _ in range(repeat))
    rate = SESSIONS * STEPS / seconds
    what = f"steps of {SESSIONS} sessions, {launcher}"
    yield Row(what, rate, "steps/s", at_least=True, ratio=1.5, laps=repeat)


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
            run = partial(session.run, op)
            laps_of(run, 3)
            seconds = statistics.median(laps_of(run, repeat))
            rate = LARGE / 2**30 / seconds
            yield Row(f"64 MiB, {name}", rate, "GiB/s", at_least=True, ratio=1.5, laps=repeat)
