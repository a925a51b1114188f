"""Counters on two ps amid chaos: what sessions were told is what the ps hold, each add once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pytest_localcluster import (
    LocalCluster,
    Session,
    Variable,
    device,
    errors,
    group,
    placeholder,
    variables_initializer,
)
from pytest_localcluster._chaos import KINDS, Chaos
from pytest_localcluster._clock import Deadline

ADDS = 4000
"""Each add has a place of its own, so that one that is lost shows, and one that is made twice."""

DISTURBANCES = 6


@dataclass
class Told:
    """What the sessions were told of the adds to one ps, by their places."""

    acknowledged: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)


class Adder:
    """One session, which adds to a counter of either ps in turn."""

    def __init__(self, target: str) -> None:
        self.session = Session(target)
        self.place = placeholder(np.int64, (1,))
        self.counters = []
        for index in range(2):
            with device(f"/job:ps/task:{index}"):
                self.counters.append(Variable(np.zeros(ADDS, np.uint8), name=f"adds/{index}"))
        one = np.ones(1, np.uint8)
        self.adds = [group(counter.scatter_add(self.place, one)) for counter in self.counters]

    def initialise(self, which: int, timeout: float) -> None:
        self.session.run(variables_initializer([self.counters[which]]), timeout=timeout)

    def add(self, which: int, place: int, timeout: float) -> None:
        self.session.run(self.adds[which], {self.place: np.array([place])}, timeout=timeout)

    def go_on(self, places: Iterator[int], told: list[Told], chaos: Chaos, end: Deadline) -> None:
        """Add until the chaos is long enough, or there are no more places."""
        for place in itertools.takewhile(lambda place: place < ADDS, places):
            if len(chaos.happened) > DISTURBANCES or end.expired():
                return
            which = place % 2
            try:
                self.add(which, place, timeout=0.05)  # at times too short
            except errors.FailedPreconditionError:  # it was restarted, and holds nothing
                told[which].refused.add(place)
                with suppress(errors.OpError):  # the next add will tell
                    self.initialise(which, timeout=0.3)
            except errors.OpError:
                told[which].unknown.add(place)
            else:
                told[which].acknowledged.add(place)


@pytest.fixture(scope="module")
def running() -> Iterator[LocalCluster]:
    with LocalCluster(workers=2, ps=2, links=True) as cluster:
        yield cluster


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    seed=st.integers(0, 1 << 32),
    kinds=st.sets(st.sampled_from(KINDS), min_size=1).map(sorted),
    adders=st.integers(1, 4),
)
@example(seed=1, kinds=["kill"], adders=3)
@example(seed=2, kinds=["partition"], adders=4)
@example(seed=3, kinds=["drop"], adders=4)
@example(seed=4, kinds=["suspend"], adders=4)
@example(seed=5, kinds=list(KINDS), adders=4)
def test_adds(running: LocalCluster, seed: int, kinds: list[str], adders: int) -> None:
    running.reset()
    told = [Told(), Told()]
    places = itertools.count()
    everyone = [Adder(running.workers[number % 2].target) for number in range(adders)]
    for which in range(2):
        everyone[0].initialise(which, timeout=30)
    with (
        ThreadPoolExecutor(adders) as threads,
        running.chaos(seed, kinds=kinds, every=0.1) as chaos,
    ):
        end = Deadline(60)
        work = [threads.submit(a.go_on, places, told, chaos, end) for a in everyone]
        for one in work:
            one.result()
    assert len(chaos.happened) > DISTURBANCES or next(places) >= ADDS

    killed = {task for one in chaos.happened if one.kind == "kill" for task in one.tasks}
    for which, ps in enumerate(running.ps):
        held = ps.variables().get(f"adds/{which}", np.zeros(ADDS, np.uint8))
        assert held.max() <= 1, f"made twice: {np.flatnonzero(held > 1)} (seed {seed})"
        found: set[Any] = set(np.flatnonzero(held).tolist())
        said = told[which]
        assert found <= said.acknowledged | said.unknown, "made, though refused or never asked for"
        if ps.task not in killed:
            assert not said.refused
            assert said.acknowledged <= found, "lost, though acknowledged, by a ps that lived on"
    for adder in everyone:  # and all goes on
        for which in range(2):
            adder.initialise(which, timeout=30)
            adder.add(which, 0, timeout=30)
        adder.session.close()
