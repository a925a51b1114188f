"""ClusterFile: what a cluster that runs elsewhere tells those who want to use it.

It is JSON. Who started the cluster writes it; for one that was started in another way it can be
written by hand. It holds the token, so only its owner can read it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import _held
from ._context import TOKEN_VARIABLE, Token
from ._spec import ClusterSpec, Task
from .errors import SpecError

__all__ = ["ClusterFile", "ProcessId", "read_cluster_file"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

_REMEDY = "`python -m pytest_localcluster up` writes one; the manual has its fields"


@dataclass(frozen=True)
class ProcessId:
    """A process, and what tells it from others that have had, or will have, its number."""

    pid: int
    born: str = ""

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Return that of a process which lives."""
        return cls(pid, _held.identity(pid))

    def lives(self) -> bool:
        """Tell whether it is still there; a zombie is not."""
        return _held.lives(self.pid, self.born)


@dataclass(frozen=True)
class ClusterFile:
    """Who is in a running cluster, where, and what it takes to use it.

    Attributes:
        spec: all jobs, and the addresses of their tasks.
        runtimes: for each job what its tasks serve: ``native``, ``tensorflow``, ``servicer``, ...
        token: what calls to the tasks carry; "" if they ask for none.
        processes: of the tasks, as far as they are known.
        logs: where the tasks write their logs, as far as that is known.
        helpers: processes that are no tasks, and end with the cluster.
        owner: the process that ends the cluster when it is told to; None if there is none.
        version: of the package that wrote the file.
    """

    spec: ClusterSpec
    runtimes: Mapping[str, str]
    token: Token
    processes: Mapping[Task, ProcessId] = field(default_factory=dict)
    logs: Mapping[Task, Path] = field(default_factory=dict)
    helpers: tuple[ProcessId, ...] = ()
    owner: ProcessId | None = None
    version: str = ""

    def dead(self) -> list[Task]:
        """Return the tasks whose processes are known, and are no more."""
        return [task for task, process in self.processes.items() if not process.lives()]

    def environ(self) -> dict[str, str]:
        """Return what lets a process dial the tasks: that of ``LocalCluster.environ()``."""
        return {"TF_CONFIG": self.spec.tf_config(), TOKEN_VARIABLE: str(self.token)}

    def as_text(self) -> str:
        """Return the text of the file."""
        tasks: dict[str, dict[str, object]] = {str(task): {} for task in self.spec.tasks}
        for task, process in self.processes.items():
            tasks[str(task)] |= asdict(process)
        for task, log in self.logs.items():
            tasks[str(task)] |= {"log": str(log)}
        fields: dict[str, object] = {
            "version": self.version,
            "cluster": self.spec.as_dict(),
            "runtime": dict(self.runtimes),
            "protocol": "grpc",
            "token": str(self.token),
            "tasks": tasks,
        }
        if self.helpers:
            fields["helpers"] = [asdict(process) for process in self.helpers]
        if self.owner is not None:
            fields["owner"] = asdict(self.owner)
        return json.dumps(fields, indent=2) + "\n"

    def write(self, path: Path) -> None:
        """Write the file, all of it at once; nobody but its owner can read it.

        Raises:
            SpecError: it cannot be written, or there is one that is not to be lost.
        """
        if path.exists():
            try:
                living = read_cluster_file(path).is_in_use()
            except SpecError:
                living = True  # somebody else's file, as likely as not
            if living:
                raise SpecError(
                    f"{path} is there already, and is no file of a cluster that has ended",
                    remedy="name another file, or remove that one",
                )
        fresh = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        try:
            with open(  # Path.open takes no opener
                fresh, "x", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)
            ) as file:
                file.write(self.as_text())
            fresh.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise SpecError(
                f"{path} cannot be written: {error.strerror}",
                remedy="name a file in a folder that you may write to",
            ) from None

    def is_in_use(self) -> bool:
        """Tell whether a process that it names lives; True if it names none."""
        named = [*self.members(), *([self.owner] if self.owner is not None else [])]
        return not named or any(process.lives() for process in named)

    def members(self) -> list[ProcessId]:
        """Return the processes that the cluster consists of."""
        return [*self.processes.values(), *self.helpers]


def read_cluster_file(path: Path) -> ClusterFile:
    """Read a file that describes a running cluster.

    Raises:
        SpecError: there is none, or it describes no cluster.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(
            f"the cluster file {path} cannot be read: {error.strerror}",
            remedy="its cluster may have ended, which removes it; start one with "
            "`python -m pytest_localcluster up`",
        ) from None
    except ValueError as error:
        raise SpecError(f"{path} is no cluster file: {error}", remedy=_REMEDY) from None
    try:
        return _from_fields(fields)
    except SpecError as error:
        raise SpecError(f"{path} is no cluster file: {error.message}", remedy=_REMEDY) from None


def _from_fields(fields: Any) -> ClusterFile:
    if not isinstance(fields, dict) or "cluster" not in fields:
        raise SpecError('it is no JSON object with a "cluster"')
    if fields.get("protocol", "grpc") != "grpc":
        raise SpecError(f'its "protocol" is {fields["protocol"]!r}, and can only be "grpc"')
    spec = ClusterSpec(fields["cluster"])
    token = fields.get("token", "")
    if not isinstance(token, str):
        raise SpecError(f'its "token" is {type(token).__name__}, and should be text')
    processes: dict[Task, ProcessId] = {}
    logs: dict[Task, Path] = {}
    for name, facts in _mapping(fields, "tasks").items():
        task = Task.parse(name)
        spec.task_address(task.job, task.index)
        if "pid" in _checked(facts, f'what "tasks" has of {name}'):
            processes[task] = _process(facts)
        if isinstance(log := facts.get("log"), str):
            logs[task] = Path(log)
    owner, helpers = fields.get("owner"), fields.get("helpers", [])
    if not isinstance(helpers, list):
        raise SpecError(f'its "helpers" is {helpers!r}, and should be a list')
    return ClusterFile(
        spec=spec,
        runtimes=_runtimes(spec, fields.get("runtime", "native")),
        token=Token(token),
        processes=processes,
        logs=logs,
        helpers=tuple(_process(_checked(helper, 'one of its "helpers"')) for helper in helpers),
        owner=None if owner is None else _process(_checked(owner, 'its "owner"')),
        version=str(fields.get("version", "")),
    )


def _runtimes(spec: ClusterSpec, given: object) -> dict[str, str]:
    runtimes = dict.fromkeys(spec.jobs, given) if isinstance(given, str) else given
    if not isinstance(runtimes, dict) or not all(isinstance(r, str) for r in runtimes.values()):
        raise SpecError(f'its "runtime" is {given!r}, and should be a name, or one for each job')
    missing = [job for job in spec.jobs if spec.num_tasks(job) and job not in runtimes]
    if missing:
        raise SpecError(f'its "runtime" does not say what the tasks of job {missing[0]!r} serve')
    return {job: runtimes[job] for job in spec.jobs if job in runtimes}


def _mapping(fields: dict[str, Any], name: str) -> dict[str, Any]:
    return _checked(fields.get(name, {}), f'its "{name}"')


def _checked(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SpecError(f"{what} is {value!r}, and should be a JSON object")
    return value


def _process(facts: dict[str, Any]) -> ProcessId:
    pid, born = facts.get("pid"), facts.get("born", "")
    if isinstance(pid, bool) or not isinstance(pid, int) or pid <= 0:
        raise SpecError(f"{pid!r} is no process id")
    return ProcessId(pid, str(born))
