"""Streams that a thread drives by itself, without the threads that gRPC puts in between.

gRPC's own streams hand each request to one thread and take each answer from another; to be woken
takes longer than the message does. gRPC drives its calls like this with the channel option
SingleThreadedUnaryStream, which there is for calls with one request only. What is used of gRPC here
is not its public interface: where it looks different, there are no such streams.
"""

from __future__ import annotations

from typing import Any

import grpc

__all__ = ["CallFailed", "DirectStream", "open_directly"]

try:
    from grpc._cython import cygrpc
except ImportError:  # pragma: no cover  # a gRPC that is not today's
    cygrpc = None

_CODES = {code.value[0]: code for code in grpc.StatusCode}

# What an event is about.
_SENT, _BEGUN, _OVER, _ANSWER, _NOW = "sent", "begun", "over", "answer", "now"


class CallFailed(grpc.RpcError):  # type: ignore[misc]  # grpc has no types
    """A call that failed, as gRPC's own errors tell of it."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self._code = code
        self._details = details

    def code(self) -> grpc.StatusCode:
        """Return the status code."""
        return self._code

    def details(self) -> str:
        """Return the words that came with it."""
        return self._details


def open_directly(method: Any, metadata: Any) -> DirectStream | None:
    """Open a stream of a stub's method; None if that cannot be done with this gRPC.

    Raises:
        ValueError: the channel is closed.
    """
    try:
        if cygrpc.is_fork_support_enabled():  # a fork would wait for a call that nobody drives
            return None
        call = method._channel.segregated_call(
            cygrpc.PropagationConstants.GRPC_PROPAGATE_DEFAULTS,
            method._method,
            None,
            None,
            metadata,
            None,
            # All in one batch, the end would sometimes never be told of.
            (
                ((cygrpc.SendInitialMetadataOperation(metadata, 0),), _SENT),
                ((cygrpc.ReceiveInitialMetadataOperation(0),), _BEGUN),
                ((cygrpc.ReceiveStatusOnClientOperation(0),), _OVER),
            ),
            None,
            method._registered_call_handle,
        )
        return DirectStream(call, method._request_serializer, method._response_deserializer)
    except (AttributeError, TypeError):
        return None


class DirectStream:
    """One stream, for one thread at a time.

    Args:
        call: gRPC's, just begun.
        write: makes bytes of a request.
        read: makes an answer of bytes.
    """

    def __init__(self, call: Any, write: Any, read: Any) -> None:
        self._call = call
        self._write = write
        self._read = read
        # What gRPC is going to tell of; after the last of it the call must not be asked any more.
        self._due = {_SENT, _BEGUN, _OVER}
        self._status: Any = None

    def exchange(self, request: Any) -> Any:
        """Send a request and wait for the answer; None is that the stream ended well without one.

        Raises:
            CallFailed: the stream has failed.
        """
        try:
            data = self._write(request)
        except Exception:  # as gRPC says it
            raise CallFailed(grpc.StatusCode.INTERNAL, "Exception serializing request!") from None
        if _SENT in self._due:  # there can be one at a time
            self._until(_SENT)
        # Not in one batch: with a send that failed, an answer that came all the same would be lost.
        sent = self._operate((cygrpc.SendMessageOperation(data, 0),), _SENT)
        if not (sent and self._operate((cygrpc.ReceiveMessageOperation(0),), _ANSWER)):
            raise CallFailed(grpc.StatusCode.CANCELLED, "the stream is closed")
        answer = self._until(_ANSWER).batch_operations[0].message()
        if answer is not None:
            try:
                return self._read(answer)
            except Exception:
                message = "Exception deserializing response!"
                raise CallFailed(grpc.StatusCode.INTERNAL, message) from None
        self._end()
        code = _CODES.get(self._status.code(), grpc.StatusCode.UNKNOWN)
        if code is grpc.StatusCode.OK:
            return None
        details = self._status.details()
        raise CallFailed(code, details.decode() if isinstance(details, bytes) else details)

    def is_open(self) -> bool:
        """Tell whether it can be used, as far as is known here."""
        # Nothing to do is done at once: what happened before is before it in the queue.
        if not self._operate((), _NOW):
            return False
        self._until(_NOW)
        return self._status is None

    def give_up(self) -> None:
        """End it from whichever thread; the one that waits for an answer is told."""
        self._call.cancel(cygrpc.StatusCode.cancelled, "given up")

    def close(self) -> None:
        """End it, from the thread that has it."""
        self.give_up()
        self._end()

    def _operate(self, operations: Any, what: str) -> bool:
        begun: bool = self._call.operate(operations, what)
        if begun:
            self._due.add(what)
        return begun

    def _end(self) -> None:
        while self._due:
            self._until(next(iter(self._due)))

    def _until(self, wanted: str) -> Any:
        """Return the event ``wanted``; note on the way how the stream ended."""
        while True:
            try:
                event = self._call.next_event()
            except BaseException:
                # Raised by the handler of a signal: gRPC has given up the call.
                self._due.clear()
                self.give_up()
                raise
            self._due.discard(event.tag)
            if event.tag == _OVER:
                self._status = event.batch_operations[0]
            if event.tag == wanted:
                return event
