"""A cluster amid chaos(): what happens to it and what is left afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pytest_localcluster import ClusterError, LocalCluster, Server, Task, errors
from pytest_localcluster._chaos import KINDS, Chaos, Disturbance
from pytest_localcluster._clock import Deadline, poll


@pytest.fixture(scope="module")
def running() -> Iterator[LocalCluster]:
    with LocalCluster(workers=2, ps=1, links=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: LocalCluster) -> LocalCluster:
    running.reset()
    return running


def await_disturbances(chaos: Chaos, count: int) -> None:
    assert poll(lambda: len(chaos.happened) >= count, Deadline(60)), repr(chaos)


def assert_whole(cluster: LocalCluster) -> None:
    assert [server.run(os.getpid, timeout=30) for server in cluster.servers] == [
        server.pid for server in cluster.servers
    ]
    assert not cluster._net.in_force
    assert not any(server.is_suspended() for server in cluster.servers)


@pytest.mark.parametrize("kind", KINDS)
def test_all_is_undone_in_the_end(cluster: LocalCluster, kind: str) -> None:
    pids = [server.pid for server in cluster.servers]
    with cluster.chaos(1, kinds=[kind], every=0.02) as chaos:
        await_disturbances(chaos, 4)
    assert {one.kind for one in chaos.happened} == {kind}
    assert_whole(cluster)
    assert ([server.pid for server in cluster.servers] != pids) == (kind == "kill")


def test_what_happens_is_what_the_seed_says(cluster: LocalCluster) -> None:
    plan = cluster.chaos("seed", every=0.02).upcoming(5)
    with cluster.chaos("seed", every=0.02) as chaos:
        await_disturbances(chaos, 5)
    assert chaos.happened[:5] == plan
    lines = str(chaos).splitlines()
    assert lines[0].startswith(f"chaos(seed='seed', kinds={KINDS}, every=0.02)")
    for line, disturbance in zip(lines[1:], chaos.happened, strict=True):
        assert f" s  {disturbance}; undone by " in line


def test_it_is_for_one_block(cluster: LocalCluster) -> None:
    chaos = cluster.chaos(1)
    with chaos:
        pass
    with pytest.raises(ClusterError, match="this chaos has been\n.*call chaos\\(\\) again"), chaos:
        pass


def test_what_the_test_has_suspended_stays_so(cluster: LocalCluster) -> None:
    (ps,) = cluster.ps
    chaos = cluster.chaos(1, kinds=["suspend"])
    chaos._plan = iter([Disturbance(0.0, "suspend", (ps.task,), (), 0.0)])
    with ps.suspended():
        with chaos:
            await_disturbances(chaos, 1)
        assert ps.is_suspended()
    assert str(chaos).endswith(": nothing happened, /job:ps/task:0 is suspended already")


def test_looking_ahead_changes_nothing(cluster: LocalCluster) -> None:
    chaos = cluster.chaos(3)
    assert chaos.upcoming(2) == chaos.upcoming(3)[:2]
    assert repr(chaos) == "<Chaos of seed 3: not begun, 0 disturbances>"


@pytest.mark.parametrize("kind", ["kill", "suspend", "partition", "drop", "delay"])
def test_one_that_is_in_force_at_the_end_is_undone(cluster: LocalCluster, kind: str) -> None:
    with cluster.chaos(5, kinds=[kind], every=0.05) as chaos:
        # From here on each lasts for as long as the block.
        chaos._plan = iter([Disturbance(0.0, kind, (cluster.ps[0].task,), others(kind), 1e6)])
        await_disturbances(chaos, 1)
        assert poll(lambda: is_in_force(cluster, kind), Deadline(30))
    assert_whole(cluster)


def others(kind: str) -> tuple[Task, ...]:
    return () if kind in ("kill", "suspend") else (Task("worker", 0), Task("worker", 1))


def is_in_force(cluster: LocalCluster, kind: str) -> bool:
    (ps,) = cluster.ps
    if kind == "kill":
        return not ps.is_alive()
    return ps.is_suspended() if kind == "suspend" else bool(cluster._net.in_force)


@pytest.mark.parametrize("kind", ["kill", "suspend"])
def test_a_task_that_the_test_has_ended_is_left_alone(cluster: LocalCluster, kind: str) -> None:
    (ps,) = cluster.ps
    ps.kill()
    chaos = cluster.chaos(1, kinds=[kind])
    chaos._plan = iter([Disturbance(0.0, kind, (ps.task,), (), 0.0)])
    with chaos:
        await_disturbances(chaos, 1)
    assert not ps.is_alive()
    assert str(chaos).endswith(
        f": nothing happened, {ps.task} was killed by SIGKILL; there is nothing to {kind}"
    )


def test_the_test_may_stop_the_cluster() -> None:
    with LocalCluster(workers=1, ps=1) as cluster, cluster.chaos(1, every=0.01) as chaos:
        await_disturbances(chaos, 2)
        cluster.stop()


def test_a_fault_that_cannot_be_undone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Server) -> None:
        raise errors.StartError("it does not come up")

    def disturb(error: Exception | None) -> None:
        with own.chaos(1, kinds=["kill"], every=0.01) as chaos:
            await_disturbances(chaos, 1)
            assert poll(lambda: chaos.mark() is None, Deadline(20)), (
                "later tests are not told of it"
            )
            assert "chaos ended here: it does not come up" in str(chaos)
            if error is not None:
                raise error

    with LocalCluster(workers=2, ps=0) as own:
        monkeypatch.setattr(Server, "start", fails)
        with pytest.raises(errors.StartError, match="it does not come up"):
            disturb(None)
        own.restart_dead()
        with pytest.raises(LookupError) as caught:
            disturb(LookupError("of the test"))
    assert caught.value.__notes__ == [
        "chaos ended early: a fault could not be made, or undone: it does not come up"
    ]
