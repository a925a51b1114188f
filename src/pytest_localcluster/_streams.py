"""Calls of one method over streams that stay open.

Of a small call over gRPC most goes into making the call. So each thread that calls takes a stream
that is idle, or opens one, sends its request, waits for the answer, and leaves the stream to the
next. What goes wrong ends the stream, with the code and the words that a call of its own would
have; the next call opens another one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import grpc

from ._clock import Alarm

__all__ = ["Streams"]

_KEEP = 32  # idle streams, each with a thread on either side
_LARGE = 1 << 18  # bytes of a call after which a stream is not kept


class Streams:
    """Calls of one method of a server, from any number of threads.

    Args:
        method: a stub's; it takes a stream and gives one, with an answer to each request in turn.
        metadata: what each stream carries.
    """

    def __init__(self, method: Any, metadata: Any) -> None:
        self._method = method
        self._metadata = metadata
        self._idle: deque[_Stream] = deque()  # its methods are atomic

    def call(self, request: Any, timeout: float | None = None) -> Any:
        """Return the answer to a request; None if the call ended well and brought none.

        Args:
            request: the message.
            timeout: how many seconds to wait.

        Raises:
            grpc.RpcError: the call failed; DEADLINE_EXCEEDED is that it took too long.
            ValueError: the channel is closed.
        """
        stream = self._take()
        try:
            answer = stream.exchange(request, timeout)
        except BaseException:
            stream.cancel()  # the other side shall not go on for nobody
            raise
        if answer is not None:
            # gRPC holds the last message of a stream until there is another one.
            if request.ByteSize() + answer.ByteSize() > _LARGE:
                stream.close()
            else:
                self._idle.append(stream)
                if len(self._idle) > _KEEP:
                    self._idle.popleft().close()
        return answer

    def _take(self) -> _Stream:
        while self._idle:
            try:
                stream = self._idle.pop()
            except IndexError:  # another thread has just taken the last
                break
            if stream.is_open():
                return stream
        return _Stream(self._method, self._metadata)


class _Stream:
    """One stream, for one call at a time."""

    def __init__(self, method: Any, metadata: Any) -> None:
        requests: SimpleQueue[Any] = SimpleQueue()
        self._requests = requests
        self._answers = method(_until_none(requests), metadata=metadata)
        # Whatever ends it: gRPC's thread that waits for the next request is to end too.
        self._answers.add_done_callback(lambda _: requests.put(None))

    def exchange(self, request: Any, timeout: float | None) -> Any:
        self._requests.put(request)
        try:
            with Alarm(timeout, self._answers.cancel) as alarm:
                return next(self._answers, None)
        except grpc.RpcError:
            if alarm.rang:
                raise _Late from None
            raise

    def is_open(self) -> bool:
        return bool(self._answers.is_active())

    def cancel(self) -> None:
        self._answers.cancel()

    def close(self) -> None:
        self._requests.put(None)


class _Late(grpc.RpcError):  # type: ignore[misc]  # grpc has no types
    """What gRPC raises of a call that has a deadline of its own."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.DEADLINE_EXCEEDED

    def details(self) -> str:
        return "Deadline Exceeded"


def _until_none(requests: SimpleQueue[Any]) -> Iterator[Any]:
    while (request := requests.get()) is not None:
        yield request
        del request  # it may be large, and the next one far
