"""What every call goes through, so that whatever comes in, an answer goes out that tells why.

gRPC itself answers bytes that are no message, and exceptions of the code that it calls, with codes
that blame the server, and logs a traceback for each. Here what is the caller's fault is said to the
caller, with a code that says so, and nothing is logged; what is ours is INTERNAL, and logged.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import grpc

from ...errors import InternalError, InvalidArgumentError, OpError, ResourceExhaustedError
from .conversations import Conversations
from .statuses import StepFailed, code_of, status_of

__all__ = ["Answers"]

_log = logging.getLogger(__name__)


class Answers:
    """Registers services on a server, with this around each of their methods.

    A method that takes a stream and gives one answers request by request: it is written as one that
    takes a request and returns the answer.

    Args:
        server: the server.

    Attributes:
        conversations: the streams of such methods that are open.
    """

    def __init__(self, server: grpc.Server) -> None:
        self._server = server
        self.conversations = Conversations()

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Do nothing: generated code gives the same methods the other way too."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Have the methods of a service answered; found by name, which costs a start the least."""
        ours = {
            name: _answering(f"{service}/{name}", handlers[name], self.conversations)
            for name in handlers
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, ours),)
        )


class _Damaged:
    """Stands for a request that could not be read."""


def _answering(method: str, handler: Any, conversations: Conversations) -> Any:
    requests = "stream" if handler.request_streaming else "unary"
    responses = "stream" if handler.response_streaming else "unary"
    behaviour = getattr(handler, f"{requests}_{responses}")
    parse = handler.request_deserializer

    def read(data: bytes) -> Any:
        try:
            return parse(data)
        except Exception:  # protobuf's DecodeError, or no memory
            return _Damaged

    @functools.wraps(behaviour)  # with the attributes by which gRPC knows its own kinds
    def answer(request: Any, context: grpc.ServicerContext, *more: Any) -> Any:
        try:
            if handler.request_streaming:
                request = _whole(method, request)
            elif request is _Damaged:
                raise _unreadable(method)
            if handler.request_streaming and handler.response_streaming:
                result: Any = conversations.hold(context, request, behaviour)
            else:
                result = behaviour(request, context, *more)
        except Exception as error:
            _refuse(method, context, error)
        return _all_of(method, context, result) if handler.response_streaming and result else result

    def write(message: Any) -> bytes:
        return message if isinstance(message, bytes) else handler.response_serializer(message)

    make = getattr(grpc, f"{requests}_{responses}_rpc_method_handler")
    return make(answer, request_deserializer=read, response_serializer=write)


def _whole(method: str, requests: Iterator[Any]) -> Iterator[Any]:
    for request in requests:
        if request is _Damaged:
            raise _unreadable(method)
        yield request


def _all_of(method: str, context: grpc.ServicerContext, results: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from results
    except Exception as error:
        _refuse(method, context, error)


def _unreadable(method: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"a request to {method} is not of the type that it takes")


def _refuse(method: str, context: grpc.ServicerContext, error: Exception) -> NoReturn:
    """End a call with the code and the words of an error."""
    if isinstance(error, grpc.RpcError):
        raise error  # the caller has hung up; gRPC knows
    if isinstance(error, MemoryError):
        error = ResourceExhaustedError(f"{method} takes more memory than there is")
    elif not isinstance(error, (OpError, StepFailed)):
        _log.error("%s: a bug", method, exc_info=error)
        error = InternalError(f"{method} failed, with {type(error).__qualname__}: see the log")
    status = error.status if isinstance(error, StepFailed) else status_of(error)
    context.abort(*code_of(status))
    raise AssertionError("abort() raises")
