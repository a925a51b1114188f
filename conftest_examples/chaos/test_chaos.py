"""Two workers train while faults come and go; what they lose is time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytest_localcluster import LocalCluster, Session, Variable, device, errors


def steps(workers: int, points: Any, values: Any) -> tuple[Variable, list[Any]]:
    """Return the line, and one step of gradient descent on the squared error for each worker."""
    with device("/job:ps/task:0"):
        line = Variable(np.zeros(2), name="line")
    found = []
    for index in range(workers):
        with device(f"/job:worker/task:{index}"):
            gradient = points.T @ (points @ line - values) / len(values)
        found.append(line.assign_sub(0.05 * gradient))
    return line, found


# docs: test
@pytest.mark.cluster(workers=2, ps=1, links=True)
def test_training_survives_what_a_network_does(
    local_cluster: LocalCluster, samples: tuple[Any, Any]
) -> None:
    line, descend = steps(2, *samples)
    with Session(local_cluster.ps[0].target) as session:
        session.run(line.initializer)
        kinds = ["suspend", "partition", "drop", "delay"]
        with local_cluster.chaos(seed=20, kinds=kinds, every=0.1, tasks="worker") as chaos:
            now = np.zeros(2)
            while len(chaos.happened) < 5 or not np.allclose(now, [3.0, -2.0], atol=0.01):
                for step in descend:
                    try:
                        now = session.run(step, timeout=0.2)
                    except errors.OpError as error:
                        print(f"a step was lost: {type(error).__name__}")
