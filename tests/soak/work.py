"""What a cluster is for: steps across its tasks, functions in them, calls to them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

from pytest_localcluster import (
    CommandRuntime,
    LocalCluster,
    NativeRuntime,
    Server,
    ServicerRuntime,
    Session,
    Variable,
    constant,
    device,
    function,
)
from tests.reach import listens
from tests.servicers.services import ECHO, call

__all__ = ["PATIENCE", "native", "python", "total_on", "work"]

PATIENCE = 40.0
"""Seconds that anything may take on a machine that is busy."""


def work(cluster: LocalCluster, chance: random.Random) -> None:
    """Have each living task do what it can, and check the results."""
    step(cluster, chance)
    for server in cluster.servers:
        if not server.is_alive():
            continue
        assert listens(server.address), server
        if python(server):
            assert server.run(os.getpid, timeout=PATIENCE) == server.pid
        if isinstance(server._life.place.runtime, ServicerRuntime):
            with server.channel() as channel:
                answer = call(channel, "Say", b"hello", service=ECHO, timeout=PATIENCE)
            assert answer == f"{server.task} hello"


def step(cluster: LocalCluster, chance: random.Random) -> None:
    """Run steps that reach every task of the native runtime."""
    tasks = native(cluster)
    if not tasks:
        return
    amount = chance.randint(1, 1000)
    parts, places = [], []
    for number, server in enumerate(tasks):
        with device(str(server.task)):
            parts.append(constant(amount) + number)
            places.append(function(os.getpid)())
    with total_on(cluster, chance.choice(tasks), chance.choice(tasks)) as (session, total):
        for times in (1, 2, 3):
            value = session.run(total.assign_add(amount), timeout=PATIENCE)
            assert value == times * amount
        values, pids = session.run([parts, places], timeout=PATIENCE)
    assert values == [amount + number for number in range(len(tasks))]
    assert pids == [server.pid for server in tasks]


@contextmanager
def total_on(
    cluster: LocalCluster, holder: Server, target: Server
) -> Iterator[tuple[Session, Variable]]:
    """Open a session to ``target``, and have ``holder`` keep a variable that is 0."""
    with device(str(holder.task)):
        total = Variable(0, name="total")
    with cluster.session(target) as session:
        session.run(total.initializer, timeout=PATIENCE)
        yield session, total


def native(cluster: LocalCluster) -> list[Server]:
    """Return the living tasks to which sessions can be opened."""
    return [
        server
        for server in cluster.servers
        if server.is_alive() and isinstance(server._life.place.runtime, NativeRuntime)
    ]


def python(server: Server) -> bool:
    """Tell whether a task runs functions."""
    return not isinstance(server._life.place.runtime, CommandRuntime)
