"""What is written to the primary is read from the replica, also when the primary is gone."""

from __future__ import annotations

import pytest
import redis

from pytest_localcluster import LocalCluster


# docs: test
def test_a_replica_has_what_its_primary_has(primary: redis.Redis, replica: redis.Redis) -> None:
    primary.set("capital", "Ottawa")
    assert primary.wait(1, timeout=5000) == 1  # one replica has it
    assert replica.get("capital") == "Ottawa"
    with pytest.raises(redis.ReadOnlyError):
        replica.set("capital", "Toronto")


# docs: faults
def test_a_replica_that_hangs(
    local_cluster: LocalCluster, primary: redis.Redis, replica: redis.Redis
) -> None:
    primary.set("capital", "Kingston")
    assert primary.wait(1, timeout=5000) == 1
    with local_cluster.jobs["replica"][0].suspended():
        primary.set("capital", "Ottawa")
        assert primary.wait(1, timeout=50) == 0
    assert primary.wait(1, timeout=5000) == 1
    assert replica.get("capital") == "Ottawa"


def test_the_replica_takes_over(
    local_cluster: LocalCluster, primary: redis.Redis, replica: redis.Redis
) -> None:
    primary.set("capital", "Ottawa")
    assert primary.wait(1, timeout=5000) == 1
    local_cluster.jobs["primary"][0].kill()
    with pytest.raises(redis.ConnectionError):
        primary.get("capital")
    replica.replicaof("NO", "ONE")
    replica.append("capital", ", Ontario")
    assert replica.get("capital") == "Ottawa, Ontario"
