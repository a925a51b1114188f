"""One cluster for a whole run, however many workers pytest-xdist has, and what its tests share."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from pytest_localcluster import LocalCluster, Variable, cluster_fixture, device

run_cluster = cluster_fixture(scope="run", workers=2, ps=1)


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Make names of the test's own: a variable lives on its task, under its name, for everybody."""
    test = re.sub(r"\W", "_", request.node.nodeid)
    return lambda name: f"{test}/{name}"


@pytest.fixture(scope="session")
def squares(run_cluster: LocalCluster) -> Variable:
    """A table on the ps. Every worker fills it: so each finds it, and all with the same."""
    with device("/job:ps/task:0"):
        table = Variable(np.arange(100) ** 2, name="squares")
    with run_cluster.session() as session:
        session.run(table.initializer)
    return table
