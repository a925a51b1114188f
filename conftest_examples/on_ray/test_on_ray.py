"""A step over three nodes, and a parameter server that is killed on its node."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_localcluster import LocalCluster, Variable, device, errors


def test_a_step_and_a_death(local_cluster: LocalCluster) -> None:
    workers, (ps,) = local_cluster
    with device(ps.task):
        weights = Variable(np.zeros(10), name="weights")
    with local_cluster.session() as session:
        session.run(weights.initializer)
        with device(workers[1].task):
            gradient = weights.read() + 1
        session.run(weights.assign_sub(gradient))
        assert ps.variables()["weights"].sum() == -10

        ps.kill()
        with pytest.raises(errors.UnavailableError, match=ps.address):
            session.run(weights.read())
        ps.restart()
        session.run(weights.initializer)
        assert session.run(weights.read()).sum() == 0
