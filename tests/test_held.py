"""What is written down is struck off when it is over, whether anybody looks for leaks or not."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from pytest_localcluster import LocalCluster, ServicerRuntime, _held
from pytest_localcluster._runtimes.native import server as native
from pytest_localcluster._clock import Deadline, poll
from tests.servicers.services import add_echo


@pytest.mark.parametrize("launcher", ["thread", "process"])
@pytest.mark.parametrize(
    "runtime", ["native", ServicerRuntime(worker=add_echo, ps=add_echo)], ids=["native", "own"]
)
def test_nothing_of_a_cluster_is_kept(launcher: str, runtime: Any) -> None:
    before = list(_held._register)
    with LocalCluster(runtime=runtime, launcher=launcher) as cluster:
        cluster.run(int)
        servers = [weakref.ref(server) for server in native._serving]
        del cluster
    assert list(_held._register) == before

    def gone() -> bool:
        gc.collect()
        return all(server() is None for server in servers)

    assert poll(gone, Deadline(20)), "gRPC's own threads let go of a server a moment later"
