"""Two jobs of redis-server: a primary, and a replica that follows it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pytest_localcluster import ClusterConfig, CommandRuntime, LocalCluster, Server

# docs: start
# Nothing goes to the disk, and no replica waits five seconds for others to join.
OPTIONS = "--save '' --repl-diskless-load swapdb --repl-diskless-sync-delay 0 --bind 127.0.0.1"
PRIMARY = ["redis-server", "--port", "{port}", *shlex.split(OPTIONS)]
REPLICA = [*PRIMARY, "--replicaof", "{host[primary]}", "{port[primary]}"]


def connect(server: Server) -> redis.Redis:
    host, _, port = server.address.rpartition(":")
    at_once = Retry(NoBackoff(), 0)  # a test of faults waits for nobody
    return redis.Redis(host, int(port), decode_responses=True, retry=at_once)


def follows(server: Server) -> bool:
    """Tell whether a replica has all that its primary had."""
    with connect(server) as client:
        status: str = client.info("replication")["master_link_status"]
        return status == "up"


@pytest.fixture(scope="session")
def cluster_config() -> ClusterConfig:
    servers = CommandRuntime(
        primary=PRIMARY, replica=REPLICA, ready={"primary": "tcp", "replica": follows}
    )
    jobs = {"primary": 1, "replica": 1}
    return ClusterConfig(workers=0, ps=0, jobs=jobs, runtime=servers)


# docs: clients
@pytest.fixture
def primary(local_cluster: LocalCluster) -> Iterator[redis.Redis]:
    with connect(local_cluster.jobs["primary"][0]) as client:
        yield client


@pytest.fixture
def replica(local_cluster: LocalCluster) -> Iterator[redis.Redis]:
    with connect(local_cluster.jobs["replica"][0]) as client:
        yield client
