"""reset(): what is gone, what stays, and with whom it does not wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from pytest_localcluster import LocalCluster
from pytest_localcluster._clock import Deadline, poll

pytestmark = pytest.mark.needs("tensorflow")

MakeCluster = Callable[..., LocalCluster]


def test_variables_queues_and_sessions_are_gone(
    tf: Any, v1: Any, make_cluster: MakeCluster
) -> None:
    cluster = make_cluster()
    pids = [server.pid for server in cluster.servers]
    with tf.device("/job:ps/task:0"):
        resource = v1.get_variable("resource", initializer=1.0, use_resource=True)
    with tf.device("/job:ps/task:1"):
        reference = v1.get_variable("reference", initializer=2.0, use_resource=False)
    with tf.device("/job:worker/task:1"):
        queue = tf.queue.FIFOQueue(9, [tf.float32], shared_name="shared")
        put, size = queue.enqueue(1.0), queue.size()
    initializers = [resource.initializer, reference.initializer]
    for _ in range(2):
        sessions = [v1.Session(server.target) for server in cluster.servers]
        sessions[0].run([*initializers, put])
        assert [session.run(size) for session in sessions] == [1] * 4
        assert sessions[3].run([resource, reference]) == [1, 2]
        cluster.reset()
        for session in sessions:
            with pytest.raises(tf.errors.AbortedError, match="is not found"):
                session.run(size)
        with v1.Session(cluster.workers[0].target) as session:
            assert session.run(size) == 0
            for variable in (resource, reference):
                with pytest.raises(tf.errors.FailedPreconditionError, match=variable.op.name):
                    session.run(variable)
    assert [server.pid for server in cluster.servers] == pids, "in place"


def test_a_step_under_way_is_aborted(tf: Any, v1: Any, make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=1, ps=1)
    with tf.device("/job:ps/task:0"):
        begun = v1.get_variable("begun", initializer=0)
        queue = tf.queue.FIFOQueue(1, [tf.float32])
        with tf.control_dependencies([begun.assign_add(1)]):
            item = queue.dequeue()
    session = v1.Session(cluster.workers[0].target)
    session.run(begun.initializer)
    failures = []

    def take() -> None:
        try:
            session.run(item)
        except tf.errors.OpError as error:
            failures.append(error)

    taking = threading.Thread(target=take)
    taking.start()
    with v1.Session(cluster.ps[0].target) as watching:
        assert poll(lambda: watching.run(begun) == 1, Deadline(20))
    cluster.reset()
    taking.join(20)
    assert isinstance(failures[0], (tf.errors.CancelledError, tf.errors.AbortedError))


def test_what_an_eager_coordinator_keeps_is_its_own(
    tf: Any, v1: Any, make_cluster: MakeCluster
) -> None:
    cluster = make_cluster(jobs={"chief": 1})
    (chief,) = cluster.jobs["chief"]

    def connect() -> tuple[float, str]:
        import builtins

        import tensorflow as tf

        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        strategy = tf.distribute.ParameterServerStrategy(resolver)
        with strategy.scope():
            variable = tf.Variable(5.0, name="same")
        builtins.kept = strategy, variable  # type: ignore[attr-defined]
        return float(variable), variable.device

    def read() -> float:
        import builtins

        return float(builtins.kept[1])  # type: ignore[attr-defined]

    with tf.device("/job:ps/task:0"):
        same = v1.get_variable("same", initializer=1.0, use_resource=True)
    assert chief.run(connect) == (5, "/job:ps/replica:0/task:0/device:CPU:0")
    with v1.Session(cluster.workers[0].target) as session:
        with pytest.raises(tf.errors.FailedPreconditionError, match="same"):
            session.run(same)
        session.run(same.initializer)
        assert session.run(same) == 1
    assert chief.run(read) == 5
    cluster.reset()
    assert chief.run(read) == 5
    chief.restart()
    assert chief.run(connect)[0] == 5, "at the address that TensorFlow had bound before"
