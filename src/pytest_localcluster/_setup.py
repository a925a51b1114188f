"""Everything a cluster has before its first task runs: ports, addresses, logs, assignments."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import _context, _ports
from ._context import TaskContext
from ._core.fields import Fields, Names, uses_folder
from ._launch import Launcher, Lease, shelter
from ._launchers import find_berths
from ._logs import TaskLog, new_folder
from ._proto.config_pb2 import ConfigProto
from ._proto.server_pb2 import ServerDef
from ._runtimes import Assignment, Runtime
from ._spec import ClusterSpec, Task
from ._tls import Authority

if TYPE_CHECKING:
    from contextlib import ExitStack

    from ._config import ClusterConfig
    from ._ports import PortLease

__all__ = [
    "Pair",
    "Place",
    "client_environment",
    "lease_places",
    "open_logs",
    "prepare_next",
    "server_def",
    "start_seconds",
]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

_PRELOAD_SECONDS = 60.0

Pair = tuple[Task, Task]
"""Who dials, and who is dialled."""


class Place(NamedTuple):
    """What is made ready for one task, for all its starts.

    Its ``server_def`` is what the test sees: with links the task is given another one. ``others``
    are the leases of ports that it may bind besides its own.
    """

    assignment: Assignment
    runtime: Runtime
    launcher: Launcher
    lease: Lease
    server_def: bytes
    others: Sequence[Lease] = ()


def start_seconds(config: ClusterConfig, runtimes: Iterable[Runtime]) -> float:
    """Return how long the start of a cluster may take: as asked for, or as its runtimes need."""
    if config.start_timeout is not None:
        return config.start_timeout
    longest = max((runtime.start_timeout for runtime in runtimes), default=10.0)
    # The first start waits for the imports: what the user preloads may be large, and all of it new
    # to a node.
    patient = config.preload or config.is_networked()
    return max(longest, _PRELOAD_SECONDS) if patient else longest


def lease_places(
    config: ClusterConfig,
    runtimes: Mapping[str, Runtime],
    token: str,
    log_dir: Path | None,
    undo: ExitStack,
) -> tuple[ClusterSpec, str | None, list[Place], dict[Pair, PortLease], Path]:
    """Lease the ports and tell each task who it is; ``undo`` learns how to take it back.

    Args:
        config: what was asked for.
        runtimes: by job.
        token: what calls to the tasks carry.
        log_dir: the folder for what tasks leave; None for one that goes at the stop.
        undo: learns how to take it back.

    Returns:
        The spec; by what its tasks are known, None if calls to them do not leave the machine; what
        each task needs; the lease of each link, none if the config asks for none; the folder.
    """
    tasks = config.tasks()
    given = {task: _environment_asked(config, task) for task in tasks}
    with_folder = {task for task in tasks if _uses_folder(given[task], runtimes[task.job], task)}
    berths, meeting = find_berths(config, runtimes, with_folder, undo)
    # Not before the launchers have a guard: a folder without one has another started.
    directory = _open_folder(log_dir, undo)
    addresses: dict[str, list[str]] = {job: [] for job in config.counts()}
    ports: dict[Task, Mapping[str, int]] = {}
    hosts: dict[Task, str] = {}
    for task, (_, lease, further, *_) in zip(tasks, berths, strict=True):
        addresses[task.job].append(lease.address)
        ports[task], hosts[task] = further, lease.address.rpartition(":")[0]
        _context.register_token(lease.address, token)
        undo.callback(_context.forget_token, lease.address)
    spec = ClusterSpec(addresses)
    authority = Authority() if tasks and config.is_networked() else None
    root = None if authority is None else authority.root
    links = _lease_links(tasks, undo) if config.links else {}
    places = []
    for task, (launcher, lease, further, others, folder) in zip(tasks, berths, strict=True):
        runtime = runtimes[task.job]
        seen = _seen_by(task, spec, links)
        client = client_environment(seen, token, task, root=root)
        if folder is None and task in with_folder:
            folder = new_folder(directory, f"{task.job}-{task.index}")
        fields = Fields(task, seen, hosts, ports, folder, client["TF_CONFIG"])
        wanted = {name: fields.fill(text) for name, text in given[task].items()}
        env = _task_environment(config, client, task, meeting) | wanted
        if links:
            env[_context.PAST_LINKS_VARIABLE] = ",".join(berth.lease.address for berth in berths)
        context = TaskContext(task, seen, runtime.target(lease.address), env, further, folder)
        strangers = tuple(
            job for job, other in runtimes.items() if type(other) is not type(runtime)
        )
        credentials = None
        if authority is not None and runtime.speaks_tls:
            credentials = authority.issue(lease.address)
            _context.register_root(lease.address, authority.root)
            undo.callback(_context.forget_root, lease.address)
        places.append(
            Place(
                Assignment(
                    context,
                    server_def(config, seen, task),
                    token,
                    strangers,
                    credentials=credentials,
                    fields=fields if runtime.texts(task.job) else None,
                ),
                runtime,
                launcher,
                lease,
                server_def(config, spec, task),
                others,
            )
        )
    return spec, root, places, links, directory


def _uses_folder(env: Mapping[str, str], runtime: Runtime, task: Task) -> bool:
    texts = (text for _, text in runtime.texts(task.job))
    return any(map(uses_folder, itertools.chain(env.values(), texts)))


def _environment_asked(config: ClusterConfig, task: Task) -> dict[str, str]:
    """Return what ``env`` asks for a task, its fields checked and not filled in yet."""
    env = config.environment(task)
    if callable(config.env):  # what is no function was checked with the config
        counts = config.counts()
        names = Names(counts, {job: config.port_names(job) for job in counts})
        for name, text in env.items():
            names.check(text, f"what env returned for {task}, under {name!r},", task.job)
    return env


def _lease_links(tasks: list[Task], undo: ExitStack) -> dict[Pair, PortLease]:
    pairs = list(itertools.permutations(tasks, 2))
    leases = _ports.lease_ports(len(pairs))
    for lease in leases:
        undo.callback(lease.release)
    return dict(zip(pairs, leases, strict=True))


def _seen_by(task: Task, spec: ClusterSpec, links: Mapping[Pair, PortLease]) -> ClusterSpec:
    """Return the cluster as a task is to see it: itself where it is, the others behind links."""
    jobs = spec.as_dict()
    for (dialling, dialled), lease in links.items():
        if dialling == task:
            jobs[dialled.job][dialled.index] = lease.address
    return ClusterSpec(jobs)


def prepare_next(places: Iterable[Place]) -> None:
    """Have launchers get ready for the next cluster, where that takes its time."""
    wanted = Counter(place.launcher for place in places if place.runtime.forks_ahead)
    for launcher, tasks in wanted.items():
        launcher.fork_ahead(tasks)


def _open_folder(directory: Path | None, undo: ExitStack) -> Path:
    """Return the folder for what tasks leave: ``directory``, or a new one that goes at the stop."""
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        return directory
    directory = shelter.new_folder()
    undo.callback(shutil.rmtree, directory, ignore_errors=True)
    return directory


def open_logs(tasks: list[Task], directory: Path, kept: bool, undo: ExitStack) -> list[TaskLog]:
    """Make a log for each task in ``directory``, to be ``kept`` or to go with the cluster."""
    logs = []
    for task in tasks:
        log = TaskLog(directory / f"{task.job}-{task.index}.log", kept=kept)
        logs.append(log)
        if not kept:
            undo.callback(log.discard)
    return logs


def client_environment(
    spec: ClusterSpec, token: str, task: Task | None = None, *, root: str | None = None
) -> dict[str, str]:
    """Return what lets a process dial the tasks of a cluster, as ``task`` if it is one of them."""
    env = {"TF_CONFIG": spec.tf_config(task), _context.TOKEN_VARIABLE: token}
    return env if root is None else env | {_context.ROOT_VARIABLE: root}


def _task_environment(
    config: ClusterConfig, client: dict[str, str], task: Task, meeting: tuple[str, int]
) -> dict[str, str]:
    """Return what a task needs as a client, and what the cluster adds."""
    env = dict(client)
    if task.job == "worker":
        env |= {
            "RANK": str(task.index),
            "LOCAL_RANK": str(task.index),
            "WORLD_SIZE": str(config.workers),
            "LOCAL_WORLD_SIZE": str(config.workers),
            "MASTER_ADDR": meeting[0],
            "MASTER_PORT": str(meeting[1]),
        }
    return env


def server_def(config: ClusterConfig, spec: ClusterSpec, task: Task) -> bytes:
    """Return the ServerDef of a task that sees a cluster as ``spec``, as it goes over the wire."""
    message = ServerDef(
        cluster=spec.as_cluster_def(),
        job_name=task.job,
        task_index=task.index,
        protocol=config.protocol,
    )
    given = {"worker": config.worker_config, "ps": config.ps_config}.get(task.job)
    if given is not None:
        # By way of bytes, since it may be TensorFlow's own message.
        message.default_session_config.CopyFrom(ConfigProto.FromString(given.SerializeToString()))
    return message.SerializeToString()
