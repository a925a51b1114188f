"""Run this with ``pytest -n 4``: every test has a cluster of its own, and no two ever meet."""

from __future__ import annotations

import pytest

from pytest_localcluster import LocalCluster, Session, Variable, current_task, device


def add_often(times: int) -> None:
    """Runs in a worker's own process."""
    with device("/job:ps/task:0"):
        total = Variable(0, name="total")
    with Session(current_task().target) as session:
        for _ in range(times):
            session.run(total.assign_add(1))


@pytest.mark.parametrize("times", range(1, 9))
def test_nobody_else_adds_to_this_total(local_cluster: LocalCluster, times: int) -> None:
    with device("/job:ps/task:0"):
        total = Variable(0, name="total")  # the same name in every test
    with local_cluster.session() as session:
        session.run(total.initializer)
        local_cluster.run(add_often, times, job="worker")
        assert session.run(total.read()) == 2 * times
