"""Real messages to begin with: every call of real sessions, as it went over the wire.

A cluster in this process runs steps of all kinds; whoever opens a channel meanwhile, the client or
a task, gets one that notes what is sent over it. Values count as large from a few bytes on, so that
streams are short.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest
from google.protobuf import message_factory
from google.protobuf.message import Message

from pytest_localcluster import (
    ConfigProto,
    LocalCluster,
    Session,
    Variable,
    _channel,
    _tensors,
    device,
    errors,
    function,
    placeholder,
)
from pytest_localcluster._proto import master_pb2, worker_pb2
from pytest_localcluster._proto.worker_pb2 import RegisterGraphRequest
from pytest_localcluster._runtimes.native import peers, reading, stepping, worker

M = TypeVar("M", bound=Message)

SMALL = 300  # bytes above which a value goes as a stream, while this records
CHUNK = 200


@dataclass(frozen=True)
class Method:
    """One RPC."""

    path: str
    request: type[Message]
    response: type[Message]
    streams_in: bool
    streams_out: bool

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


METHODS: dict[str, Method] = {
    rpc.name: Method(
        f"/{service.full_name}/{rpc.name}",
        message_factory.GetMessageClass(rpc.input_type),
        message_factory.GetMessageClass(rpc.output_type),
        rpc.client_streaming,
        rpc.server_streaming,
    )
    for module in (master_pb2, worker_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for rpc in service.methods
}


@dataclass(frozen=True)
class Sample:
    """One recorded call: the messages that the caller sent."""

    method: Method
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Corpus:
    """What was recorded.

    Attributes:
        samples: by the name of the method.
        sessions: the calls by which each session sent its graph, in order.
        graphs: by the handle that they were given, the parts that were registered.
    """

    samples: dict[str, list[Sample]]
    sessions: list[list[tuple[str, tuple[Message, ...]]]]
    graphs: dict[str, RegisterGraphRequest]


class _Recorder(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]  # grpc has no types
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls: list[tuple[str, list[Message]]] = []
        self.graphs: dict[str, RegisterGraphRequest] = {}

    def _note(self, details: Any) -> list[Message]:
        messages: list[Message] = []
        with self._lock:
            self.calls.append((details.method, messages))
        return messages

    def _one(self, continuation: Callable[..., Any], details: Any, request: Message) -> Any:
        self._note(details).append(copied(request))
        return continuation(details, request)

    intercept_unary_stream = _one

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], details: Any, request: Message
    ) -> Any:
        call = self._one(continuation, details, request)
        if isinstance(request, RegisterGraphRequest):
            self.graphs[call.result().graph_handle] = copied(request)
        return call

    def intercept_stream_unary(
        self, continuation: Callable[..., Any], details: Any, requests: Iterator[Message]
    ) -> Any:
        messages = self._note(details)

        def noted() -> Iterator[Message]:
            for request in requests:
                messages.append(copied(request))
                yield request

        return continuation(details, noted())

    def intercept_stream_stream(
        self, continuation: Callable[..., Any], details: Any, requests: Iterator[Message]
    ) -> Any:
        def noted() -> Iterator[Message]:
            for request in requests:  # each is answered by itself, and is a call of its own here
                self._note(details).append(copied(request))
                yield request

        return continuation(details, noted())


def copied(message: M) -> M:
    """Return a copy of a message."""
    return type(message).FromString(message.SerializeToString())


def record() -> Corpus:
    """Run sessions of all kinds; return what was sent."""
    recorder = _Recorder()
    open_plain = _channel.open_channel

    def open_channel(*args: Any, **options: Any) -> Any:
        return grpc.intercept_channel(open_plain(*args, **options), recorder)

    with pytest.MonkeyPatch.context() as patch:
        for module in (_channel, peers, reading):
            patch.setattr(module, "open_channel", open_channel)
        for module in (_tensors, stepping, worker):
            patch.setattr(module, "INLINE_LIMIT", SMALL)
        patch.setattr(_tensors, "CHUNK", CHUNK)
        patch.setattr(_tensors, "_SMALL", 50)
        with LocalCluster(workers=2, ps=1, launcher="thread") as cluster:
            _run_everything(cluster)
    samples: dict[str, list[Sample]] = {name: [] for name in METHODS}
    sessions: dict[str, list[tuple[str, tuple[Message, ...]]]] = {}
    seen = set()
    for path, messages in recorder.calls:
        key = path, tuple(message.SerializeToString(deterministic=True) for message in messages)
        if messages and key not in seen:
            seen.add(key)
            method = METHODS[path.rpartition("/")[2]]
            samples[method.name].append(Sample(method, tuple(messages)))
            keep = method.name == "SendTensor" and messages[0].keep  # type: ignore[attr-defined]
            if method.name == "ExtendSession" or keep:
                handle: str = messages[0].session_handle  # type: ignore[attr-defined]
                sessions.setdefault(handle, []).append((method.name, tuple(messages)))
    return Corpus(samples, list(sessions.values()), recorder.graphs)


def _run_everything(cluster: LocalCluster) -> None:
    large = np.arange(100.0)
    with device("/job:ps/task:0"):
        total = Variable(np.zeros(3), name="total")
        table = Variable(np.zeros((4, 30)), name="table")
        names = Variable(np.array(["a", "bc"]), name="names")
        untyped = Variable(np.ones(2, "<c8"), name="untyped")
        ones = function(np.ones)(50)
    x = placeholder(np.float64, (None,))
    words = placeholder(np.dtype("<U5"))
    with device("/job:worker/task:1"):
        there = np.sqrt(np.abs(x + total)) * 2
        several = np.split(np.arange(6) + x[:1].astype(int), 2)
        upper = function(np.strings.upper)(words) if hasattr(np, "strings") else words + words
        far = large + np.sum(ones)
    with device("/job:worker/task:0"):
        here = np.concatenate([there, total]) @ np.ones(6) + np.sum(table)
    fails = function(np.linalg.inv)(np.zeros((2, 2)) + np.sum(x))
    steps: list[tuple[Any, dict[Any, Any]]] = [
        ([v.initializer for v in (total, table, names, untyped)], {}),
        ([here, there], {x: np.ones(3)}),
        ([here], {x: np.ones(3)}),
        ([far, ones, x], {x: large}),
        ([there[:1]], {x: large[:3]}),
        (several, {x: np.arange(2.0)}),
        (upper, {words: np.array(["a", "bcd"])}),
        ([total.assign_add(np.ones(3)), table.scatter_add([1, 1], np.ones((2, 30)))], {}),
        ([untyped.read(), names.read(), total.assign_sub(x)], {x: np.ones(3)}),
    ]
    for server in cluster.workers:
        with Session(server.target) as session:
            for fetches, feeds in steps:
                session.run(fetches, feeds)
            session.list_devices()
            with pytest.raises(errors.OpError):
                session.run([fails, there], {x: np.zeros(3)})
    own = ConfigProto(isolate_session_state=True, device_filters=["/job:ps"])
    own.device_count["CPU"] = 2
    with Session(cluster.workers[0].target, config=own) as session:
        session.run([v.initializer for v in (total, table)])
        session.run(total.read())
    for server in cluster.servers:
        server.variables()
    with Session(cluster.ps[0].target) as session:
        session.run(total.read())
    Session.reset(cluster.workers[0].target)
