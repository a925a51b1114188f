"""Two ways to pay for a cluster once: a wider scope on the marker, or a fixture of your own."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_localcluster import LocalCluster, Variable, device, errors

# docs: scope
# The tests of this module that ask for local_cluster share one; it is reset before each of them.
pytestmark = pytest.mark.cluster(workers=1, ps=1, scope="module")


def total() -> Variable:
    with device("/job:ps/task:0"):
        return Variable(40, name="total")


def test_leaves_a_variable_behind(local_cluster: LocalCluster) -> None:
    with local_cluster.session() as session:
        session.run(total().initializer)
        assert session.run(total().assign_add(2)) == 42


def test_finds_none(local_cluster: LocalCluster) -> None:
    with (
        local_cluster.session() as session,
        pytest.raises(errors.FailedPreconditionError, match="total"),
    ):
        session.run(total().read())


# docs: fixture
@pytest.mark.parametrize("rows", [[3], [2, 5], [9, 9, 0]])
def test_looks_up_squares(table_cluster: LocalCluster, squares: Variable, rows: list[int]) -> None:
    with table_cluster.session() as session:
        found = session.run(np.take(squares.read(), rows))
    assert found.tolist() == [row**2 for row in rows]
