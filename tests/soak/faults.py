"""What becomes of a cluster: faults that it outlives, and such that it is stopped with.

Each is a function of a cluster whose tasks all live, and of the chance that picks among them.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable

import pytest

from pytest_localcluster import LocalCluster, Server, ServerExited, UnsupportedError, errors
from pytest_localcluster._clock import now
from tests.reach import listens

from .inside import fail, wait_for_ever
from .work import PATIENCE, native, python, total_on

__all__ = [
    "ENDINGS",
    "FAULTS",
    "LAST",
    "LINK_ENDINGS",
    "LINK_FAULTS",
    "THREAD_FAULTS",
    "fault",
]

Fault = Callable[[LocalCluster, random.Random], None]

BRIEFLY = 0.2


def kill_and_restart(cluster: LocalCluster, chance: random.Random) -> None:
    server = chance.choice(cluster.servers)
    before = server.pid
    server.kill()
    assert not server.is_alive()
    assert server.exitcode == -signal.SIGKILL
    assert not listens(server.address)
    server.restart()
    assert server.pid != before


def restart_the_dead(cluster: LocalCluster, chance: random.Random) -> None:
    dead = chance.sample(cluster.servers, chance.randint(1, len(cluster.servers)))
    for server in dead:
        server.kill(chance.choice((signal.SIGKILL, signal.SIGTERM)))
        server.join(PATIENCE)
    assert set(cluster.restart_dead()) == set(dead)


def suspend_and_resume(cluster: LocalCluster, chance: random.Random) -> None:
    server = chance.choice(cluster.servers)
    with server.suspended():
        assert server.is_suspended()
        if python(server):
            future = server.submit(os.getpid)
            with pytest.raises(TimeoutError):
                future.result(0.02)
    if python(server):
        assert future.result(PATIENCE) == server.pid


def reset_amid(cluster: LocalCluster, chance: random.Random) -> None:
    """Reset a cluster of which a task is dead, suspended or busy."""
    server = chance.choice(cluster.servers)
    chance.choice((Server.kill, Server.suspend, keep_busy))(server)
    cluster.reset()
    assert all(server.is_alive() for server in cluster.servers)


def exit_in_a_function(cluster: LocalCluster, chance: random.Random) -> None:
    server = chance.choice(cluster.servers)
    if not python(server):
        server.kill()
    else:
        with pytest.raises(ServerExited, match="exited with status 3"):
            server.run(os._exit, 3, timeout=PATIENCE)
    server.start()


def kill_under_a_session(cluster: LocalCluster, chance: random.Random) -> None:
    """Have a session lose the task that holds its variable, and find it again."""
    tasks = native(cluster)
    if len(tasks) < 2:
        kill_and_restart(cluster, chance)
        return
    holder, target = chance.sample(tasks, 2)
    with total_on(cluster, holder, target) as (session, total):
        holder.kill()
        with pytest.raises(errors.UnavailableError, match=str(holder.task)):
            session.run(total.read(), timeout=PATIENCE)
        holder.restart()
        with pytest.raises(errors.FailedPreconditionError):
            session.run(total.read(), timeout=PATIENCE)
        session.run(total.initializer, timeout=PATIENCE)
        check_equal(session.run(total.assign_add(2), timeout=PATIENCE), 2)


def raise_in_a_function(cluster: LocalCluster, chance: random.Random) -> None:
    server = chance.choice(cluster.servers)
    with pytest.raises(LookupError if python(server) else UnsupportedError):
        server.run(fail, timeout=PATIENCE)


def reset(cluster: LocalCluster, chance: random.Random) -> None:
    cluster.reset()


def restart(cluster: LocalCluster, chance: random.Random) -> None:
    chance.choice(cluster.servers).restart()


def partition(cluster: LocalCluster, chance: random.Random) -> None:
    holder, target = chance.sample(native(cluster), 2)
    with total_on(cluster, holder, target) as (session, total):
        with (
            cluster.partition(holder, target),
            pytest.raises(errors.DeadlineExceededError, match="/job:"),
        ):
            session.run(total.read(), timeout=BRIEFLY)
        check_equal(session.run(total.assign_add(3), timeout=PATIENCE), 3)


def drop(cluster: LocalCluster, chance: random.Random) -> None:
    holder, target = chance.sample(native(cluster), 2)
    with total_on(cluster, holder, target) as (session, total):
        with (
            cluster.drop(holder, target),
            pytest.raises(errors.UnavailableError, match=str(holder.task)),
        ):
            session.run(total.read(), timeout=PATIENCE)
        check_equal(session.run(total.assign_add(4), timeout=PATIENCE), 4)


def delay(cluster: LocalCluster, chance: random.Random) -> None:
    holder, target = chance.sample(native(cluster), 2)
    with total_on(cluster, holder, target) as (session, total):
        seconds = chance.uniform(0.005, 0.05)
        with cluster.delay(holder, target, seconds):
            began = now()
            check_equal(session.run(total.assign_add(5), timeout=PATIENCE), 5)
            assert now() - began >= 2 * seconds
        check_equal(session.run(total.read(), timeout=PATIENCE), 5)


def restart_behind_a_partition(cluster: LocalCluster, chance: random.Random) -> None:
    holder, target = chance.sample(native(cluster), 2)
    cluster.partition(holder, target)
    holder.restart()
    cluster.heal()


def leave_dead(cluster: LocalCluster, chance: random.Random) -> None:
    for server in chance.sample(cluster.servers, chance.randint(1, len(cluster.servers))):
        server.kill()


def leave_suspended(cluster: LocalCluster, chance: random.Random) -> None:
    for server in chance.sample(cluster.servers, chance.randint(1, len(cluster.servers))):
        server.suspend()


def leave_busy(cluster: LocalCluster, chance: random.Random) -> None:
    keep_busy(chance.choice(cluster.servers))


def leave_with_children(cluster: LocalCluster, chance: random.Random) -> None:
    for server in filter(python, cluster.servers):
        server.run(os.spawnlp, os.P_NOWAIT, "sleep", "sleep", "1000", timeout=PATIENCE)


def leave_partitioned(cluster: LocalCluster, chance: random.Random) -> None:
    cluster.partition(*chance.sample(cluster.servers, 2))


def leave_delayed(cluster: LocalCluster, chance: random.Random) -> None:
    one, other = chance.sample(cluster.servers, 2)
    cluster.delay(one, other, 100)


def stop_twice(cluster: LocalCluster, chance: random.Random) -> None:
    cluster.stop()
    cluster.stop()


def keep_busy(server: Server) -> None:
    if python(server):
        server.submit(wait_for_ever)


def check_equal(value: object, expected: object) -> None:
    assert value == expected


def _named(*faults: Fault) -> dict[str, Fault]:
    return {fault.__name__.replace("_", " "): fault for fault in faults}


THREAD_FAULTS = _named(raise_in_a_function, reset, restart)
FAULTS = _named(
    kill_and_restart,
    restart_the_dead,
    suspend_and_resume,
    reset_amid,
    exit_in_a_function,
    kill_under_a_session,
)
LINK_FAULTS = _named(partition, drop, delay, restart_behind_a_partition)
ENDINGS = _named(leave_dead, leave_suspended, leave_busy, leave_with_children)
LINK_ENDINGS = _named(leave_partitioned, leave_delayed)
LAST = ENDINGS | LINK_ENDINGS | _named(stop_twice)
_ALL = THREAD_FAULTS | FAULTS | LINK_FAULTS | LAST


def fault(name: str) -> Fault:
    """Return the fault of this name."""
    return _ALL[name]
