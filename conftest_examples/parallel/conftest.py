"""What every cluster of this folder is, unless a marker says more: the one place to override."""

from __future__ import annotations

import pytest

from pytest_localcluster import ClusterConfig


@pytest.fixture(scope="session")
def cluster_config() -> ClusterConfig:
    return ClusterConfig(workers=2, ps=1)
