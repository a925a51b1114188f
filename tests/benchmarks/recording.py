"""What a timeline costs: steps of a cluster that is recorded, beside those of one that is not."""

from __future__ import annotations

import multiprocessing
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Self

import numpy as np

from pytest_localcluster import LocalCluster, Variable, constant, device

from ._measure import Row, laps_of

# Of how many operations a chain is: a few more than are noted one by one, and many more.
CHAINS = (24, 300)
AT_ONCE = 10


def chain(count: int) -> Any:
    """Return the end of so many operations on one task, each a few microseconds of work."""
    with device("/job:worker/task:0"):
        value = constant(np.ones(4))
        for _ in range(count):
            value = value + 1.0
    return value


def steps_of(cluster: LocalCluster, stack: ExitStack) -> dict[str, Callable[[], object]]:
    """Return steps to be made again and again, by name."""
    with device("/job:ps/task:0"):
        state = Variable(np.ones(16), name="state")
        held = state.read() + 1.0
    with device("/job:worker/task:0"):
        doubled = held * 2.0
    with device("/job:worker/task:1"):
        result = doubled + 1.0
    session = stack.enter_context(cluster.session())
    session.run(state.initializer)
    what: dict[str, Any] = {"a step over ps and two workers": result}
    what |= {f"a step of {count} operations on one task": chain(count) for count in CHAINS}
    return {name: partial(session.run, fetch) for name, fetch in what.items()}


def steps(repeat: int) -> Iterator[Row]:
    """The same steps where they are recorded and where they are not, in turns.

    So both share the machine's moods. One process is slower than another one by as much as is
    looked for here, for as long as it lives: so there are many of them.
    """
    ratios: dict[str, list[float]] = defaultdict(list)
    for _ in range(max(1, repeat // 2)):
        with Runner(recorded=False) as plain, Runner(recorded=True) as recorded:
            for name in plain.names:
                laps = []
                for _ in range(repeat):
                    without = plain.seconds(name)
                    laps.append(recorded.seconds(name) / without)
                ratios[name].append(statistics.median(laps))
    for name, found in ratios.items():
        cost = statistics.median(found)
        yield Row(f"{name}, recorded to not", cost, "x", budget=1.05, laps=len(found))


class Runner:
    """A process that runs the steps, with a recorder or without."""

    def __init__(self, *, recorded: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, recorded))
        self._process.start()
        theirs.close()
        self.names: list[str] = self._ours.recv()

    def seconds(self, name: str) -> float:
        """Return the median of a few steps of that name."""
        self._ours.send(name)
        seconds: float = self._ours.recv()
        return seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._process.join()


def _run(asked: Connection, recorded: bool) -> None:
    from pytest_localcluster import _moments
    from pytest_localcluster._timeline.recorder import Recorder

    with ExitStack() as stack:
        if recorded:
            recorder = Recorder()
            stack.callback(recorder.close)
            stack.callback(_moments.record, _moments.record(recorder))
        cluster = stack.enter_context(LocalCluster(workers=2, ps=1))
        if recorded:
            stack.callback(recorder.stopped, cluster)
        steps = steps_of(cluster, stack)
        asked.send([*steps])
        with suppress(EOFError):
            while True:
                step = steps[asked.recv()]
                step()  # what the other one has left in the caches is its own
                asked.send(statistics.median(laps_of(step, AT_ONCE)))
