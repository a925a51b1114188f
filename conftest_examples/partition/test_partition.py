"""A worker is cut off from the parameter server in the middle of training, and finds back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytest_localcluster import (
    LocalCluster,
    Session,
    Variable,
    current_task,
    device,
    errors,
    variables_initializer,
)


def model() -> tuple[Variable, Variable]:
    with device("/job:ps/task:0"):
        return Variable(np.zeros(2), name="line"), Variable(False, name="enough")


def train(points: Any, values: Any) -> int:
    """Runs in each worker's own process: gradient descent, until it is told that it is enough."""
    weights, enough = model()
    gradient = points.T @ (points @ weights - values) / len(values)
    step = [weights.assign_sub(0.05 * gradient), enough.read()]
    lost, over = 0, False
    with Session(current_task().target) as session:
        while not over:
            try:
                _, over = session.run(step, timeout=1.0)
            except errors.DeadlineExceededError:
                lost += 1
                print("no answer; trying again")
    return lost


# docs: test
@pytest.mark.cluster(workers=2, ps=1, links=True)
def test_a_worker_that_was_cut_off_goes_on(
    local_cluster: LocalCluster, samples: tuple[Any, Any]
) -> None:
    (one, other), (ps,) = local_cluster
    weights, enough = model()
    with local_cluster.session(ps) as session:
        session.run(variables_initializer([weights, enough]))
        runs = [worker.submit(train, *samples) for worker in (one, other)]
        while session.run(weights)[0] < 0.5:  # they are training
            assert not any(run.done() for run in runs)

        with local_cluster.partition(one, ps):
            while "no answer" not in one.log.text():
                session.run(weights)  # the test itself is never cut off, nor is the other worker
            assert not runs[0].done()

        while not np.allclose(session.run(weights), [3.0, -2.0], atol=0.01):
            assert not any(run.done() for run in runs)
        session.run(enough.assign(True))
        lost, _ = (run.result(timeout=30) for run in runs)
    assert lost >= 1  # steps that were given up, and tried again
