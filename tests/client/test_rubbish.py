"""A target that answers rubbish, or not the way a master does: errors of ours, whatever it says."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from pytest_localcluster import Session, constant, function, placeholder
from pytest_localcluster._proto.graph_pb2 import Status, TensorProto, Value, ValueChunk
from pytest_localcluster._proto.master_pb2 import (
    CreateSessionResponse,
    ListDevicesResponse,
    RunStepResponse,
)
from pytest_localcluster._proto.worker_pb2 import ReadVariablesResponse
from pytest_localcluster._runtimes.native import RUNTIME
from pytest_localcluster._tensors import value_to_proto
from pytest_localcluster.errors import DataLossError, InternalError, OpError, UnknownError

Answer = Any  # bytes, a list of messages in bytes, or a code


class Rubbish(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Answers each method with the bytes that it was told to."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}

    def service(self, call: Any) -> Any:
        answer = self.answers.get(call.method.rpartition("/")[2], b"")

        def behave(_: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            if isinstance(answer, grpc.StatusCode):
                context.abort(answer, "rubbish")
            yield from [answer] if isinstance(answer, bytes) else answer

        return grpc.stream_stream_rpc_method_handler(behave)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Rubbish, str]]:
    handler = Rubbish()
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads, handlers=(handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield handler, f"localhost:{port}"
        server.stop(None).wait()


@pytest.fixture
def rubbish(served: tuple[Rubbish, str]) -> Rubbish:
    handler, _ = served
    handler.answers = {"CreateSession": session("handle")}
    return handler


@pytest.fixture
def address(served: tuple[Rubbish, str]) -> str:
    return served[1]


def session(handle: str) -> bytes:
    return CreateSessionResponse(session_handle=handle).SerializeToString()


def step(*values: Value, **more: Any) -> bytes:
    return RunStepResponse(fetch=values, **more).SerializeToString()


ONE = value_to_proto(np.float64(1))
NO_TEXT = Value(tensor=TensorProto(dtype="<U1", content=b"\xff" * 4))


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (b"\xff\xff", InternalError, "deserializing response"),
        ([], DataLossError, "ended a step for .* without an answer: it is no master"),
        ([b"", b""], OpError, None),
        (b"", DataLossError, "answered with 0 values for the 2 that were fetched"),
        (step(ONE), DataLossError, "answered with 1 values for the 2 that were fetched"),
        (step(ONE, ONE, ONE), DataLossError, "answered with 3 values for the 2"),
        (step(ONE, Value()), DataLossError, "should bring a value and brings nothing"),
        (step(ONE, Value(tensor=TensorProto(dtype="x"))), DataLossError, "'x', which cannot be"),
        (
            step(ONE, Value(tensor=TensorProto(dtype="<U1", content=b"\xff" * 4))),
            DataLossError,
            "no char",
        ),
        (step(ONE, Value(stored="k")), DataLossError, "ended before its first message"),
        (step(status=Status(code=99, message="what?")), UnknownError, "what?"),
        (step(status=Status(code=-1, message="oh")), UnknownError, "oh"),
        (step(status=Status(code=2, message="m", exception=b"junk")), UnknownError, "m"),
        (step(status=Status(code=2, message="m", exception=b"\x80\x05K\x01.")), UnknownError, "m"),
        (grpc.StatusCode.UNKNOWN, UnknownError, "rubbish"),
        (grpc.StatusCode.OUT_OF_RANGE, OpError, "rubbish"),
    ],
)
def test_a_step_that_is_answered_with_rubbish(
    rubbish: Rubbish, address: str, answer: Answer, kind: type[OpError], message: str | None
) -> None:
    rubbish.answers |= {"RunStep": answer, "RecvTensor": []}
    with Session(f"grpc://{address}") as one, pytest.raises(kind, match=message):
        one.run([constant(1.0), function(np.ones)(2)], timeout=10)


@pytest.mark.parametrize("method", ["CreateSession", "ExtendSession", "SendTensor"])
@pytest.mark.parametrize("answer", [b"\xff", [], grpc.StatusCode.DATA_LOSS])
def test_a_session_that_is_answered_with_rubbish(
    rubbish: Rubbish, address: str, method: str, answer: Answer
) -> None:
    rubbish.answers |= {"RunStep": step(ONE), method: answer}
    x = placeholder(np.float64, (None,))
    fed = {x: np.ones(1 << 18)}  # too large for a message
    with Session(f"grpc://{address}") as one:
        if method != "CreateSession":
            assert one.run(constant(1.0), timeout=10) == 1
        with pytest.raises(OpError):
            one.run(x + 1, fed, timeout=10)


@pytest.mark.parametrize("answer", [b"\xff", [], grpc.StatusCode.ABORTED])
def test_other_calls_that_are_answered_with_rubbish(
    rubbish: Rubbish, address: str, answer: Answer
) -> None:
    rubbish.answers |= {"ListDevices": answer, "Reset": answer, "CloseSession": answer}
    one = Session(f"grpc://{address}")
    with pytest.raises(OpError):
        one.list_devices()
    with pytest.raises(OpError):
        Session.reset(f"grpc://{address}")
    one.close()


def test_devices_that_are_none(rubbish: Rubbish, address: str) -> None:
    devices = ListDevicesResponse()
    devices.local_device.add(name="\n", memory_limit=-1)
    rubbish.answers["ListDevices"] = devices.SerializeToString()
    with Session(f"grpc://{address}") as one:
        assert [device.name for device in one.list_devices()] == ["\n"]


def variables(*messages: tuple[str, ValueChunk]) -> list[bytes]:
    return [ReadVariablesResponse(name=n, data=data).SerializeToString() for n, data in messages]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"\xff", "deserializing response"),
        (variables(("v", ValueChunk())), "should bring a value and brings nothing"),
        (variables(("v", ValueChunk(value=ONE)), ("", ValueChunk(chunk=b"x"))), "more bytes than"),
        (variables(("v", ValueChunk(value=Value(stored="x")))), "brings stored"),
        (grpc.StatusCode.UNKNOWN, "rubbish"),
    ],
)
def test_variables_that_are_none(
    rubbish: Rubbish, address: str, answer: Answer, message: str
) -> None:
    rubbish.answers["ReadVariables"] = answer
    with pytest.raises(OpError, match=message):
        RUNTIME.variables(address, "token", 10)


def test_noise_is_no_crash(rubbish: Rubbish, address: str) -> None:
    rng = random.Random(3)
    good = step(ONE, value_to_proto((np.ones(3), None)), step_id=5)
    outcomes = set()
    with Session(f"grpc://{address}") as one:
        fetches = [constant(1.0), function(np.ones)(2)]
        for _ in range(300):
            damaged = bytearray(good)
            for _ in range(rng.randrange(1, 4)):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            rubbish.answers["RunStep"] = bytes(damaged)
            outcomes.add(_outcome(lambda: one.run(fetches, timeout=10)))
    assert outcomes <= {"values", "DataLossError", "InternalError", "UnknownError"}
    assert len(outcomes) >= 3


def _outcome(call: Callable[[], Any]) -> str:
    try:
        call()
    except OpError as error:
        return type(error).__name__
    return "values"
