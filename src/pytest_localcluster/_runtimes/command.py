"""Tasks that are any program: a command line per job, and how to tell that it is ready."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from .. import _held
from .._clock import Thread, grpc_timeout
from .._ports import Binding
from .._program import Program, is_within
from .._spec import job_name
from ..errors import SpecError
from . import Runtime

if TYPE_CHECKING:
    from .._config import ClusterConfig
    from . import Assignment, Serving, Started

__all__ = ["CommandRuntime"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

_READY = "'tcp', 'grpc', re.compile(...), a function of the Server, or a mapping from job to these"
_BELOW = 'write a path below it, such as "{dir}/server.conf"'
_PROBE_SECONDS = 1.0
_RECENT = 1 << 20  # how much output a regular expression is looked for in; all of it, for most
_LOOK_SECONDS = 0.05


_Path = str | os.PathLike[str]
_Files = Mapping[str, "str | bytes | os.PathLike[str]"]

_EXAMPLE = 'write CommandRuntime(ps=["memcached", "-p", "{port}"])'


@dataclass(frozen=True, init=False)
class CommandRuntime(Runtime):
    """Runs a program in each task: ``CommandRuntime(ps=["memcached", "-p", "{port}"])``.

    In each argument, in ``cwd`` and in ``files`` these fields are filled in, and any other brace
    stays as it is:

    - ``{host}``, ``{port}`` and ``{address}``, which is ``host:port``: where the task is to serve;
    - ``{job}`` and ``{index}``: the task;
    - ``{dir}``: a folder of the task's own, which lasts through restarts;
    - ``{ports[NAME]}``: one of its further ports, as ``ports=`` of the cluster names them;
    - ``{hosts[JOB]}``: the addresses of a job's tasks, with commas between;
    - ``{host[JOB]}``, ``{port[JOB]}`` and ``{address[JOB]}``: those of the only task of a job; of
      one of several with the index behind, ``{port[JOB][0]}``; of a further port with its name
      behind, ``{address[JOB][0][NAME]}``, ``{hosts[JOB][NAME]}``;
    - ``{tf_config}``: the cluster as JSON.

    The program has the task's environment, no input, and its output in the task's log. It is asked
    to end by SIGTERM, and killed, with all processes of its group, if it does not.

    A program that does not set SO_REUSEADDR finds its port refused at first, since its lease is in
    the way; it is started once more, and its lease moves aside, as long as it serves.

    Args:
        commands: the program and its arguments, by job.
        ready: what makes a task count as started: ``"tcp"``, something listens on its port;
            ``"grpc"``, the gRPC health service there says SERVING; a compiled regular expression,
            found in what it printed (the last MiB); a function of its Server that returns something
            true, and may raise until then, but must not wait; or a mapping from job to one of these
            (``"tcp"`` for the others).
        cwd: the working directory, or a mapping from job to that; the test's if None. What is below
            ``{dir}`` is made.
        files: files that are there when the program starts, by path below ``{dir}``: text with
            fields; bytes, which have none; or the path of a file with either. Or a mapping from job
            to such files. At a restart they are as the program has left them.
        jobs: further commands, by job.

    Raises:
        SpecError: what is given is no command, or ``ready`` is none of the above, or ``cwd`` or
            ``files`` cannot be.
    """

    commands: Mapping[str, tuple[str, ...]]
    ready_when: Any
    directories: Mapping[str, str]
    files: Mapping[str, Mapping[str, str | bytes]]

    def __init__(
        self,
        commands: Mapping[str, Sequence[_Path]] | None = None,
        /,
        *,
        ready: Any = "tcp",
        cwd: _Path | Mapping[str, _Path] | None = None,
        files: _Files | Mapping[str, _Files] | None = None,
        **jobs: Sequence[_Path],
    ) -> None:
        if not isinstance(commands or {}, Mapping):
            raise SpecError(
                f"CommandRuntime takes a mapping from job to command, not {commands!r}",
                remedy=_EXAMPLE,
            )
        given = dict(commands or {})
        for job in given.keys() & jobs.keys():
            raise SpecError(
                f"CommandRuntime is given two commands for job {job!r}",
                remedy="keep one of the two",
            )
        given |= jobs
        if not given:
            raise SpecError("CommandRuntime is given no command", remedy=_EXAMPLE)
        checked = {job_name(job): _command(job, command) for job, command in given.items()}
        object.__setattr__(self, "commands", checked)
        if isinstance(ready, Mapping):
            _check_jobs("ready", ready, checked)
            ready = dict(ready)
        for condition in ready.values() if isinstance(ready, dict) else (ready,):
            _check_condition(condition)
        object.__setattr__(self, "ready_when", ready)
        object.__setattr__(self, "directories", _directories(cwd, checked))
        object.__setattr__(self, "files", _files(files, checked))
        object.__setattr__(self, "_bindings", {})

    @property
    def instead_of_session(self) -> str:  # type: ignore[override]  # it is the same for all
        """What to use instead of a Session."""
        return "dial server.address the way clients of that program do"

    def check(self, config: ClusterConfig, jobs: Collection[str]) -> None:
        """Raise SpecError if the programs cannot be run in such a cluster."""
        if config.launcher == "thread":
            raise SpecError(
                "a program cannot run in a thread of the test process",
                remedy="use launcher='process' for clusters with a CommandRuntime",
            )
        for job in jobs:
            if job not in self.commands:
                raise SpecError(
                    f"CommandRuntime has no command for the tasks of job {job!r}",
                    remedy=f"add one, as in {job}=[...], or ask for no tasks of that job; "
                    f"it has commands for {', '.join(self.commands)}",
                )
            if getattr(config, f"{job}_config", None) is not None:
                raise SpecError(
                    f"{job}_config would be read by nobody: a program runs in the tasks of {job!r}",
                    remedy="leave it out; what the program needs goes into its command or env=",
                )

    def texts(self, job: str) -> Iterable[tuple[str, str]]:
        """Return the texts of the tasks of ``job`` that have fields, each after what it is."""
        texts = [(f"the command of job {job!r}", text) for text in self.commands.get(job, ())]
        if job in self.directories:
            texts.append((f"the cwd of job {job!r}", self.directories[job]))
        for name, content in self.files.get(job, {}).items():
            texts.append((f"the file {name!r} of job {job!r}", name))
            if isinstance(content, str):
                texts.append((f"the content of {name!r} of job {job!r}", content))
        return texts

    def binding(self, job: str) -> Binding:
        """Return how the programs of ``job`` bind their ports, as far as is known."""
        found: Binding = self.__dict__["_bindings"].get(job, Binding.REUSE)
        return found

    def learn(self, job: str, binding: Binding) -> None:
        """Note how the programs of ``job`` bind their ports, as a start has shown."""
        self.__dict__["_bindings"][job] = binding

    def entry(self, assignment: Assignment) -> Callable[[], Serving]:
        """Return what the task calls; how to tell that it is ready stays here."""
        return partial(_turn_into, self.serve(assignment))

    def serve(self, assignment: Assignment) -> Program:
        """Return the program that the task turns into."""
        job, fields = assignment.context.task.job, assignment.fields
        assert fields is not None
        folder = "" if fields.folder is None else str(fields.folder)
        files = []
        for name, content in self.files.get(job, {}).items():
            path = os.path.normpath(fields.fill(name))
            if not is_within(path, folder):  # by way of a value with a slash
                raise _outside(name)
            data = content if isinstance(content, bytes) else fields.fill(content).encode()
            files.append((path, data))
        return Program(
            tuple(map(fields.fill, self.commands[job])),
            fields.fill(self.directories.get(job, "")),
            tuple(files),
            folder,
        )

    def ready(self, server: Started) -> str:
        """Look once whether the program is ready; return what it still lacks."""
        condition = self.ready_when
        if isinstance(condition, dict):
            condition = condition.get(server.task.job, "tcp")
        if condition == "tcp":
            return _listens(server.address)
        if condition == "grpc":
            return _is_healthy(server.address)
        if isinstance(condition, re.Pattern):
            since = max(server.log.begun, server.log.mark() - _RECENT)
            found = condition.search(server.log.since(since))
            return "" if found else f"it has not printed {condition.pattern!r}"
        return _agrees(condition, server)


def _turn_into(program: Program) -> Program:
    """Return the program; called in the task."""
    return program


def _check_jobs(what: str, given: Iterable[object], commands: Collection[str]) -> None:
    for job in given:
        if job not in commands:
            raise SpecError(
                f"{what} names job {job!r}, for which there is no command",
                remedy=f"there are commands for {', '.join(commands)}",
            )


def _directories(cwd: object, commands: Collection[str]) -> dict[str, str]:
    """Return the working directory of each job that is given one."""
    if cwd is None:
        return {}
    if isinstance(cwd, Mapping):
        _check_jobs("cwd", cwd, commands)
        given = dict(cwd)
    else:
        given = dict.fromkeys(commands, cwd)
    directories = {}
    for job, directory in given.items():
        if isinstance(directory, (list, tuple)) or not isinstance(directory, (str, os.PathLike)):
            raise SpecError(
                f"cwd={directory!r} is no directory",
                remedy='write a path, such as cwd="{dir}", or a mapping from job to one; '
                'a job that is called cwd goes into CommandRuntime({"cwd": [...]})',
            )
        text = os.fspath(directory)
        if not isinstance(text, str) or not text or not _can_be_passed(text):
            raise SpecError(f"cwd={directory!r} is no directory", remedy='write cwd="{dir}"')
        directories[job] = text
    return directories


def _files(files: Any, commands: Collection[str]) -> dict[str, dict[str, str | bytes]]:
    """Return the files of each job, by path, with their content."""
    if files is None:
        return {}
    if not isinstance(files, Mapping):
        raise SpecError(
            f"files maps paths to texts, not {files!r}",
            remedy='write files={"{dir}/server.conf": "port {port}"}; '
            'a job that is called files goes into CommandRuntime({"files": [...]})',
        )
    by_job: dict[str, dict[str, str | bytes]] = {}
    common = dict(_file(name, c) for name, c in files.items() if not isinstance(c, Mapping))
    special = {job: own for job, own in files.items() if isinstance(own, Mapping)}
    _check_jobs("files", special, commands)
    for job in commands:
        by_job[job] = common | dict(_file(*item) for item in special.get(job, {}).items())
    return {job: own for job, own in by_job.items() if own}


def _file(name: object, content: object) -> tuple[str, str | bytes]:
    """Return the path and the content of a file, once both are found to be sound."""
    path = os.fspath(name) if isinstance(name, (str, os.PathLike)) else name
    if not isinstance(path, str) or not _can_be_passed(path):
        raise SpecError(f"files has {name!r}, which is no path of a file", remedy=_BELOW)
    if not is_within(path, "{dir}") or os.path.normpath(path) == "{dir}":
        raise _outside(path)
    if isinstance(content, os.PathLike):
        try:
            content = Path(content).read_bytes()
        except OSError as error:
            raise SpecError(
                f"the content of {path!r} cannot be read: {error}",
                remedy="give its path as it is seen from where pytest runs",
            ) from None
        with suppress(UnicodeDecodeError):
            content = content.decode()
    if isinstance(content, (bytes, bytearray)):
        return path, bytes(content)
    if not isinstance(content, str):
        raise SpecError(
            f"the content of {path!r} is {content!r}", remedy="give a string, bytes, or a Path"
        )
    return path, content


def _outside(name: str) -> SpecError:
    return SpecError(f"the file {name!r} is not in the task's own folder", remedy=_BELOW)


def _command(job: str, command: Any) -> tuple[str, ...]:
    sequence = isinstance(command, Sequence) and not isinstance(command, (str, bytes))
    if not sequence or not command:
        raise SpecError(
            f"the command of job {job!r} is a list of the program and its arguments, "
            f"not {command!r}",
            remedy='write ["memcached", "-p", "{port}"]; for a shell line ["sh", "-c", "..."]',
        )
    arguments = []
    for argument in command:
        if isinstance(argument, (bytes, bytearray)):
            argument = bytes(argument)
            raise SpecError(
                f"the command of job {job!r} has the argument {argument!r}",
                remedy=f"write {os.fsdecode(argument)!r}: arguments are strings or paths",
            )
        if not isinstance(argument, (str, os.PathLike)):
            raise SpecError(
                f"the command of job {job!r} has the argument {argument!r}",
                remedy=f"write {str(argument)!r}: arguments are strings or paths",
            )
        text = os.fspath(argument)
        if not _can_be_passed(text):
            raise SpecError(
                f"the command of job {job!r} has the argument {text!r}, which cannot be passed on",
                remedy="leave out null characters and lone surrogates",
            )
        arguments.append(text)
    if not arguments[0]:
        raise SpecError(f"the command of job {job!r} names no program")
    return tuple(arguments)


def _can_be_passed(argument: str) -> bool:
    try:
        return b"\0" not in os.fsencode(argument)
    except UnicodeEncodeError:
        return False


def _check_condition(condition: Any) -> None:
    pattern = isinstance(condition, re.Pattern) and isinstance(condition.pattern, str)
    if condition not in ("tcp", "grpc") and not pattern and not callable(condition):
        raise SpecError(
            f"ready={condition!r} does not tell when a task is ready", remedy=f"use {_READY}"
        )


def _listens(address: str) -> str:
    host, _, port = address.rpartition(":")
    refusal: object = None
    # Programs differ in which of the two they bind for "localhost".
    for candidate in ("127.0.0.1", "::1") if host == "localhost" else (host,):
        try:
            with socket.create_connection((candidate, int(port)), _PROBE_SECONDS) as probe:
                if probe.getsockname() != probe.getpeername():  # dialling oneself also succeeds
                    return ""
        except OSError as error:
            refusal = refusal or error
    return f"nothing listens on {address} ({refusal})"


def _is_healthy(address: str) -> str:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from .._channel import open_channel

    with open_channel(address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        timeout = grpc_timeout(_PROBE_SECONDS)
        try:
            status = check(health_pb2.HealthCheckRequest(), timeout=timeout).status
        except grpc.RpcError as error:
            return (
                f"the gRPC health service at {address} does not answer: "
                f"{error.code().name}, {error.details()}"
            )
    if status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
    return f"the gRPC health service at {address} says {name}"


_looks: WeakKeyDictionary[Any, Future[object]] = WeakKeyDictionary()
"""By server, the condition that somebody is still asking."""


def _agrees(condition: Callable[[Any], object], server: Started) -> str:
    name = getattr(condition, "__qualname__", repr(condition))
    look = _looks.get(server)
    if look is None:
        # Not in this thread: a client that waits for ever must not take the start's deadline along.
        _looks[server] = look = Future()
        thread = Thread(
            target=_look,
            args=(look, condition, server),
            name=f"{name} of {server.task}",
            daemon=True,
        )
        thread.start()
        _held.hold_thread(thread)
    wait((look,), _LOOK_SECONDS)
    if not look.done():
        return f"{name} has not returned"
    del _looks[server]
    error = look.exception()
    if error is not None and not isinstance(error, Exception):
        raise error  # not a client's: the test wants to end
    if error is not None:  # clients raise until there is somebody to talk to
        return f"{name} raised {type(error).__name__}: {error}"
    answer = look.result()
    return "" if answer else f"{name} returned {answer!r}"


def _look(look: Future[object], condition: Callable[[Any], object], server: Started) -> None:
    try:
        look.set_result(condition(server))
    except BaseException as error:
        look.set_exception(error)
