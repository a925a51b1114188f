"""Three Ray nodes on this machine: enough to try what runs on more machines elsewhere."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from pytest_localcluster import ClusterConfig, RayLauncher


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **node})
    cluster.add_node(**node)
    cluster.add_node(**node)
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="session")
def cluster_config(ray_address: str) -> ClusterConfig:
    return ClusterConfig(workers=2, ps=1, launcher=RayLauncher(ray_address))
