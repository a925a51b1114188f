"""What of a cluster is handed to others: the file that describes it and, to be kept, its life."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ._clusterfile import ClusterFile, ProcessId
from ._launch.handle import ChildProcess
from ._runtimes import name_of
from .errors import UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from ._cluster import LocalCluster

__all__ = ["file_of", "keep"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both


def file_of(cluster: LocalCluster, version: str, *, owner: ProcessId | None = None) -> ClusterFile:
    """Return what others need to know of a running cluster.

    Args:
        cluster: the cluster.
        version: of this package.
        owner: who ends the cluster when told to; None if that is nobody.
    """
    servers = cluster.servers
    return ClusterFile(
        spec=cluster.spec,
        runtimes={job: name_of(runtime) for job, runtime in cluster._runtimes.items()},
        token=cluster._token,
        processes={s.task: ProcessId.of(s.pid) for s in servers if s.pid is not None},
        logs={s.task: s.log.path.absolute() for s in servers},
        helpers=tuple(ProcessId.of(s.pid) for s in cluster._net.servers if s.pid is not None),
        owner=owner,
        version=version,
    )


def keep(cluster: LocalCluster, version: str) -> Path:
    """Have the tasks of a running cluster outlive its stop, and this process.

    Until then it is used as before. What is left of it afterwards is found by its file, and ends
    with its tasks; its logs are beside the file, if nobody has asked for another place.

    Returns:
        The path of the file.

    Raises:
        UnsupportedError: its tasks, or some, are no processes, or have ended.
        ClusterError: who forks the tasks does not answer.
    """
    with cluster._lock:
        cluster._check_running("be kept")
        lives = cluster._lives()
        processes = [life.process for life in lives]
        for life, process in zip(lives, processes, strict=True):
            if not isinstance(process, ChildProcess):
                raise UnsupportedError(
                    f"{life.task} cannot be kept: it is no process, and ends with pytest",
                    remedy="use launcher='process'",
                )
        homes = []
        for life, process in zip(lives, processes, strict=True):
            assert isinstance(process, ChildProcess)
            if life.is_alive():
                place = life.place
                leases = [fd for one in (place.lease, *place.others) for fd in one.descriptors]
                homes.append(process.keep(leases))
                life.kept = True
        if not homes:
            raise UnsupportedError("nothing can be kept: no task is alive")
        if cluster._net.servers:
            (links,) = cluster._net.servers
            if isinstance(process := links._life.process, ChildProcess):
                process.keep([fd for lease in cluster._net.leases for fd in lease.descriptors])
        home = homes[0]
        home.mkdir(mode=0o700, exist_ok=True)
        folder = home / f"cluster-{len(list(home.iterdir()))}"
        logs = [server.log for server in (*cluster.servers, *cluster._net.servers)]
        if logs and not logs[0].kept:
            # Their folder goes with this process; who writes to them does not mind.
            logs[0].path.parent.rename(folder)
            for log in logs:
                log.path, log.kept = folder / log.path.name, True
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / "cluster.json"
        with suppress(FileNotFoundError):
            path.unlink()  # of an earlier try
        file_of(cluster, version).write(path)
        return path
