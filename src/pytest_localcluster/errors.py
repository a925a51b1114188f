"""The errors of clusters and of sessions, as two trees.

What goes wrong with a **cluster** (its tasks, ports, processes)::

    ClusterError
      SpecError (ValueError)            asked for what cannot exist
      PortError                         no port to be had, or a lease was lost
      StartError                        a task did not come up
        StartTimeout (TimeoutError)     alive, but never ready
      ServerExited                      a task died
      StopError                         a task would not die
      UnsupportedError                  this launcher or runtime cannot do that

What goes wrong in a **session** (its steps); names are TensorFlow's, codes gRPC's::

    OpError
      CancelledError, UnknownError, InvalidArgumentError, DeadlineExceededError,
      NotFoundError, AlreadyExistsError, PermissionDeniedError, ResourceExhaustedError,
      FailedPreconditionError, AbortedError, OutOfRangeError, UnimplementedError,
      InternalError, UnavailableError, DataLossError, UnauthenticatedError

What cannot go **into a task or out of it** is a :class:`TransferError`, which is both what pickle
raises for it: PicklingError and TypeError.

Every error is a small report; each of its parts is an attribute too. All of them pickle.
"""

from __future__ import annotations

import pickle
from typing import ClassVar, TypeVar

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "CancelledError",
    "ClusterError",
    "ClusterLeakWarning",
    "ClusterStoppedWarning",
    "DataLossError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "InternalError",
    "InvalidArgumentError",
    "NotFoundError",
    "OpError",
    "OutOfRangeError",
    "PermissionDeniedError",
    "PortError",
    "RemoteTraceback",
    "ResourceExhaustedError",
    "ServerExited",
    "SpecError",
    "StartError",
    "StartTimeout",
    "StopError",
    "TransferError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UnknownError",
    "UnsupportedError",
]


class ClusterError(Exception):
    """Something is wrong with a cluster or one of its tasks.

    ``str`` renders the report: the message, where it happened, the evidence, the remedy.

    Args:
        message: what failed, in one sentence.
        task: the task's name, such as ``/job:ps/task:0``.
        address: where the task serves, such as ``localhost:41234``.
        pid: its process, if it has one of its own.
        status: what was last known of it, such as ``still alive`` or ``killed by SIGSEGV``.
        evidence: the last lines of its log, or the stacks of its threads.
        remedy: what to do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        task: str | None = None,
        address: str | None = None,
        pid: int | None = None,
        status: str | None = None,
        evidence: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.task = task
        self.address = address
        self.pid = pid
        self.status = status
        self.evidence = evidence
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [self.message]
        address = f"at {self.address}" if self.address else None
        pid = f"pid {self.pid}" if self.pid is not None else None
        where = ", ".join(part for part in (address, pid, self.status) if part)
        lines += [f"  {where}"] if where else []
        lines += [f"  | {line}" for line in (self.evidence or "").rstrip("\n").splitlines()]
        if self.remedy:
            lines.append(f"  To fix this: {self.remedy}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return rebuild, (type(self), self.args, dict(self.__dict__))


class SpecError(ClusterError, ValueError):
    """What was asked for cannot exist: a count, name, address, option or configuration."""


class PortError(ClusterError):
    """No port could be leased, or a leased port was taken by somebody else."""


class StartError(ClusterError):
    """A task did not come up."""


class StartTimeout(StartError, TimeoutError):
    """A task is alive but was not ready in time; the evidence shows its threads' stacks."""


class ServerExited(ClusterError):
    """A task died; ``exitcode`` is as in :mod:`subprocess`, None if nobody could tell."""

    def __init__(self, message: str, *, exitcode: int | None = None, **report: object) -> None:
        super().__init__(message, **report)  # type: ignore[arg-type]  # the base names them
        self.exitcode = exitcode


class StopError(ClusterError):
    """A task would not die; ``survivors`` names what is left."""

    def __init__(self, message: str, *, survivors: tuple[str, ...] = (), **report: object) -> None:
        super().__init__(message, **report)  # type: ignore[arg-type]  # the base names them
        self.survivors = survivors


class UnsupportedError(ClusterError):
    """This launcher or runtime cannot do that; the message says which can."""


