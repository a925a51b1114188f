"""Tests of several workers on one cluster, none of which meets what another one does there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pytest_localcluster import ConfigProto, LocalCluster, Variable, device


@pytest.mark.parametrize("rows", [[3], [2, 5], [9, 9, 0]])
def test_looks_up_squares(run_cluster: LocalCluster, squares: Variable, rows: list[int]) -> None:
    with run_cluster.session() as session:
        found = session.run(np.take(squares.read(), rows))
    assert found.tolist() == [row**2 for row in rows]


# docs: names
@pytest.mark.parametrize("steps", range(1, 4))
def test_counts(run_cluster: LocalCluster, own: Callable[[str], str], steps: int) -> None:
    with device("/job:ps/task:0"):
        total = Variable(0, name=own("total"))
    with run_cluster.session() as session:
        session.run(total.initializer)
        for _ in range(steps):
            session.run(total.assign_add(1))
        assert session.run(total.read()) == steps


# docs: containers
@pytest.mark.parametrize("steps", range(1, 4))
def test_counts_alone(run_cluster: LocalCluster, steps: int) -> None:
    with device("/job:ps/task:0"):
        total = Variable(0, name="total")
    # Its variables are in a container of its own: no other session sees them, and they go with it.
    with run_cluster.session(config=ConfigProto(isolate_session_state=True)) as session:
        session.run(total.initializer)
        for _ in range(steps):
            session.run(total.assign_add(1))
        assert session.run(total.read()) == steps
