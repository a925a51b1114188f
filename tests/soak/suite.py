"""The test of both runs: until the time is over, one cluster after the other, all of one process.

There is a test for each few seconds, so that all that pytest does around a test is done again and
again in processes that live all the time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pytest_localcluster import LocalCluster, create_local_cluster
from pytest_localcluster._clock import now

from .faults import LAST, fault
from .plan import Plan, draw
from .witness import Settings, Witness, write_process
from .work import work

__all__ = ["test_clusters"]

SLICE = 5.0
"""Seconds of a test. Of each, pytest keeps reports and requests, 4 KiB, until the run ends: of many
that would hide whether the clusters leave something."""


class Soak:
    """What one process does in its time: it counts its clusters, and knows those that are up."""

    def __init__(self) -> None:
        self.settings = Settings.from_environ()
        self.up: list[Witness] = []  # those of fixtures, which stop them
        self._began = now()
        self.count = 0

    def slice_end(self, number: int) -> float:
        """Return when the slice of a test is over."""
        return min(self.settings.end, self._began + (number + 1) * SLICE)

    def next_plan(self, *, first: bool) -> Plan:
        settings = self.settings
        name = f"{settings.seed}/{settings.run}/{settings.worker}/{self.count}"
        self.count += 1
        return draw(name, first=first, tensorflow=settings.worker in ("gw0", "alone"))

    def live(self, plan: Plan, request: pytest.FixtureRequest) -> None:
        """Start a cluster, work with it, let the faults come, and stop it."""
        asked = now()
        with ExitStack() as stack:
            cluster = _start(plan, request, stack)
            witness = self._witness(plan, cluster, asked)
            try:
                self._use(witness)
            finally:
                if plan.way in ("local", "shared"):
                    if witness not in self.up:
                        self.up.append(witness)
                else:
                    cluster.stop()
                    self.close(witness)

    def _witness(self, plan: Plan, cluster: LocalCluster, asked: float) -> Witness:
        for witness in self.up:
            if witness.cluster is cluster:
                witness.plan = plan
                return witness
        return Witness(plan, cluster, asked)

    def _use(self, witness: Witness) -> None:
        cluster, plan, began = witness.cluster, witness.plan, now()
        chance = plan.chance()
        try:
            witness.look()
            if not plan.faults or chance.random() < 0.5:  # faults also come to what was never used
                work(cluster, chance)
            for name in plan.faults:
                fault(name)(cluster, chance)
                witness.look()
                witness.survived.append(name)
            if plan.faults and plan.faults[-1] not in LAST:
                work(cluster, chance)
        except BaseException as error:
            error.add_note(f"cluster {plan}, faults: {', '.join(plan.faults) or 'none'}")
            raise
        finally:
            witness.look()
            witness.seconds = max(witness.seconds, now() - began)

    def close(self, witness: Witness) -> None:
        left = witness.close(self.settings)
        assert left == [], f"left of {witness.plan}"

    def close_stopped(self) -> None:
        """See what is left of those that were stopped since."""
        stopped = [witness for witness in self.up if witness.cluster._open is None]
        for witness in stopped:
            self.up.remove(witness)
            self.close(witness)


def _start(plan: Plan, request: pytest.FixtureRequest, stack: ExitStack) -> LocalCluster:
    way, fields = plan.way, dict(plan.fields)
    if way == "with":
        return stack.enter_context(LocalCluster(**fields))
    if way == "factory":
        made: LocalCluster = request.getfixturevalue("cluster_factory")(**fields)
        return made
    if way == "ancestor":
        workers, ps = create_local_cluster(fields.pop("workers"), fields.pop("ps"), **fields)
        return (*workers, *ps)[0].cluster
    if way == "shared":
        fields["scope"] = "module"
    request.node.add_marker(pytest.mark.cluster(**fields))
    found: LocalCluster = request.getfixturevalue("local_cluster")
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("number", range(math.ceil(Settings.from_environ().seconds / SLICE)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write down what failed; in the controller, which also knows of workers that crashed."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        text = report.longreprtext
        Settings.from_environ().write("failure", test=report.nodeid, when=report.when, text=text)


@pytest.fixture(scope="session")
def soak() -> Iterator[Soak]:
    soak = Soak()
    yield soak
    soak.close_stopped()
    assert soak.up == []
    write_process(soak.settings, [])


@pytest.fixture
def checked(soak: Soak) -> Iterator[Soak]:
    """See what is left of this test's clusters after the fixtures that stop them."""
    count = soak.count
    yield soak
    soak.close_stopped()
    if soak.count > count:
        write_process(soak.settings, [witness.cluster for witness in soak.up])


def test_clusters(number: int, checked: Soak, request: pytest.FixtureRequest) -> None:
    first, end = True, checked.settings.end
    while now() < end or (first and number == 0):  # one at least, however long pytest took to start
        checked.live(checked.next_plan(first=first), request)
        first, end = False, checked.slice_end(number)
