"""What a cluster held, what of that was left after its stop, and the lines that tell of it."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from pytest_localcluster import LocalCluster
from pytest_localcluster._clock import Deadline, now, poll
from pytest_localcluster._held import identity, lives
from pytest_localcluster._launch.child import SPARE
from tests.families import below, guards_elsewhere
from tests.reach import listens

from .plan import Plan

__all__ = ["Settings", "Witness", "write_process"]

_VARIABLE = "PYTEST_LOCALCLUSTER_SOAK"


@dataclass(frozen=True)
class Settings:
    """What a process of the soak is told.

    Attributes:
        seed: of all choices.
        run: the name of its run.
        seconds: how long all of it is to take.
        end: when that is over, by the clock of the machine.
        record: the file that all write lines to.
    """

    seed: int
    run: str
    seconds: float
    end: float
    record: str

    def environ(self) -> dict[str, str]:
        """Return what hands this to a process."""
        return {_VARIABLE: json.dumps(dataclasses.asdict(self))}

    @classmethod
    def from_environ(cls) -> Self:
        return cls(**json.loads(os.environ[_VARIABLE]))

    @property
    def worker(self) -> str:
        """The name of this process in its run."""
        return os.environ.get("PYTEST_XDIST_WORKER", "alone")

    def write(self, what: str, **facts: Any) -> None:
        """Add a line to the record, whole: many processes do."""
        line = {"what": what, "run": self.run, "worker": self.worker, "at": now(), **facts}
        file = os.open(self.record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, f"{json.dumps(line)}\n".encode())
        finally:
            os.close(file)


@dataclass(eq=False)
class Witness:
    """Sees one cluster from its start to its end.

    Attributes:
        plan: what it was to be.
        cluster: what it is.
        asked: when it was asked for.
        up: when it was up.
        until: when it was last seen up; its ports were held from ``up`` until then.
        survived: the faults that it was none the worse for.
        seconds: how long it was worked with; starts and stops come on top.
    """

    plan: Plan
    cluster: LocalCluster
    asked: float
    up: float = field(default_factory=now)
    until: float = 0.0
    survived: list[str] = field(default_factory=list)
    seconds: float = 0.0
    _pids: dict[int, str] = field(default_factory=dict)
    _addresses: list[str] = field(default_factory=list)
    _folders: set[Path] = field(default_factory=set)

    def look(self) -> None:
        """Note who there is, while it is up."""
        if self.cluster._open is None:
            return
        tasks, links = self.cluster.servers, self.cluster._net
        for server in (*tasks, *links.servers):
            if server.pid is not None and server.pid != os.getpid():
                self._pids.setdefault(server.pid, identity(server.pid))
            self._folders.add(server.log.path.parent)
        addresses = [server.address for server in tasks]
        addresses += [lease.address for lease in links._leases.values()]
        environ = self.cluster.environ(tasks[0]) if tasks else {}
        if "MASTER_PORT" in environ:
            addresses.append(f"localhost:{environ['MASTER_PORT']}")
        self._addresses = addresses
        self.until = now()

    def close(self, settings: Settings) -> list[str]:
        """See what is left of it now that it was stopped, write it down, and return it."""
        left = [f"pid {pid} lives" for pid, known in self._pids.items() if lives(pid, known)]
        left += [f"{folder} is there" for folder in self._folders if folder.exists()]
        lingering = []
        for address in self._addresses:
            since = now()
            # Most of those who listen by now are others, also of other runs on this machine.
            if listens(address) and _port(address) in _ports_of_family():
                lingering.append((_port(address), since, now()))
        cluster = self.cluster
        settings.write(
            "cluster",
            name=self.plan.name,
            plan=str(self.plan),
            kind=self.plan.kind,
            launcher=cluster.config.launcher,
            links=cluster.config.links,
            asked=self.asked,
            up=self.up,
            until=self.until,
            start=cluster.start_seconds,
            seconds=self.seconds + (cluster.start_seconds or 0) + (cluster.stop_seconds or 0),
            pids=list(self._pids),
            ports=[_port(address) for address in self._addresses],
            survived=self.survived,
            lingering=lingering,
            left=left,
        )
        return left


def write_process(settings: Settings, up: Iterable[LocalCluster]) -> None:
    """Write down how large this process is, and who is below it.

    Args:
        settings: where to.
        up: the clusters that are up.
    """
    own = psutil.Process()
    tasks = {
        server.pid
        for cluster in up
        for server in (*cluster.servers, *cluster._net.servers)
        if server.pid != own.pid
    }
    helpers, strays = _family(tasks)
    if strays:  # a process that was just forked to be a spare has no name of its own yet
        poll(lambda: not _family(tasks)[1], Deadline(2))
        helpers, strays = _family(tasks)
    settings.write(
        "process",
        pid=own.pid,
        rss=own.memory_info().rss,
        descriptors=own.num_fds(),
        threads=threading.active_count(),
        helpers=sum(map(_rss, helpers)),
        strays=strays,
    )


def _family(tasks: AbstractSet[int | None]) -> tuple[list[psutil.Process], list[str]]:
    """Return the guards and forkservers of this process, and who is of none of these tasks."""
    generation, of_task = {os.getpid(): 0}, set(tasks)
    helpers, strays = [], []
    # Parents come before their children.
    generation.update((guard.ppid(), 0) for guard in guards_elsewhere())
    for one in below():
        with suppress(psutil.NoSuchProcess):
            parent, name = one.ppid(), _name(one)
            generation[one.pid] = generation.get(parent, 2) + 1
            if parent in of_task:
                of_task.add(one.pid)
            if generation[one.pid] <= 2:
                helpers.append(one)
            elif one.pid not in of_task and name not in (b"", SPARE):
                strays.append(f"process {one.pid} ({name.decode()})")
    return helpers, strays


def _name(process: psutil.Process) -> bytes:
    """Return the name of a process; nothing if it has ended, whether it was waited for or not."""
    try:
        ended = process.status() == psutil.STATUS_ZOMBIE
        return b"" if ended else process.name().encode()
    except psutil.NoSuchProcess:
        return b""


def _ports_of_family() -> set[int]:
    """Return the ports on which this process listens, or one below it."""
    own, ports = psutil.Process(), set()
    for one in (own, *below()):
        with suppress(psutil.Error):
            found = one.net_connections("tcp")
            ports |= {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}
    return ports


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
