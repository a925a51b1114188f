"""A cluster under a name of your own, that other fixtures of its scope can use."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_localcluster import LocalCluster, Variable, cluster_fixture, device

table_cluster = cluster_fixture(scope="module", workers=1, ps=1)


@pytest.fixture(scope="module")
def squares(table_cluster: LocalCluster) -> Variable:
    """A table on the ps, filled once for all tests of a module."""
    with device("/job:ps/task:0"):
        table = Variable(np.arange(100) ** 2, name="squares")
    with table_cluster.session() as session:
        session.run(table.initializer)
    return table
