"""Sessions that are open when their cluster stops: TensorFlow would wait for it for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pytest_localcluster import LocalCluster

pytestmark = pytest.mark.needs("tensorflow")

MakeCluster = Callable[..., LocalCluster]


def variable(tf: Any, v1: Any) -> Any:
    with tf.device("/job:ps/task:0"):
        return v1.get_variable("v", initializer=7.0)


def test_a_session_left_open(tf: Any, v1: Any, make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    v = variable(tf, v1)
    sessions = [v1.Session(server.target) for server in cluster.servers]
    sessions.append(v1.Session(f"grpc://127.0.0.1:{cluster.workers[0].address.split(':')[1]}"))
    sessions[0].run(v.initializer)
    assert [session.run(v) for session in sessions] == [7] * 5
    cluster.stop()
    for session in sessions:
        with pytest.raises(RuntimeError, match="closed Session"):
            session.run(v)
        session.close()
    assert cluster.stop_seconds is not None
    assert cluster.stop_seconds < 1


def test_a_session_of_another_cluster_stays(tf: Any, v1: Any, make_cluster: MakeCluster) -> None:
    one, other = make_cluster(workers=1, ps=1), make_cluster(workers=1, ps=1)
    v = variable(tf, v1)
    with tf.Graph().as_default():
        constant, local = tf.constant(1), v1.Session()
    with v1.Session(other.workers[0].target) as session, local:
        session.run(v.initializer)
        one.stop()
        assert session.run(v) == 7
        assert local.run(constant) == 1


def test_a_step_under_way_ends(tf: Any, v1: Any, make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    with tf.device("/job:ps/task:1"):
        queue, begun = tf.queue.FIFOQueue(1, [tf.float32]), tf.queue.FIFOQueue(1, [tf.float32])
        with tf.control_dependencies([begun.enqueue(1.0)]):
            item = queue.dequeue()
        beginning = begun.dequeue()
    session = v1.Session(cluster.workers[0].target)
    failures = []

    def take() -> None:
        try:
            session.run(item)
        except tf.errors.OpError as error:
            failures.append(error)

    taking = threading.Thread(target=take)
    taking.start()
    session.run(beginning)
    cluster.stop()
    taking.join(20)
    assert not taking.is_alive()
    assert isinstance(failures[0], tf.errors.CancelledError)


@pytest.mark.parametrize("fault", ["kill", "suspend", "stop"])
def test_a_session_whose_server_is_gone_already(
    tf: Any, v1: Any, make_cluster: MakeCluster, fault: str
) -> None:
    cluster = make_cluster()
    v = variable(tf, v1)
    session = v1.Session(cluster.workers[0].target)
    session.run(v.initializer)
    getattr(cluster.workers[0], fault)()
    cluster.stop()
    with pytest.raises(RuntimeError, match="closed Session"):
        session.run(v)
    session.close()
    assert cluster.stop_seconds is not None
    assert cluster.stop_seconds < 3


def test_a_session_to_a_restarted_server_says_so(
    tf: Any, v1: Any, make_cluster: MakeCluster
) -> None:
    cluster = make_cluster()
    v = variable(tf, v1)
    session = v1.Session(cluster.workers[0].target)
    session.run(v.initializer)
    address = cluster.workers[0].address
    cluster.workers[0].restart()
    assert cluster.workers[0].address == address
    with pytest.raises(tf.errors.AbortedError, match="is not found"):
        session.run(v)
    with v1.Session(cluster.workers[0].target) as session:
        assert session.run(v) == 7, "it lives on a ps, which went on"


def test_a_session_waits_for_a_missing_peer_until_it_is_back(
    tf: Any, v1: Any, make_cluster: MakeCluster
) -> None:
    cluster = make_cluster(workers=2, ps=1)
    v = variable(tf, v1)
    cluster.workers[1].kill()
    found: list[Any] = []
    filters = ["/job:ps", "/job:worker/task:0"]
    with v1.Session(
        cluster.workers[0].target, config=v1.ConfigProto(device_filters=filters)
    ) as narrow:
        narrow.run(v.initializer)  # it does not look for the dead one
        with v1.Session(cluster.workers[0].target) as session:
            waiting = threading.Thread(target=lambda: found.append(session.run(v)))
            waiting.start()
            cluster.workers[1].restart()
            waiting.join(60)
    assert found == [7]


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


EXIT = """
from pytest_localcluster import create_local_cluster
{early}
workers, ps = create_local_cluster(1, 1, runtime="tensorflow")
{late}
with tf.Graph().as_default(), tf.device("/job:ps/task:0"):
    one = tf.constant(1)
    sessions = [tf.compat.v1.Session(server.target) for server in (*workers, *ps)]
print([int(session.run(one)) for session in sessions])
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_the_interpreter_exits_with_sessions_open(when: str) -> None:
    code = EXIT.format(**{"early": "", "late": "", when: "import tensorflow as tf"})
    assert python(code) == "[1, 1]\n"


def test_tensorflow_speaks_in_the_log_and_is_not_imported_for_the_test() -> None:
    code = """
import sys
from pytest_localcluster import LocalCluster
with LocalCluster(workers=1, ps=1, runtime="tensorflow") as cluster:
    assert cluster.run(lambda: sys.modules["tensorflow"].__name__) == ["tensorflow"]
    cluster.reset()
    for server in cluster.servers:
        assert f"Started server with target: {server.target}" in server.log.text()
print("tensorflow" in sys.modules)
"""
    assert python(code) == "False\n"