class TransferError(pickle.PicklingError, TypeError):
    """A function, argument or result holds something that stays in the process where it is.

    Args:
        message: what was to go where, and what of it cannot, by its path from the function.
        path: that path, such as ``global LOCK`` or ``args[1]['conn'].sock``; "" if not found.
        reason: what pickle said.
        remedy: the way out.
    """

    def __init__(self, message: str, *, path: str = "", reason: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  To fix this: {self.remedy}" if self.remedy else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return rebuild, (type(self), self.args, dict(self.__dict__))


class RemoteTraceback(Exception):
    """The traceback of an exception that was raised in a task.

    It is the ``__cause__`` of the exception's copy in the test process; if that has a cause of its
    own, of the last one in the chain of causes.
    """

    def __str__(self) -> str:
        return "\n\n" + str(self.args[0]).rstrip()


class ClusterLeakWarning(UserWarning):
    """Something of a cluster has outlived it; what ``--cluster-leak-check=warn`` gives."""


class ClusterStoppedWarning(UserWarning):
    """The address of a server was asked for whose cluster stopped with an earlier test."""


class OpError(Exception):
    """A step, or a call to a session's target, failed.

    Args:
        message: what failed and what would do instead.
        op: the operation that failed, if it was one.
        device: where it ran or should have run, such as ``/job:ps/replica:0/task:0/device:CPU:0``.
    """

    code: ClassVar[int] = 2  # gRPC's code for this kind of error

    def __init__(self, message: str, *, op: str | None = None, device: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.op = op
        self.device = device

    def __str__(self) -> str:
        op = f"op: {self.op}" if self.op else None
        where = ", ".join(filter(None, (op, f"device: {self.device}" if self.device else None)))
        return f"{self.message}\n  {where}" if where else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return rebuild, (type(self), self.args, dict(self.__dict__))


class CancelledError(OpError):
    """The step was cancelled, usually because its session was closed."""

    code = 1


class UnknownError(OpError):
    """An operation raised an exception that has no code of its own; it is the ``__cause__``."""

    code = 2


class InvalidArgumentError(OpError):
    """A device, feed, fetch or value that cannot be; named in the message."""

    code = 3


class DeadlineExceededError(OpError, TimeoutError):
    """The step did not end within its timeout."""

    code = 4


class NotFoundError(OpError):
    """Something named in the request does not exist."""

    code = 5


class AlreadyExistsError(OpError):
    """Something with this name exists already."""

    code = 6


class PermissionDeniedError(OpError):
    """The caller may not do that."""

    code = 7


class ResourceExhaustedError(OpError):
    """Memory or another resource of the task ran out."""

    code = 8


class FailedPreconditionError(OpError):
    """The state of the task does not allow that, such as reading an uninitialised variable."""

    code = 9


class AbortedError(OpError):
    """The step was ended because another part of it failed, or its task was reset or restarted."""

    code = 10


class OutOfRangeError(OpError):
    """A value lies outside the valid range."""

    code = 11


class UnimplementedError(OpError):
    """The target does not offer this call."""

    code = 12


class InternalError(OpError):
    """The target broke one of its own promises: a bug."""

    code = 13


class UnavailableError(OpError):
    """A task could not be reached: it is dead, restarting, or was never there."""

    code = 14


class DataLossError(OpError):
    """Data was lost or damaged on the way."""

    code = 15


class UnauthenticatedError(OpError):
    """The call carried no token, or not this cluster's."""

    code = 16


def op_error(code: int) -> type[OpError]:
    """Return the session error for a gRPC status code, :class:`UnknownError` for any other."""
    return _BY_CODE.get(code, UnknownError)


_BY_CODE: dict[int, type[OpError]] = {kind.code: kind for kind in OpError.__subclasses__()}
_E = TypeVar("_E", bound=Exception)


def rebuild(kind: type[_E], args: tuple[object, ...], state: dict[str, object]) -> _E:
    """Make an exception again from its parts, whatever its ``__init__`` takes."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


# Tracebacks should name these by where users import them from.
for _name in __all__:
    if issubclass(globals()[_name], ClusterError):
        globals()[_name].__module__ = "pytest_localcluster"
