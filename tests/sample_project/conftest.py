"""The clusters of this project."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_localcluster import ClusterConfig, LocalCluster, Task, cluster_fixture


def environment(task: Task) -> dict[str, str]:
    return {"SHARD": str(task.index)}


@pytest.fixture(scope="session")
def cluster_config() -> ClusterConfig:
    return ClusterConfig(workers=2, ps=1, env=environment)


pair = cluster_fixture(scope="module", launcher="thread")


@pytest.fixture
def three() -> Iterator[LocalCluster]:
    with LocalCluster(workers=3, ps=0, launcher="thread") as cluster:
        yield cluster
