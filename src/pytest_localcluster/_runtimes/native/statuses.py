"""How failures travel: exceptions to Status messages or gRPC codes, and back."""

from __future__ import annotations

import grpc

from ..._core import exceptions
from ..._proto.graph_pb2 import Status
from ...errors import OpError, UnavailableError, UnknownError, op_error

__all__ = ["StepFailed", "code_of", "error_of", "operation_failed", "passed_on", "status_of"]

_LONGEST = 2000  # characters of what is said of a failure

# A gRPC message goes in the headers, which the other side refuses beyond some kilobytes.
_ROOM = 5000

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class StepFailed(Exception):
    """A step ended here because of ``status``, which says where and why it really failed."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


def status_of(error: OpError, *, op: str = "", device: str = "") -> Status:
    """Return the message for an error of our own."""
    return Status(
        code=error.code,
        message=_short(error.message),
        op=_short(error.op or op),
        device=_short(error.device or device),
    )


def passed_on(status: Status) -> Status:
    """Return a status that somebody sent, with a code that there is, and no longer than needed.

    What the exception looked like is left out: it is nothing to those who did not raise it.
    """
    return Status(
        code=status.code if status.code in _CODES else UnknownError.code,
        message=_short(status.message),
        op=_short(status.op),
        device=_short(status.device),
    )


def code_of(status: Status) -> tuple[grpc.StatusCode, str]:
    """Return the code and the message with which a call ends."""
    text = _short(status.message)
    while _in_headers(text) > _ROOM:
        text = _short(text, len(text) // 2)
    return _CODES.get(status.code, grpc.StatusCode.UNKNOWN), text


def _in_headers(text: str) -> int:
    """Return how many bytes of the headers a text takes, where only plain ASCII goes as it is."""
    return sum(1 if 32 <= byte < 127 else 3 for byte in text.encode())


def _short(text: str, longest: int = _LONGEST) -> str:
    """Return a text that can be sent: in UTF-8, and not long; what is too much is in its middle."""
    if len(text) > longest:
        half = longest // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return _sendable(text)


def _sendable(text: str) -> str:
    """Return a text without what UTF-8 has no place for, as some file names have it."""
    return text.encode(errors="backslashreplace").decode()


def operation_failed(error: BaseException, op: str, device: str) -> Status:
    """Return the message for what an operation's Python function raised."""
    data, text = exceptions.dump_exception(error)
    if isinstance(error, OpError):
        status = status_of(error, op=op, device=device)
        status.message = _sendable(error.message)  # in the user's own words, however many
    else:
        try:
            what = str(error)
        except Exception:
            what = "(its text cannot be had: __str__ raised)"
        kind = type(error).__qualname__
        message = f"{op} raised {kind}: {what}" if what else f"{op} raised {kind}"
        status = Status(
            code=UnknownError.code, message=_sendable(message), op=_short(op), device=_short(device)
        )
    status.exception = data
    status.traceback = _sendable(text)
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
