"""What partition(), delay(), drop() and heal() take and refuse, and how faults come and go."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_localcluster import (
    ClusterError,
    CommandRuntime,
    LocalCluster,
    ServerExited,
    Session,
    SpecError,
    Task,
    UnsupportedError,
    constant,
)
from pytest_localcluster._links import UNTROUBLED, Condition
from pytest_localcluster._net import Fault

W0, W1, PS0 = Task("worker", 0), Task("worker", 1), Task("ps", 0)


@pytest.fixture(scope="module")
def running() -> Iterator[LocalCluster]:
    with LocalCluster(workers=2, ps=1, launcher="thread", links=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: LocalCluster) -> Iterator[LocalCluster]:
    yield running
    running.heal()


def condition(cluster: LocalCluster, a: Task, b: Task) -> Condition:
    there, back = (cluster._net._condition(pair) for pair in ((a, b), (b, a)))
    assert there == back
    return there


@pytest.mark.parametrize(
    "name",
    [
        lambda cluster: cluster.ps[0],
        lambda cluster: cluster.ps,
        lambda cluster: PS0,
        lambda cluster: "/job:ps/task:0",
        lambda cluster: "/job:ps/replica:0/task:0/device:CPU:0",
        lambda cluster: "/job:ps",
        lambda cluster: "ps",
        lambda cluster: ["ps", PS0, cluster.ps[0]],
        lambda cluster: iter([PS0]),
    ],
)
def test_ways_to_name_a_task(cluster: LocalCluster, name: Callable[[LocalCluster], Any]) -> None:
    with cluster.drop(cluster.workers[0], name(cluster)) as fault:
        assert condition(cluster, W0, PS0) == Condition(cut=True)
        assert condition(cluster, W1, PS0) == UNTROUBLED
        assert repr(fault) == (
            "<Fault: drop between /job:worker/task:0 and /job:ps/task:0: in force>"
        )
    assert condition(cluster, W0, PS0) == UNTROUBLED
    assert repr(fault).endswith(": healed>")


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("/job:ps/task:1", "worker", "has no task /job:ps/task:1\n.*/job:worker/task:1, /job:ps/"),
        ("chief", "worker", "has no job 'chief'\n.*its jobs are worker, ps"),
        ("/device:CPU:0", "worker", "has no job '/device:CPU:0'"),
        ("/job:ps/shard:0", "worker", "'shard:0' is not understood"),
        ("ps", "/job:ps/task:0", "/job:ps/task:0 is on both sides of a partition"),
        ("worker", [W1, PS0], "/job:worker/task:1 is on both sides"),
        ([], "worker", r"\[\] names no task"),
        (0, "worker", "0 is no task"),
        ("worker", None, "None is no task"),
    ],
)
def test_what_is_between_no_two_tasks(cluster: LocalCluster, a: Any, b: Any, message: str) -> None:
    with pytest.raises(SpecError, match=f"(?s){message}"):
        cluster.partition(a, b)
    assert cluster._net.in_force == []


def test_a_task_of_another_cluster(cluster: LocalCluster) -> None:
    with (
        LocalCluster(workers=1, ps=0, launcher="thread") as other,
        pytest.raises(SpecError, match="this cluster has no task <Server /job:worker/task:0"),
    ):
        cluster.drop(other.workers[0], "ps")


@pytest.mark.parametrize("seconds", [-1, -0.1, float("nan"), float("inf"), True, None, "1"])
def test_no_delay(cluster: LocalCluster, seconds: Any) -> None:
    with pytest.raises(SpecError, match=r"no byte can come that much later\n.*from 0 up"):
        cluster.delay("worker", "ps", seconds)


def test_faults_on_one_link_add_up_and_heal_one_by_one(cluster: LocalCluster) -> None:
    slow = cluster.delay("worker", "ps", 1)
    with cluster.delay(W0, "ps", 0.5), cluster.partition(W0, "ps"):
        assert condition(cluster, W0, PS0) == Condition(held=True, delay=1.5)
        assert condition(cluster, W1, PS0) == Condition(delay=1)
        assert condition(cluster, W0, W1) == UNTROUBLED
        with cluster.drop("ps", W0), cluster.partition(W0, W1):
            assert condition(cluster, W0, PS0) == Condition(cut=True, held=True, delay=1.5)
            assert condition(cluster, W0, W1) == Condition(held=True)
        slow.heal()
        assert condition(cluster, W0, PS0) == Condition(held=True, delay=0.5)
    assert condition(cluster, W0, PS0) == UNTROUBLED
    slow.heal()
    twice = [cluster.partition("worker", "ps") for _ in range(2)]
    twice[0].heal()
    assert condition(cluster, W0, PS0) == Condition(held=True)
    cluster.heal()
    assert cluster._net.in_force == []
    with twice[1]:
        assert condition(cluster, W0, PS0) == UNTROUBLED, "what was healed stays so"


def test_a_fault_is_healed_when_its_block_fails(cluster: LocalCluster) -> None:
    with pytest.raises(KeyError), cluster.partition("worker", "ps"):
        raise KeyError
    assert condition(cluster, W0, PS0) == UNTROUBLED


VERBS: list[Callable[[LocalCluster], Fault | None]] = [
    lambda cluster: cluster.partition("worker", "ps"),
    lambda cluster: cluster.delay("worker", "ps", 1),
    lambda cluster: cluster.drop("worker", "ps"),
    lambda cluster: cluster.heal(),
]


def test_without_links() -> None:
    with LocalCluster(launcher="thread") as cluster:
        for verb, name in zip(VERBS, ("partition", "delay", "drop", "heal"), strict=True):
            with pytest.raises(
                UnsupportedError, match=rf"cluster cannot {name}: .* directly\n.*links=True"
            ):
                verb(cluster)


def test_of_a_cluster_that_does_not_run() -> None:
    cluster = LocalCluster(launcher="thread", links=True)
    for verb in VERBS:
        with pytest.raises(ClusterError, match="does not run: it cannot"):
            verb(cluster)


def test_the_links_die_and_say_so() -> None:
    with LocalCluster(launcher="thread", links=True) as cluster:
        fault = cluster.partition("worker", "ps")
        (links,) = cluster._net.servers
        links.kill()
        attempts: list[Callable[[], object]] = [lambda: cluster.drop("worker", "ps"), fault.heal]
        for attempt in attempts:
            with pytest.raises(ServerExited, match="/job:links/task:0 was killed by SIGKILL"):
                attempt()


def test_programs_are_given_links_as_hosts() -> None:
    say = ["sh", "-c", 'echo "$0 $1 $2"; echo done; exec sleep 1000']
    command = [*say, "{hosts[ps]}", "{address}", "{tf_config}"]
    runtime = CommandRuntime(worker=command, ps=command, ready=re.compile("done\n"))
    with LocalCluster(workers=1, ps=2, runtime=runtime, links=True) as cluster:
        hosts, own, tf_config = cluster.ps[0].log.text().splitlines()[0].split(" ", 2)
        assert own == cluster.ps[0].address
        assert hosts.split(",")[0] == own
        assert hosts.split(",")[1] != cluster.ps[1].address
        assert json.loads(tf_config)["cluster"]["ps"] == hosts.split(",")


def test_an_address_from_the_test_leads_past_the_links() -> None:
    with LocalCluster(workers=1, ps=1, links=True) as cluster, cluster.partition("worker", "ps"):

        def ask(target: str) -> int:
            with Session(target) as session:
                return int(session.run(constant(os.getpid()) * 0 + 7, timeout=20))

        assert cluster.workers[0].run(ask, cluster.ps[0].target, timeout=30) == 7
        assert cluster.ps[0].variables() == {}
