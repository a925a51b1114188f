"""Where operations go, and what is said where they cannot."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from pytest_localcluster._config import ClusterConfig
from pytest_localcluster._proto.config_pb2 import ConfigProto
from pytest_localcluster._proto.master_pb2 import ListDevicesRequest
from pytest_localcluster._proto.worker_pb2 import GetStatusRequest
from pytest_localcluster._runtimes.native import RUNTIME
from pytest_localcluster.errors import InvalidArgumentError, SpecError
from tests.native.conftest import METADATA, Cluster, Failed, counted
from tests.native.nodes import call

PS0, W1 = "/job:ps/task:0", "/job:worker/task:1"


def where(cluster: Cluster, device: str, name: str = "/job:worker/task:0", **config: Any) -> str:
    """Return the task on which an operation with that device runs."""
    session = cluster.session(name, **config)
    session.add(call("op", lambda: _task(), device=device))
    return str(session.run("op:0"))


def _task() -> str:
    from pytest_localcluster._context import current_task

    return str(current_task().task)


@pytest.mark.parametrize(
    ("device", "task"),
    [
        ("", W1),
        ("/job:worker", W1),
        ("/task:0", "/job:worker/task:0"),
        ("/job:ps", PS0),
        ("/job:ps/task:1", "/job:ps/task:1"),
        ("/job:ps/replica:0/task:0/device:CPU:0", PS0),
        ("/cpu:0", W1),
        ("/device:cpu:0", W1),
        ("/device:CPU:*", W1),
    ],
)
def test_what_a_device_leaves_out_is_the_sessions_own_target(
    cluster: Cluster, device: str, task: str
) -> None:
    assert where(cluster, device, W1) == task


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("/job:ps/task:2", "the cluster has no /job:ps/task:2; its tasks are /job:ps/task:0, "),
        ("/job:chief", "the cluster has no /job:chief/task:0; its tasks are /job:ps/task:0, "),
        ("/job:ps/replica:1/task:0", "every task has one replica only"),
        ("/job:ps/task:x", "names no device"),
        ("nonsense", "'nonsense' is not understood"),
    ],
)
def test_a_device_that_cannot_be_is_named(cluster: Cluster, device: str, message: str) -> None:
    with pytest.raises(Failed, match=message) as caught:
        where(cluster, device, allow_soft_placement=True)
    assert f"operation 'op' cannot be placed on {device!r}" in str(caught.value)
    assert caught.value.code == InvalidArgumentError.code
    assert (caught.value.status.op, caught.value.status.device) == ("op", device)


@pytest.mark.parametrize("device", ["/job:ps/task:0/device:GPU:0", "/job:ps/task:0/device:CPU:1"])
def test_a_device_that_a_task_lacks_is_an_error_or_gives_way(
    cluster: Cluster, device: str, shared: Any
) -> None:
    with pytest.raises(Failed, match="cannot be placed on .*: its task has only /job:ps") as caught:
        where(cluster, device)
    assert caught.value.code == InvalidArgumentError.code
    assert caught.value.status.op == "op"
    assert "set allow_soft_placement" in str(caught.value)
    assert where(cluster, device, allow_soft_placement=True) == PS0


def test_the_servers_config_is_the_default_of_its_sessions(make_cluster: Any) -> None:
    cluster = make_cluster(1, 1, config=ConfigProto(allow_soft_placement=True))
    assert where(cluster, "/job:ps/task:0/device:GPU:3") == PS0
    with pytest.raises(Failed, match="its task has only"):
        where(cluster, "/job:ps/task:0/device:GPU:3", log_device_placement=True)


def test_a_task_has_as_many_devices_as_its_config_says(
    make_cluster: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = make_cluster(1, 1, configs={PS0: ConfigProto(device_count={"CPU": 2, "GPU": 1})})
    answer = cluster.worker(PS0).GetStatus(GetStatusRequest(), metadata=METADATA)
    devices = [(d.name, d.device_type) for d in answer.device_attributes]
    prefix = "/job:ps/replica:0/task:0/device:"
    assert devices == [
        (f"{prefix}CPU:0", "CPU"),
        (f"{prefix}CPU:1", "CPU"),
        (f"{prefix}GPU:0", "GPU"),
    ]
    session = cluster.session(log_device_placement=True)
    session.add(
        call("a", counted("a"), device=f"{PS0}/cpu:1"),
        call("b", np.negative, "a:0", device=f"{PS0}/device:GPU:0"),
        call("c", np.negative, "b:0"),
    )
    assert session.run("c:0") == 1
    log = capsys.readouterr().err.splitlines()
    assert sorted(log) == [
        f"a: (Function): {prefix}CPU:1",
        f"b: (Function): {prefix}GPU:0",
        "c: (Function): /job:worker/replica:0/task:0/device:CPU:0",
    ]
    session.run("c:0")
    assert capsys.readouterr().err == ""  # once for each kind of step


def test_filters_hide_tasks_from_a_session(cluster: Cluster) -> None:
    filters = ["/job:ps/task:0", "/job:worker/task:0"]
    assert where(cluster, PS0, device_filters=filters) == PS0
    with pytest.raises(
        Failed, match=r"device_filters \[.*\] leave /job:worker/task:1 out"
    ) as caught:
        where(cluster, W1, device_filters=filters)
    assert "it may use /job:ps/task:0, /job:worker/task:0" in str(caught.value)
    # The session's own task is never hidden.
    assert where(cluster, "", W1, device_filters=["/job:ps"]) == W1
    with pytest.raises(grpc.RpcError, match="in device_filters, '/nonsense' names no device"):
        cluster.session(device_filters=["/nonsense"])


def test_devices_are_listed_for_all_tasks_that_a_session_sees(cluster: Cluster) -> None:
    def listed(handle: str) -> tuple[list[str], list[str]]:
        answer = cluster.master().ListDevices(
            ListDevicesRequest(session_handle=handle), metadata=METADATA, timeout=20
        )
        return [d.name for d in answer.local_device], [d.name for d in answer.remote_device]

    def cpu(job: str, task: int) -> str:
        return f"/job:{job}/replica:0/task:{task}/device:CPU:0"

    here = [cpu("worker", 0)]
    assert listed("") == (here, [cpu("ps", 0), cpu("ps", 1), cpu("worker", 1)])
    session = cluster.session(device_filters=["/job:ps/task:1"])
    assert listed(session.handle) == (here, [cpu("ps", 1)])
    cluster.servers.pop(PS0).stop()
    with pytest.raises(
        grpc.RpcError, match="/job:ps/task:0 at localhost:.* not be reached"
    ) as caught:
        listed("")
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_impossible_device_counts_are_refused() -> None:
    for counts in ({"CPU": -1}, {"not a type": 1}):
        config = ClusterConfig(ps_config=ConfigProto(device_count=counts))
        with pytest.raises(SpecError, match="ps_config.device_count.* is -?1: no task can have"):
            RUNTIME.check(config, ["worker", "ps"])
        RUNTIME.check(config, ["worker"])
    fine = ClusterConfig(worker_config=ConfigProto(device_count={"CPU": 4}))
    RUNTIME.check(fine, ["worker", "ps"])
