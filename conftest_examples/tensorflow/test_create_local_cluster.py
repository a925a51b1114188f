"""Code written for tf.test.create_local_cluster, unchanged; and what its servers could not do."""

from __future__ import annotations

import pytest
import tensorflow as tf

from pytest_localcluster import LocalCluster


# docs: ancestor
@pytest.mark.usefixtures("isolated")
def test_as_tensorflow_documents_it() -> None:
    workers, _ = tf.test.create_local_cluster(num_workers=2, num_ps=2)

    worker_sessions = [tf.compat.v1.Session(w.target) for w in workers]

    with tf.device("/job:ps/task:0"):
        weight = tf.compat.v1.get_variable("weight", initializer=3.0)
    with tf.device("/job:ps/task:1"):
        bias = tf.compat.v1.get_variable("bias", initializer=1.0)
    with tf.device("/job:worker/task:0"):
        product = weight * 2
    with tf.device("/job:worker/task:1"):
        result = product + bias

    worker_sessions[0].run([weight.initializer, bias.initializer])
    assert worker_sessions[0].run(result) == 7
    assert worker_sessions[1].run(weight.assign_add(1)) == 4
    assert worker_sessions[0].run(result) == 9


# docs: faults
@pytest.mark.cluster(workers=1, ps=2, runtime="tensorflow")
def test_what_is_lost_with_a_ps(local_cluster: LocalCluster) -> None:
    (worker,), ps = local_cluster
    with tf.Graph().as_default():
        with tf.device("/job:ps/task:0"):
            weight = tf.compat.v1.get_variable("weight", initializer=3.0)
        with tf.device("/job:ps/task:1"):
            bias = tf.compat.v1.get_variable("bias", initializer=1.0)
        with tf.compat.v1.Session(worker.target) as session:
            session.run([weight.initializer, bias.initializer])
            ps[0].kill()
            with pytest.raises((tf.errors.UnavailableError, tf.errors.AbortedError)):
                session.run(weight)
        ps[0].restart()
        with tf.compat.v1.Session(worker.target) as session:
            assert session.run(bias) == 1
            with pytest.raises(tf.errors.FailedPreconditionError, match="weight"):
                session.run(weight)
