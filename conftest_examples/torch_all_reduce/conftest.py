"""What the ranks of every test here are: workers forked from a process that has torch imported."""

from __future__ import annotations

import pytest

from pytest_localcluster import ClusterConfig


@pytest.fixture(scope="session")
def cluster_config() -> ClusterConfig:
    # torch._dynamo is what DistributedDataParallel imports. Together they may take many seconds
    # on a busy machine, and the first cluster waits for that.
    preload = ("torch", "torch._dynamo")
    return ClusterConfig(workers=4, ps=0, preload=preload, start_timeout=60)
