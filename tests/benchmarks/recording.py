"""What a timeline costs: steps of a cluster that is recorded, beside those of one that is not."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from pytest_localcluster import LocalCluster, Variable, constant, device

from ._measure import Row, laps_of

# Of how many operations a chain is: as many as are noted one by one, and more.
CHAINS = (24, 300)
AT_ONCE = 5


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
    """The same steps with a recorder and without, in turns: so the machine's moods are shared."""
    from pytest_localcluster import _moments
    from pytest_localcluster._timeline.recorder import Recorder

    recorder = Recorder()
    with ExitStack() as stack:
        plain = stack.enter_context(LocalCluster(workers=2, ps=1))
        without = steps_of(plain, stack)
        stack.callback(recorder.close)
        stack.callback(_moments.record, _moments.record(recorder))
        recorded = stack.enter_context(LocalCluster(workers=2, ps=1))
        having = steps_of(recorded, stack)
        stack.callback(recorder.stopped, recorded)
        for name, step in having.items():
            ratios = []
            for _ in range(repeat * 5):
                took = {}
                for recording, run in ((None, without[name]), (recorder, step)):
                    _moments.record(recording)
                    run()  # what the other one has left in the caches is its own
                    took[recording] = statistics.median(laps_of(run, AT_ONCE))
                ratios.append(took[recorder] / took[None])
            cost = statistics.median(ratios)
            yield Row(f"{name}, recorded to not", cost, "x", budget=1.05, laps=len(ratios))
