"""Streams on which one step is asked for after the other."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._proto.master_pb2 import RunStepResponse
from pytest_localcluster._runtimes.native import server as server_module
from pytest_localcluster._tensors import value_from_proto
from tests.native.conftest import METADATA, Cluster, Session, Shared, gate, nothing_is_left
from tests.native.nodes import call

W0 = "/job:worker/task:0"


class Talk:
    """A stream to a master, as raw as it can be."""

    def __init__(self, cluster: Cluster) -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        method = cluster.channel(W0).stream_stream(
            "/pytest_localcluster.MasterService/RunStep",
            response_deserializer=RunStepResponse.FromString,
        )
        self.answers = method(iter(self._requests.get, None), metadata=METADATA, timeout=20)

    def say(self, request: bytes) -> None:
        self._requests.put(request)

    def ask(self, request: bytes) -> Any:
        self.say(request)
        answer = next(self.answers)
        return answer.status.code or value_from_proto(answer.fetch[0])

    def close(self) -> None:
        self._requests.put(None)


@pytest.fixture
def talk(cluster: Cluster) -> Iterator[Talk]:
    talk = Talk(cluster)
    yield talk
    talk.close()


def request(session: Session, fetch: str) -> bytes:
    return session.request([fetch]).SerializeToString()


def test_each_request_is_answered_in_turn_also_after_one_that_failed(
    cluster: Cluster, talk: Talk
) -> None:
    session = cluster.session()
    session.add(call("one", lambda: 1), call("two", lambda: 2), call("fails", lambda: 1 // 0))
    assert talk.ask(request(session, "one:0")) == 1
    assert talk.ask(request(session, "fails:0")) == grpc.StatusCode.UNKNOWN.value[0]
    for name in ("two:0", "one:0"):  # before any answer: both wait their turn
        talk.say(request(session, name))
    assert [value_from_proto(next(talk.answers).fetch[0]) for _ in range(2)] == [2, 1]
    assert nothing_is_left(cluster)


def test_what_is_no_request_ends_the_stream_and_nothing_else(cluster: Cluster, talk: Talk) -> None:
    session = cluster.session()
    session.add(call("one", lambda: 1))
    assert talk.ask(request(session, "one:0")) == 1
    with pytest.raises(grpc.RpcError) as caught:
        talk.ask(b"\xff\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert session.run("one:0") == 1


def test_to_hang_up_ends_the_step_that_runs(cluster: Cluster, talk: Talk, shared: Shared) -> None:
    session = cluster.session()
    session.add(call("one", lambda: 1), call("endless", gate), call("after", abs, "endless:0"))
    assert talk.ask(request(session, "one:0")) == 1
    talk.say(request(session, "after:0"))
    shared.wait_for_operation()
    talk.answers.cancel()
    steps = cluster.servers[W0]._steps
    assert poll(lambda: not len(steps), Deadline(10))
    shared.opened.set()
    assert nothing_is_left(cluster)


def test_whoever_might_ask_again_does_not_hold_up_a_stop(
    cluster: Cluster, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_GRACE", 60)
    session = cluster.session()
    session.add(call("one", lambda: 1))
    assert talk.ask(request(session, "one:0")) == 1
    server = cluster.servers.pop(W0)
    assert poll(lambda: server._conversations.idle() == 1, Deadline(10))
    server.stop()  # it would raise StopError
    with pytest.raises(grpc.RpcError):
        next(talk.answers)
