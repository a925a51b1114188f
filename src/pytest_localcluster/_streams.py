"""Calls of one method over streams that stay open.

Of a small call over gRPC most goes into making the call. So each thread that calls takes a stream
that is idle, or opens one, sends its request, waits for the answer, and leaves the stream to the
next. What goes wrong ends the stream, with the code and the words that a call of its own would
have; the next call opens another one.

A stream is driven by the thread that calls, where gRPC lets us, and otherwise by gRPC's own.
"""

from __future__ import annotations

from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import grpc

from ._clock import Alarm, grpc_timeout
from ._direct import CallFailed, DirectStream, open_directly
from ._proto.worker_pb2 import DESCRIPTOR, RecvTensorRequest
from ._tensors import read_frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Line", "Streams"]

_KEEP = 32  # idle streams, each with a thread on the other side
_LARGE = 1 << 18  # bytes of a call after which a stream is not kept

_RECV_TENSOR = f"/{DESCRIPTOR.services_by_name['WorkerService'].full_name}/RecvTensor"

_LATE, _GONE = grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE


class Streams:
    """Calls of one method of a server, from any number of threads.

    Args:
        method: a stub's; it takes a stream and gives one, with an answer to each request in turn.
        metadata: what each stream carries.
    """

    def __init__(self, method: Any, metadata: Any) -> None:
        self._method = method
        self._metadata = metadata
        self._idle: deque[DirectStream | _Stream] = deque()  # its methods are atomic
        self._closed = False

    def call(self, request: Any, timeout: float | None = None) -> Any:
        """Return the answer to a request; None if the call ended well and brought none.

        Args:
            request: the message.
            timeout: how many seconds to wait.

        Raises:
            grpc.RpcError: the call failed; DEADLINE_EXCEEDED is that it took too long, UNAVAILABLE
                also that the server has stopped.
            ValueError: the channel is closed.
        """
        stream = self._take()
        alarm = Alarm(timeout, stream.give_up)
        try:
            with alarm:
                answer = stream.exchange(request)
        except BaseException as error:
            stream.close()  # the other side shall not go on for nobody
            if isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.CANCELLED:
                if alarm.rang:
                    raise CallFailed(_LATE, "Deadline Exceeded") from None
                if not self._closed:  # then nobody here has cancelled it
                    raise CallFailed(_GONE, "the server has ended the stream") from None
            raise
        # gRPC holds the last message of a stream until there is another one.
        if answer is None or request.ByteSize() + answer.ByteSize() > _LARGE:
            stream.close()
        else:
            self._leave(stream)
        return answer

    def close(self) -> None:
        """End the streams that nobody uses; the others end with their calls. Idempotent."""
        self._closed = True
        self._keep(0)

    def _take(self) -> DirectStream | _Stream:
        while self._idle:
            try:
                stream = self._idle.pop()
            except IndexError:  # another thread has just taken the last
                break
            if stream.is_open():
                return stream
        return open_directly(self._method, self._metadata) or _Stream(self._method, self._metadata)

    def _leave(self, stream: DirectStream | _Stream) -> None:
        self._idle.append(stream)
        self._keep(0 if self._closed else _KEEP)

    def _keep(self, most: int) -> None:
        while len(self._idle) > most:
            try:
                self._idle.popleft().close()
            except IndexError:
                return


class Line:
    """A channel to one task, and the calls over it.

    Args:
        channel: the channel, from now on this line's own.
        stub: what calls the task's service over it.
        metadata: what each call carries.
        streaming: the methods that answer request after request; they are called over streams.
    """

    def __init__(
        self, channel: grpc.Channel, stub: Any, metadata: Any, streaming: Iterable[str]
    ) -> None:
        self._channel = channel
        self._stub = stub
        self._metadata = metadata
        self._streams = {name: Streams(getattr(stub, name), metadata) for name in streaming}
        self._receive = channel.unary_stream(
            _RECV_TENSOR,
            request_serializer=RecvTensorRequest.SerializeToString,
            response_deserializer=read_frame,  # without the copies that protobuf makes of chunks
        )

    def call(self, method: str, request: Any, timeout: float | None) -> Any:
        """Return the answer of a method; see :meth:`Streams.call`."""
        streams = self._streams.get(method)
        if streams is not None:
            return streams.call(request, timeout)
        timeout = grpc_timeout(timeout)
        return getattr(self._stub, method)(request, timeout=timeout, metadata=self._metadata)

    def receive(self, request: RecvTensorRequest, timeout: float | None) -> Any:
        """Return the stream of the messages that bring a tensor."""
        return self._receive(request, timeout=grpc_timeout(timeout), metadata=self._metadata)

    def close(self) -> None:
        """Close the channel; calls that are under way fail."""
        for streams in self._streams.values():
            streams.close()
        self._channel.close()


class _Stream:
    """One stream in gRPC's own way, for one call at a time."""

    def __init__(self, method: Any, metadata: Any) -> None:
        requests: SimpleQueue[Any] = SimpleQueue()
        self._requests = requests
        self._answers = method(_until_none(requests), metadata=metadata)
        # Whatever ends it: gRPC's thread that waits for the next request is to end too.
        self._answers.add_done_callback(lambda _: requests.put(None))

    def exchange(self, request: Any) -> Any:
        self._requests.put(request)
        return next(self._answers, None)

    def is_open(self) -> bool:
        return bool(self._answers.is_active())

    def give_up(self) -> None:
        self._answers.cancel()

    close = give_up


def _until_none(requests: SimpleQueue[Any]) -> Iterator[Any]:
    while (request := requests.get()) is not None:
        yield request
        del request  # it may be large, and the next one far
