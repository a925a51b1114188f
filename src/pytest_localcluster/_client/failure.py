"""What a master answers when something failed, as the exception to raise here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, TypeVar

import grpc

from .._context import address_of
from .._core import exceptions, stopped
from ..errors import AbortedError, DeadlineExceededError, OpError, RemoteTraceback, op_error

if TYPE_CHECKING:
    from .._clock import Deadline
    from .._proto.graph_pb2 import Status

__all__ = ["UnknownSession", "anew", "from_call", "raise_status"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both


T = TypeVar("T")

_ANEW = 100  # times that one run begins anew while others reset its target


class UnknownSession(AbortedError):
    """The master did nothing: it was restarted or reset, and knows no such session."""


def anew(attempt: Callable[[], T], deadline: Deadline) -> T:
    """Return what ``attempt`` gives, as soon as it meets a session that its master knows.

    Raises:
        AbortedError: others reset its target over and over.
    """
    for _ in range(_ANEW):
        try:
            return attempt()
        except UnknownSession as error:
            unknown = error
            if deadline.expired():
                break
    raise AbortedError(unknown.message) from None


def raise_status(status: Status, target: str, what: str, timeout: float | None) -> NoReturn:
    """Raise the error of a step, with what an operation raised, and where, as its cause.

    Args:
        status: what the master says.
        target: its own.
        what: which step.
        timeout: the seconds that all of it was given.
    """
    message = status.message
    out_of_time = status.code == DeadlineExceededError.code and not (status.op or status.traceback)
    if out_of_time and timeout is not None:
        message = _late(
            message.removeprefix("the step did not end in time; "), target, what, timeout
        )
    error = op_error(status.code)(message, op=status.op or None, device=status.device or None)
    cause = exceptions.load_exception(status.exception, status.traceback)
    if cause is None and status.traceback:
        cause = RemoteTraceback(status.traceback)
    raise error from cause


def from_call(error: grpc.RpcError, target: str, what: str, timeout: float | None) -> OpError:
    """Return the error for a call that failed.

    Args:
        error: what gRPC raised.
        target: what was called.
        what: what it was asked to do, such as ``"a step that fetches matmul:0"``.
        timeout: the seconds that all of it was given.
    """
    code, details = error.code(), error.details() or ""
    kind = op_error(code.value[0])
    if kind is AbortedError and details.startswith("unknown session handle"):
        kind = UnknownSession
    explain = _EXPLAIN.get(code)
    return kind(details if explain is None else explain(details, target, what, timeout))


def _unavailable(details: str, target: str, what: str, timeout: float | None) -> str:
    if (task := stopped.at(address_of(target))) is not None:
        return (
            f"{target} cannot be reached for {what}: it was {task}\n  To fix this: {stopped.REMEDY}"
        )
    return (
        f"{target} cannot be reached for {what}: {details}\n"
        "  To fix this: see whether its task is alive; after a restart the session works again"
    )


def _late(details: str, target: str, what: str, timeout: float | None) -> str:
    # gRPC's own words tell nothing; the master's may tell which operations were not done.
    said = f"; {details}" if details and not details.lower().startswith("deadline exceeded") else ""
    return f"{what} was not done by {target} within {timeout} s{said}"


def _cancelled(details: str, target: str, what: str, timeout: float | None) -> str:
    return f"{what} was cancelled: {details} (its session to {target} was closed meanwhile?)"


def _unimplemented(details: str, target: str, what: str, timeout: float | None) -> str:
    return (
        f"{target} knows no such call ({details}): "
        "sessions talk to tasks of the native runtime, of this version"
    )


_EXPLAIN: dict[grpc.StatusCode, Callable[[str, str, str, float | None], str]] = {
    grpc.StatusCode.UNAVAILABLE: _unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: _late,
    grpc.StatusCode.CANCELLED: _cancelled,
    grpc.StatusCode.UNIMPLEMENTED: _unimplemented,
}
