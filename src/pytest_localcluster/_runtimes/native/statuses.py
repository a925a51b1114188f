"""How failures travel: exceptions to Status messages or gRPC codes, and back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import grpc

from ... import _pickling
from ..._proto.graph_pb2 import Status
from ...errors import OpError, UnavailableError, UnknownError, op_error

__all__ = ["StepFailed", "answering", "error_of", "operation_failed", "status_of"]

F = TypeVar("F", bound=Callable[..., Any])

# A gRPC message goes in the headers, which the other side refuses beyond some kilobytes.
_LONGEST = 2000

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class StepFailed(Exception):
    """A step ended here because of ``status``, which says where and why it really failed."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


def status_of(error: OpError, *, op: str = "", device: str = "") -> Status:
    """Return the message for an error of our own."""
    return Status(
        code=error.code, message=error.message, op=error.op or op, device=error.device or device
    )


def operation_failed(error: BaseException, op: str, device: str) -> Status:
    """Return the message for what an operation's Python function raised."""
    data, text = _pickling.dump_exception(error)
    if isinstance(error, OpError):
        status = status_of(error, op=op, device=device)
    else:
        try:
            what = str(error)
        except Exception:
            what = "(its text cannot be had: __str__ raised)"
        kind = type(error).__qualname__
        message = f"{op} raised {kind}: {what}" if what else f"{op} raised {kind}"
        status = Status(code=UnknownError.code, message=message, op=op, device=device)
    status.exception = data
    status.traceback = text
    return status


def error_of(error: grpc.RpcError | ValueError, who: str) -> OpError:
    """Return the session error for a failed call to the task that ``who`` names."""
    if isinstance(error, ValueError):  # what grpc raises for a channel that was closed meanwhile
        return UnavailableError(f"the connection to {who} was closed: {error}")
    code, details = error.code(), error.details() or "no details"
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        # Nobody but us cancels such a call: when the connection is dropped, for the task is gone.
        return UnavailableError(
            f"{who} could not be reached: {details}\n"
            "  To fix this: see whether it is alive and what its log says, and run the step again"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and details.lower().startswith(code.value[1]):
        details = "did not answer in time\n  To fix this: see whether it is suspended or overloaded"
        return op_error(code.value[0])(f"{who} {details}")
    return op_error(code.value[0])(f"{who}: {details}")


def answering(method: F) -> F:
    """Have an RPC's method answer the errors of sessions with their gRPC codes."""

    @functools.wraps(method)
    def answer(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(self, request, context)
        except (OpError, StepFailed) as error:
            abort(context, error)

    return answer  # type: ignore[return-value]  # it takes and returns what the method does


def abort(context: grpc.ServicerContext, error: OpError | StepFailed) -> NoReturn:
    """End an RPC with an error."""
    status = error.status if isinstance(error, StepFailed) else status_of(error)
    message = status.message
    if len(message) > _LONGEST:
        message = message[:_LONGEST] + " ..."
    context.abort(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), message)
    raise AssertionError("abort() raises")
