"""How our own costs grow: with tasks, variables, ops, sessions and the size of a tensor."""

from __future__ import annotations

import time
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

from ._curves import BYTES, OPS, SESSIONS, TASKS, VARIABLES, Curve, measure_bytes, sweep
from ._measure import laps_of, together
from .clusters import concurrent

LAUNCHERS = ("process", "thread")
# Of the same step, when it has been made once.
AGAIN = 3
# A curve that takes longer is begun no further round.
SECONDS = 90


def tasks(launcher: str, repeat: int) -> Iterator[Curve]:
    """Start and stop clusters of workers."""

    def measure(size: int) -> dict[str, list[float]]:
        cluster = LocalCluster(workers=size, ps=0, launcher=launcher)
        began = time.perf_counter()
        cluster.start()
        started = time.perf_counter()
        cluster.stop()
        stopped = time.perf_counter()
        return {"tasks-start": [started - began], "tasks-stop": [stopped - started]}

    with LocalCluster(workers=1, ps=0, launcher=launcher):
        pass  # the first start of all brings up what later ones use
    for plot, points in sweep(measure, TASKS, repeat, SECONDS):
        yield Curve(plot, "ours", launcher, points)


def variables(launcher: str, repeat: int) -> Iterator[Curve]:
    """Initialise variables of one ps, and add to all of them, as one step of a worker."""
    with LocalCluster(workers=1, ps=1, launcher=launcher) as cluster:

        def measure(size: int) -> dict[str, list[float]]:
            cluster.reset()
            with device("/job:ps/task:0"):
                held = [Variable(0.0, name=f"v{number}") for number in range(size)]
            initialise = variables_initializer(held)
            add = group(*(variable.assign_add(1.0) for variable in held))
            with Session(cluster.workers[0].target) as session:
                first = laps_of(partial(session.run, initialise), 1)
                session.run(add)
                again = laps_of(partial(session.run, add), AGAIN)
            return {"variables-first": first, "variables-again": again}

        for plot, points in sweep(measure, VARIABLES, repeat, SECONDS):
            yield Curve(plot, "ours", launcher, points)


def ops(launcher: str, repeat: int, *, hop: int = 0) -> Iterator[Curve]:
    """Run a chain of ops on one worker; if ``hop``, on two, changing after so many ops."""
    with LocalCluster(workers=2, ps=0, launcher=launcher) as cluster:

        def measure(size: int) -> dict[str, list[float]]:
            fed = placeholder(np.float64, (16,))
            result: Any = fed
            for number in range(size):
                with device(f"/job:worker/task:{number // hop % 2 if hop else 0}"):
                    result = np.tanh(result)
            with Session(cluster.workers[0].target) as session:
                run = partial(session.run, result, {fed: np.ones(16)})
                return {f"{name}-first": laps_of(run, 1), f"{name}-again": laps_of(run, AGAIN)}

        name = "hops" if hop else "ops"
        for plot, points in sweep(measure, OPS, repeat, SECONDS):
            yield Curve(plot, "ours", launcher, points)


def sessions(launcher: str, repeat: int) -> Iterator[Curve]:
    """Have each of many sessions make a step over ps and two workers, all at once."""
    with LocalCluster(workers=2, ps=2, launcher=launcher) as cluster, ExitStack() as stack:
        steps = concurrent(cluster, stack, max(SESSIONS))

        def measure(size: int) -> dict[str, list[float]]:
            return {"sessions": [together(steps[:size], AGAIN) / AGAIN]}

        for plot, points in sweep(measure, SESSIONS, repeat, SECONDS):
            yield Curve(plot, "ours", launcher, points)


def tensors(launcher: str, repeat: int) -> Iterator[Curve]:
    """Have a worker take a whole tensor from a ps."""

    def measure(size: int) -> list[float]:
        with LocalCluster(workers=1, ps=1, launcher=launcher) as cluster:
            with device("/job:ps/task:0"):
                ones = function(np.ones)(size // 8)
                held = Variable(ones, name="held", dtype=np.float64)
            with device("/job:worker/task:0"):
                pull = group(function(len)(held.read()))
            with Session(cluster.workers[0].target) as session:
                session.run(held.initializer)
                run = partial(session.run, pull)
                laps_of(run, 3)
                return laps_of(run, repeat)

    yield measure_bytes(Curve("tensors", "ours", launcher), BYTES, measure)


def curves(repeat: int) -> Iterator[Curve]:
    """Measure everything, one curve after the other."""
    for launcher in LAUNCHERS:
        yield from tasks(launcher, repeat)
    yield from variables("process", repeat)
    yield from ops("process", repeat)
    yield from ops("process", repeat, hop=10)
    yield from sessions("process", repeat)
    yield from tensors("process", repeat)
