"""The smallest test of a cluster: two workers and a parameter server, each a process."""

from __future__ import annotations

import os

import pytest

from pytest_localcluster import LocalCluster


# docs: start
@pytest.mark.cluster(workers=2, ps=1)
def test_every_task_is_a_process_of_its_own(local_cluster: LocalCluster) -> None:
    workers, ps = local_cluster
    pids = [server.run(os.getpid) for server in [*workers, *ps]]
    assert len({os.getpid(), *pids}) == 4
