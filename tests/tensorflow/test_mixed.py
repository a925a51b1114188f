"""TensorFlow beside other runtimes: its sessions see the TensorFlow jobs alone, and no other's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_localcluster import CommandRuntime, LocalCluster, ServicerRuntime
from tests.command.commands import SERVE

pytestmark = pytest.mark.needs("tensorflow")

MakeCluster = Callable[..., LocalCluster]


def add_nothing(server: object, task: object) -> None:
    """The health service comes by itself."""


OTHERS = {
    "native": "native",
    "servicers": ServicerRuntime(ps=add_nothing),
    "command": CommandRuntime(ps=SERVE),
}


@pytest.mark.parametrize("other", OTHERS)
def test_sessions_do_without_the_other_jobs(
    tf: Any, v1: Any, make_cluster: MakeCluster, other: str
) -> None:
    cluster = make_cluster({"worker": "tensorflow", "ps": OTHERS[other]}, ps=1)
    with tf.device("/job:worker/task:1"):
        v = v1.get_variable("v", initializer=7.0)
    config = v1.ConfigProto(operation_timeout_in_ms=30_000)  # it would wait for ever
    with v1.Session(cluster.workers[0].target, config=config) as session:
        session.run(v.initializer)
        assert session.run(v + 1) == 8
        devices = [device.name for device in session.list_devices()]
    assert {name.split("/replica")[0] for name in devices} == {"/job:worker"}


def test_a_session_to_another_runtime_is_told_what_to_ask_for(
    tf: Any, v1: Any, make_cluster: MakeCluster
) -> None:
    cluster = make_cluster("native", workers=1, ps=0)
    x = tf.constant(1)
    with pytest.raises(tf.errors.UnimplementedError) as caught:
        v1.Session(cluster.workers[0].target).run(x)
    assert "is no TensorFlow server" in str(caught.value)
    assert "ask for a cluster with runtime='tensorflow'" in str(caught.value)
