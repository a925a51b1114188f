"""Clusters, their tasks, and what they serve."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, assert_type

import pytest

from pytest_localcluster import (
    ClusterConfig,
    ClusterError,
    ClusterSpec,
    CommandRuntime,
    ConfigProto,
    DeviceSpec,
    LocalCluster,
    NativeRuntime,
    PortError,
    PortLease,
    RayLauncher,
    Server,
    ServerExited,
    ServicerRuntime,
    SpecError,
    StartError,
    StartTimeout,
    StopError,
    Task,
    TensorFlowRuntime,
    UnsupportedError,
    create_local_cluster,
    current_task,
    errors,
    lease_port,
)


def shard() -> int:
    return int(current_task().env["SHARD"])


@pytest.mark.cluster(ps=2)
def test_a_cluster(local_cluster: LocalCluster) -> None:
    workers, ps = local_cluster
    assert_type(workers, list[Server])
    assert [server.address for server in ps] == local_cluster.spec.job_tasks("ps")
    assert_type(local_cluster.run(shard), list[int])
    assert local_cluster.run(shard) == [0, 1]
    assert_type(workers[0].run(os.getpid), int)
    assert workers[0].submit(os.getpid).result(timeout=10) == workers[0].pid
    with workers[1].suspended() as server:
        assert server.is_suspended()
    workers[1].kill()
    assert_type(workers[1].exitcode, int | None)
    workers[1].restart()
    with local_cluster.chaos(seed=7, kinds=["suspend"], every=0.01) as chaos:
        assert chaos.seed == 7
    assert set(local_cluster.environ()) >= {"TF_CONFIG"}


def test_clusters_of_ones_own(
    pair: LocalCluster, three: LocalCluster, cluster_factory: Callable[..., LocalCluster]
) -> None:
    assert len(pair.workers) == 2
    assert pair.workers[0].run(shard) == 0
    with pytest.raises(UnsupportedError):
        three.workers[0].kill()
    assert cluster_factory(workers=1, ps=0, launcher="thread").ps == []


def test_the_ancestor() -> None:
    config = ConfigProto(device_count={"CPU": 2})
    workers, ps = create_local_cluster(1, 1, worker_config=config, launcher="thread")
    assert_type(ps, list[Server])
    assert workers[0].server_def.job_name == "worker"
    assert workers[0].config == config


def test_specs() -> None:
    spec = ClusterSpec({"worker": ["localhost:1"], "ps": ["localhost:2"]})
    assert spec.tasks == [Task("worker", 0), Task("ps", 0)]
    assert ClusterSpec.from_tf_config(spec.tf_config()) == spec
    device = DeviceSpec.from_string("/job:ps/task:0")
    assert_type(device.job, str | None)
    with pytest.raises(SpecError, match="workers"):
        ClusterConfig().replace(workers=-1)


def test_ports(lease_port: Callable[[], PortLease]) -> None:
    assert lease_port().held


def test_a_port_without_a_fixture() -> None:
    with lease_port() as lease:
        assert_type(lease.port, int)


def test_runtimes() -> None:
    def nothing(server: Any, task: object) -> None: ...

    program = CommandRuntime(ps=[sys.executable, "-m", "http.server", "{port}"], ready="tcp")
    config = ClusterConfig(runtime={"worker": ServicerRuntime(worker=nothing), "ps": program})
    assert config.counts() == {"worker": 1, "ps": 1}
    assert ClusterConfig(runtime=NativeRuntime()).tasks() == [Task("worker", 0), Task("ps", 0)]
    assert TensorFlowRuntime(gpus=True).gpus
    assert_type(RayLauncher(address="10.0.0.1:6379").address, str | None)


def test_errors() -> None:
    for kind in (PortError, ServerExited, StartError, StartTimeout, StopError):
        error = kind("it did not work", task="/job:ps/task:0", pid=812, remedy="try again")
        assert_type(error.remedy, str | None)
        assert isinstance(error, ClusterError)
    assert issubclass(errors.UnavailableError, errors.OpError)


if TYPE_CHECKING:
    # Mistakes that a checker finds: each line would be an error if it did not.
    create_local_cluster("2", 1)  # type: ignore[arg-type]
    Task("ps", "0")  # type: ignore[arg-type]
    LocalCluster().workers[0].run(shard).upper()  # type: ignore[attr-defined]
    LocalCluster().partition("worker", 1)  # type: ignore[arg-type]
