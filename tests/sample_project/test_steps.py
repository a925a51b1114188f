"""Steps across the tasks of a cluster."""

from __future__ import annotations

import numpy as np

from pytest_localcluster import (
    LocalCluster,
    Session,
    Variable,
    constant,
    control_dependencies,
    current_task,
    device,
    function,
    group,
    placeholder,
    replica_device_setter,
    variables_initializer,
)


@function
def where() -> str:
    return str(current_task().task)


def test_a_step(pair: LocalCluster) -> None:
    with device(replica_device_setter(cluster=pair.spec)):
        weights = Variable(np.zeros(3), name="weights")
        bias = Variable(0.0, name="bias")
    with device(pair.workers[1]):
        x = placeholder(np.float64, shape=[3], name="x")
        y = np.sum(weights * x) + bias + constant(1.0)
        task = where()
    with control_dependencies([bias.assign(2.0)]):
        train = group(weights.assign_add(x))
    with Session(pair.workers[0].target) as session, pair.session("/job:ps/task:0") as other:
        session.run(variables_initializer([weights, bias]))
        session.run(train, feed_dict={x: [1.0, 2.0, 3.0]}, timeout=10)
        step = session.make_callable([y, task], feed_list=[x])
        assert step([1.0, 1.0, 1.0]) == [9.0, "/job:worker/task:1"]
        assert other.run({"bias": bias})["bias"] == 2.0
    assert pair.ps[0].variables()["weights"].tolist() == [1.0, 2.0, 3.0]
