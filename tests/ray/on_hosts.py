"""Run by test_hosts.py with pytest, on the first of three hosts: a cut of the network, and its end.

The cluster is the one of the command line's launcher, as any suite's would be.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pytest_localcluster import LocalCluster, Server, StopError, Variable, device, errors
from pytest_localcluster._clock import Deadline, poll
from tests.ray.hosts import cut_off

pytestmark = pytest.mark.usefixtures("ray_cluster")  # which ends the connection to it

BRIEFLY = 2.0
"""Seconds for what is not to come; Ray gives a host up after minutes."""


def host(server: Server) -> int:
    """Return the number of the host that a task is on."""
    return int(server.address.rpartition(":")[0].rpartition(".")[2])


@pytest.mark.cluster(workers=2, ps=1)
def test_each_task_is_on_a_host_of_its_own(local_cluster: LocalCluster) -> None:
    assert sorted(map(host, local_cluster.servers)) == [1, 2, 3]
    assert local_cluster.workers[0].run(lambda: 1) == 1


@pytest.fixture
def near(local_cluster: LocalCluster) -> Server:
    """Return the task on this host."""
    return next(server for server in local_cluster.servers if host(server) == 1)


@pytest.fixture
def far(local_cluster: LocalCluster) -> Server:
    return next(server for server in local_cluster.servers if host(server) != 1)


@pytest.fixture
def step(near: Server, far: Server) -> Callable[..., object]:
    """Return a step that this host's task runs, and that needs the other one."""
    with device(far.task):
        weights = Variable(np.arange(4.0), name="weights")
    session = near.cluster.session(near)
    session.run(weights.initializer)
    return lambda **options: session.run(weights.read(), **options).tolist()


@pytest.mark.cluster(workers=2, ps=1)
def test_a_cut_is_missed_by_who_has_a_deadline(
    near: Server, far: Server, step: Callable[..., object]
) -> None:
    with cut_off(host(far)):
        with pytest.raises(errors.DeadlineExceededError):
            step(timeout=BRIEFLY)
        with pytest.raises(TimeoutError, match=f"{far.task} at {far.address}"):
            far.run(lambda: 1, timeout=BRIEFLY)
        assert far.is_alive(), "nobody knows better"
        assert near.run(lambda: 2, timeout=20) == 2, "the others are not troubled"
    assert step(timeout=60) == [0, 1, 2, 3]
    assert far.run(lambda: 3, timeout=60) == 3
    assert far.unexpected_death() is None


@pytest.mark.cluster(workers=2, ps=1)
def test_a_cut_is_missed_after_a_while_by_who_has_none(
    near: Server, far: Server, step: Callable[..., object]
) -> None:
    with cut_off(host(far)), pytest.raises(errors.UnavailableError, match=f"{far.task} at"):
        step()
    assert step(timeout=60) == [0, 1, 2, 3], "over a new connection"
    # Ray's own connections try again ever more seldom while they are cut.
    assert far.run(lambda: 3, timeout=100) == 3
    assert far.unexpected_death() is None


@pytest.mark.cluster(workers=2, ps=1, stop_timeout=3.0)
def test_a_stop_names_who_is_beyond_reach(local_cluster: LocalCluster, far: Server) -> None:
    with cut_off(host(far)), pytest.raises(StopError, match="its node has not answered") as caught:
        local_cluster.stop()
    assert caught.value.survivors == (str(far.task),)
    # The hosts are one machine: here the pid says something.
    task = Path(f"/proc/{far.pid}")
    assert poll(lambda: not task.exists(), Deadline(100)), "it ends when its host is back"
