"""Tasks that are any program: a command line per job, and how to tell that it is ready."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from .. import _held
from .._clock import Thread
from .._program import Program
from .._spec import job_name
from ..errors import SpecError
from . import Runtime

if TYPE_CHECKING:
    from .._config import ClusterConfig
    from .._context import TaskContext
    from . import Assignment, Serving, Started

__all__ = ["CommandRuntime"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

_FIELD = re.compile(r"\{(host|port|address|job|index|tf_config|hosts\[([^\[\]{}]+)\])\}")
_FIELDS = "{host} {port} {address} {job} {index} {hosts[JOB]} {tf_config}"
_READY = "'tcp', 'grpc', re.compile(...), a function of the Server, or a mapping from job to these"
_PROBE_SECONDS = 1.0
_RECENT = 1 << 20  # how much output a regular expression is looked for in; all of it, for most
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, init=False)
class CommandRuntime(Runtime):
    """Runs a program in each task: ``CommandRuntime(ps=["memcached", "-p", "{port}"])``.

    In each argument ``{host}``, ``{port}``, ``{address}`` (``host:port``), ``{job}``, ``{index}``,
    ``{hosts[JOB]}`` (the addresses of a job's tasks, with commas between) and ``{tf_config}`` are
    filled in; any other brace stays as it is. The program has the task's environment, the test's
    working directory, no input, and its output in the task's log. It is asked to end by SIGTERM,
    and killed, with all processes of its group, if it does not.

    Args:
        commands: the program and its arguments, by job.
        ready: what makes a task count as started: ``"tcp"``, something listens on its port;
            ``"grpc"``, the gRPC health service there says SERVING; a compiled regular expression,
            found in what it printed (the last MiB); a function of its Server that returns something
            true, and may raise until then, but must not wait; or a mapping from job to one of these
            (``"tcp"`` for the others).
        jobs: further commands, by job.

    Raises:
        SpecError: what is given is no command, or ``ready`` is none of the above.
    """

    commands: Mapping[str, tuple[str, ...]]
    ready_when: Any

    def __init__(
        self,
        commands: Mapping[str, Sequence[str | os.PathLike[str]]] | None = None,
        /,
        *,
        ready: Any = "tcp",
        **jobs: Sequence[str | os.PathLike[str]],
    ) -> None:
        if not isinstance(commands or {}, Mapping):
            raise SpecError(
                f"CommandRuntime takes a mapping from job to command, not {commands!r}",
                remedy='write CommandRuntime(ps=["memcached", "-p", "{port}"])',
            )
        given = dict(commands or {})
        for job in given.keys() & jobs.keys():
            raise SpecError(
                f"CommandRuntime is given two commands for job {job!r}",
                remedy="keep one of the two",
            )
        given |= jobs
        if not given:
            raise SpecError(
                "CommandRuntime is given no command",
                remedy='write CommandRuntime(ps=["memcached", "-p", "{port}"])',
            )
        checked = {job_name(job): _command(job, command) for job, command in given.items()}
        object.__setattr__(self, "commands", checked)
        if isinstance(ready, Mapping):
            for job in ready.keys() - given.keys():
                raise SpecError(
                    f"ready names job {job!r}, for which there is no command",
                    remedy=f"there are commands for {', '.join(given)}",
                )
            ready = dict(ready)
        for condition in ready.values() if isinstance(ready, dict) else (ready,):
            _check_condition(condition)
        object.__setattr__(self, "ready_when", ready)

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
            for argument in self.commands[job]:
                for match in _FIELD.finditer(argument):
                    if match[2] is not None and match[2] not in config.counts():
                        raise SpecError(
                            f"the command of job {job!r} has {match[0]}, and this cluster has "
                            f"no job {match[2]!r}: {', '.join(config.counts())}",
                            remedy=f"the fields are {_FIELDS}",
                        )

    def entry(self, assignment: Assignment) -> Callable[[], Serving]:
        """Return what the task calls; how to tell that it is ready stays here."""
        return partial(CommandRuntime(self.commands).serve, assignment)

    def serve(self, assignment: Assignment) -> Serving:
        """Return the program that the task turns into."""
        context = assignment.context
        fill = partial(_FIELD.sub, partial(_value, context))
        return Program(tuple(map(fill, self.commands[context.task.job])))

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


def _value(context: TaskContext, match: re.Match[str]) -> str:
    task, spec = context.task, context.cluster_spec
    address = spec.task_address(task.job, task.index)
    host, _, port = address.rpartition(":")
    name, job = match[1], match[2]
    if job is not None:
        return ",".join(spec.task_address(job, index) for index in range(spec.num_tasks(job)))
    values = {"host": host, "port": port, "address": address, "job": task.job}
    values |= {"index": str(task.index), "tf_config": context.env["TF_CONFIG"]}
    return values[name]


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
        try:
            status = check(health_pb2.HealthCheckRequest(), timeout=_PROBE_SECONDS).status
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
