"""What is written down is struck off when it is over, whether anybody looks for leaks or not."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_localcluster import LocalCluster, ServicerRuntime, _held
from tests.servicers.services import add_echo


@pytest.mark.parametrize("launcher", ["thread", "process"])
@pytest.mark.parametrize(
    "runtime", ["native", ServicerRuntime(worker=add_echo, ps=add_echo)], ids=["native", "own"]
)
def test_nothing_of_a_cluster_is_kept(launcher: str, runtime: Any) -> None:
    before = list(_held._register)
    with LocalCluster(runtime=runtime, launcher=launcher) as cluster:
        cluster.run(int)
        assert len(_held._register) > len(before)
    assert list(_held._register) == before
