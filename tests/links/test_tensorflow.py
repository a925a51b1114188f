"""Sessions of TensorFlow whose tasks lose each other."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_localcluster import LocalCluster, _clock


@pytest.mark.needs("tensorflow")
def test_a_session_amid_faults() -> None:
    import tensorflow as tf

    v1: Any = tf.compat.v1
    graph = v1.Graph()
    with graph.as_default():
        with v1.device("/job:ps/task:0"):
            total = v1.get_variable("total", initializer=1.0, use_resource=True)
        with v1.device("/job:worker/task:0"):
            twice = total.read_value() * 2.0
        begin = v1.global_variables_initializer()
    with LocalCluster(workers=1, ps=1, runtime="tensorflow", links=True) as cluster:
        with v1.Session(cluster.workers[0].target, graph=graph) as session:
            session.run(begin)
            assert session.run(twice) == 2
            with cluster.delay("worker", "ps", 0.2):
                began = _clock.now()
                assert session.run(twice) == 2
                assert _clock.now() - began >= 0.4
            with cluster.partition("worker", "ps"), pytest.raises(tf.errors.DeadlineExceededError):
                session.run(twice, options=v1.RunOptions(timeout_in_ms=500))
            assert session.run(twice) == 2
            with cluster.drop("worker", "ps"), pytest.raises(tf.errors.OpError):
                session.run(twice, options=v1.RunOptions(timeout_in_ms=20_000))
        with v1.Session(cluster.workers[0].target, graph=graph) as session:
            session.run(begin)
            assert session.run(twice) == 2
