"""A parameter server is killed in the middle of training; the run recovers from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_localcluster import LocalCluster, Session, Variable, current_task, device, errors


def line() -> Variable:
    with device("/job:ps/task:0"):
        return Variable(np.zeros(2), name="line")


def train(points: Any, values: Any, steps: int) -> None:
    """Runs in the worker's own process: gradient descent on the squared error."""
    weights = line()
    gradient = points.T @ (points @ weights - values) / len(values)
    step = weights.assign_sub(0.01 * gradient)
    with Session(current_task().target) as session:
        for _ in range(steps):
            session.run(step)


# docs: test
@pytest.mark.cluster(workers=1, ps=1)
def test_training_recovers_from_the_loss_of_a_ps(
    local_cluster: LocalCluster, samples: tuple[Any, Any], tmp_path: Path
) -> None:
    (worker,), (ps,) = local_cluster
    checkpoint = tmp_path / "line.npy"
    with local_cluster.session() as session:
        session.run(line().initializer)
        run = worker.submit(train, *samples, steps=1_000_000)
        halfway = session.run(line().read())
        while halfway[0] < 1.5 and not run.done():  # the worker is training
            halfway = session.run(line().read())
        np.save(checkpoint, halfway)

        ps.kill()
        with pytest.raises(errors.UnavailableError, match="/job:ps/task:0"):
            run.result(timeout=10)

        ps.restart()
        with pytest.raises(errors.FailedPreconditionError, match="line"):
            session.run(line().read())  # it came back at its old address, and empty
        session.run(line().assign(np.load(checkpoint)))
        worker.run(train, *samples, steps=500)  # from nothing it would take more
        assert np.allclose(session.run(line().read()), [3.0, -2.0], atol=0.015)
