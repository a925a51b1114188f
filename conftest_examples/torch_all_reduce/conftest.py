"""What the ranks of every test here are: workers forked from a process that has torch imported."""

from __future__ import annotations

import pytest

from pytest_localcluster import ClusterConfig


@pytest.fixture(scope="session")
def cluster_config() -> ClusterConfig:
    # torch._dynamo is what DistributedDataParallel imports, and takes two seconds to do so.
    return ClusterConfig(workers=4, ps=0, preload=("torch", "torch._dynamo"))
