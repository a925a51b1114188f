"""Calls over streams that stay open: what becomes of each, and of the streams."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from pytest_localcluster import _streams
from pytest_localcluster._channel import open_channel
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._direct import open_directly
from pytest_localcluster._proto.graph_pb2 import Status
from pytest_localcluster._streams import Streams

METADATA = (("who", "me"),)


class Served:
    """A server that answers on streams as it is told to."""

    def __init__(self) -> None:
        self.opened: list[Any] = []  # the context of each stream
        self.asked = threading.Semaphore(0)
        self.answer: Callable[[Status, grpc.ServicerContext], Status] = lambda request, _: request
        self.pool = ThreadPoolExecutor(80)
        self._server = grpc.server(self.pool, options=[("grpc.so_reuseport", 0)])
        handler = grpc.stream_stream_rpc_method_handler(
            self._talk,
            request_deserializer=Status.FromString,
            response_serializer=Status.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test", {"Talk": handler}),)
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def _talk(self, requests: Iterator[Status], context: grpc.ServicerContext) -> Iterator[Status]:
        self.opened.append(context)
        for request in requests:
            self.asked.release()
            yield self.answer(request, context)

    def open(self) -> int:
        """Return how many streams are open."""
        return sum(context.is_active() for context in self.opened)

    def stop(self) -> None:
        self._server.stop(None).wait()
        self.pool.shutdown()


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.stop()


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    with open_channel(f"127.0.0.1:{served.port}") as channel:
        yield channel


@pytest.fixture(params=["direct", "as gRPC has them"])
def streams(
    channel: grpc.Channel, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Streams:
    if request.param != "direct":
        monkeypatch.setattr(_streams, "open_directly", lambda *_: None)
    method = channel.stream_stream(
        "/test/Talk",
        request_serializer=Status.SerializeToString,
        response_deserializer=Status.FromString,
    )
    return Streams(method, METADATA)


def test_calls_one_after_the_other_share_a_stream(streams: Streams, served: Served) -> None:
    for number in range(50):
        assert streams.call(Status(code=number), timeout=None if number % 2 else 60).code == number
    assert len(served.opened) == 1
    assert ("who", "me") in served.opened[0].invocation_metadata()


def test_calls_at_once_get_their_own_answers(streams: Streams, served: Served) -> None:
    together = threading.Barrier(50)

    def meet(request: Status, _: Any) -> Status:
        together.wait(20)
        return request

    served.answer = meet
    with ThreadPoolExecutor(50) as callers:
        for _ in range(3):
            answers = callers.map(lambda n: streams.call(Status(code=n)).code, range(50))
            assert list(answers) == list(range(50))
    assert poll(lambda: served.open() == 32, Deadline(20))  # the rest were closed


def test_a_failure_ends_its_stream_alone(streams: Streams, served: Served) -> None:
    def fail(_: Status, context: grpc.ServicerContext) -> Status:
        context.abort(grpc.StatusCode.DATA_LOSS, "gone")
        raise AssertionError

    served.answer = fail
    for _ in range(3):
        with pytest.raises(grpc.RpcError) as caught:
            streams.call(Status())
        assert caught.value.code() is grpc.StatusCode.DATA_LOSS
        assert caught.value.details() == "gone"
    served.answer = lambda request, _: request
    assert streams.call(Status(code=1)).code == 1


def test_an_end_by_the_server_is_that_it_is_gone(streams: Streams, served: Served) -> None:
    def end(request: Status, context: grpc.ServicerContext) -> Status:
        context.cancel()
        return request

    served.answer = end
    with pytest.raises(grpc.RpcError) as caught:
        streams.call(Status())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_what_is_late_is_given_up(streams: Streams, served: Served) -> None:
    given_up = threading.Event()

    def wait(request: Status, context: grpc.ServicerContext) -> Status:
        assert context.add_callback(given_up.set)
        assert given_up.wait(20)
        return request

    streams.call(Status())
    served.answer = wait
    with pytest.raises(grpc.RpcError) as caught:
        streams.call(Status(), timeout=0.05)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert given_up.wait(20)
    served.answer = lambda request, _: request
    assert streams.call(Status(code=1), timeout=20).code == 1


def test_a_stream_that_ended_meanwhile_is_not_used(streams: Streams, served: Served) -> None:
    assert streams.call(Status(code=1)).code == 1
    served.opened[0].cancel()
    assert poll(lambda: served.open() == 0, Deadline(20))
    (stream,) = streams._idle
    assert poll(lambda: not stream.is_open(), Deadline(20))
    assert streams.call(Status(code=2)).code == 2
    assert len(served.opened) == 2


def test_interrupted(streams: Streams, served: Served) -> None:
    given_up = threading.Event()

    def interrupt(request: Status, context: grpc.ServicerContext) -> Status:
        assert context.add_callback(given_up.set)
        signal.raise_signal(signal.SIGINT)  # to the main thread, which waits for this
        assert given_up.wait(20)
        return request

    streams.call(Status())
    served.answer = interrupt
    with pytest.raises(KeyboardInterrupt):
        streams.call(Status())
    assert given_up.wait(20)
    served.answer = lambda request, _: request
    assert streams.call(Status(code=1)).code == 1


def test_another_grpc(channel: grpc.Channel) -> None:
    """Where gRPC is not as it is today, streams are made in its own way."""
    assert open_directly(SimpleNamespace(_channel=SimpleNamespace(segregated_call=len)), ()) is None
    intercepted = grpc.intercept_channel(channel, _Nothing())
    assert open_directly(intercepted.stream_stream("/test/Talk"), ()) is None


class _Nothing(grpc.StreamStreamClientInterceptor):  # type: ignore[misc]  # grpc has no types
    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(details, requests)


def test_what_was_large_does_not_stay(streams: Streams, served: Served) -> None:
    assert len(streams.call(Status(message="x" * 2_000_000)).message) == 2_000_000
    assert poll(lambda: served.open() == 0, Deadline(20))
    assert streams.call(Status(code=1)).code == 1


def test_an_end_without_an_answer(served: Served, channel: grpc.Channel) -> None:
    method = channel.stream_stream("/test/Nothing", Status.SerializeToString, Status.FromString)
    with pytest.raises(grpc.RpcError) as caught:
        Streams(method, ()).call(Status())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_closed_channel(streams: Streams, channel: grpc.Channel) -> None:
    before = threading.active_count()
    streams.call(Status())
    streams.close()
    channel.close()
    with pytest.raises(ValueError, match="[Cc]losed"):
        streams.call(Status())
    assert poll(lambda: threading.active_count() <= before + 1, Deadline(20))
