"""A service that raises: its traceback is in the task's log, once, and in a red test's report."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from pytest_localcluster import LocalCluster, ServicerRuntime
from tests.servicers.services import call

MakeCluster = Callable[..., LocalCluster]


def add_raising(server: grpc.Server) -> None:
    def fail(request: bytes, context: Any) -> bytes:
        raise LookupError(f"nothing called {request.decode()}")

    def fail_late(request: bytes, context: Any) -> Iterator[bytes]:
        yield b"first"
        raise LookupError(f"no second {request.decode()}")

    def not_iterable(request: bytes, context: Any) -> Any:
        return [request]

    def not_text(request: bytes, context: Any) -> Any:
        return {"a": "dict"}

    def abort(request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.NOT_FOUND, "looked everywhere")
        return b""

    def leave(request: bytes, context: Any) -> bytes:
        raise SystemExit(3)

    def configure(request: bytes, context: Any) -> bytes:
        logging.basicConfig(stream={b"2": sys.stderr, b"1": sys.stdout}[request], force=True)
        return b""

    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    handlers = {
        "Fail": unary(fail),
        "FailLate": stream(fail_late),
        "NotIterable": stream(not_iterable),
        "NotText": unary(not_text, response_serializer=str.encode),
        "Ascii": unary(fail, request_deserializer=lambda data: data.decode("ascii")),
        "Abort": unary(abort),
        "Leave": unary(leave),
        "Configure": unary(configure),
    }
    server.add_registered_method_handlers("tests.Own", handlers)


RUNTIME = ServicerRuntime(ps=add_raising)


@pytest.mark.parametrize(
    ("method", "details", "logged"),
    [
        ("Fail", "Exception calling application: nothing called it", "LookupError: nothing called"),
        ("NotText", "Failed to serialize response!", "TypeError: "),
        (
            "Leave",
            "Exception calling application: SystemExit in /tests.Own/Leave: 3",
            "SystemExit: 3",
        ),
    ],
)
def test_what_is_in_the_log(
    make_cluster: MakeCluster, method: str, details: str, logged: str
) -> None:
    first, second = make_cluster(RUNTIME, ps=2).ps
    with pytest.raises(grpc.RpcError) as caught:
        call(first.channel(), method, b"it")
    assert caught.value.details() == details
    text = first.log.text()
    assert text.count("Traceback (most recent call last):") == 1 + (method == "Leave"), text
    assert text.count(f"\n{logged}") == 1, text
    assert second.log.text() == ""


def test_a_stream_that_fails_late(make_cluster: MakeCluster) -> None:
    (ps,) = make_cluster(RUNTIME, ps=1).ps
    responses = ps.channel().unary_stream("/tests.Own/FailLate")(b"it", timeout=20)
    assert next(responses) == b"first"
    with pytest.raises(grpc.RpcError) as caught:
        next(responses)
    assert caught.value.details() == "Exception iterating responses: no second it"
    assert ps.log.text().count('raise LookupError(f"no second {request.decode()}")') == 1


def test_a_stream_that_is_none_fails_as_it_would_anywhere(make_cluster: MakeCluster) -> None:
    (ps,) = make_cluster(RUNTIME, ps=1).ps
    with pytest.raises(grpc.RpcError, match="'list' object is not an iterator"):
        list(ps.channel().unary_stream("/tests.Own/NotIterable")(b"it", timeout=20))
    assert "TypeError: 'list' object is not an iterator" in ps.log.text()


def test_a_request_that_cannot_be_decoded(make_cluster: MakeCluster) -> None:
    (ps,) = make_cluster(RUNTIME, ps=1).ps
    with pytest.raises(grpc.RpcError, match="Exception deserializing request!"):
        call(ps.channel(), "Ascii", b"\xff")
    assert ps.log.text().count("UnicodeDecodeError: 'ascii' codec") == 1


def test_an_answer_that_is_an_error_is_not_logged(make_cluster: MakeCluster) -> None:
    (ps,) = make_cluster(RUNTIME, ps=1).ps
    with pytest.raises(grpc.RpcError) as caught:
        call(ps.channel(), "Abort")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "looked everywhere"
    assert ps.log.text() == ""


@pytest.mark.parametrize("launcher", ["process"], indirect=True)
@pytest.mark.parametrize("stream", [b"1", b"2"])
def test_it_is_in_the_log_once_where_logging_writes_it_too(
    make_cluster: MakeCluster, stream: bytes
) -> None:
    (ps,) = make_cluster(RUNTIME, ps=1).ps
    channel = ps.channel()
    call(channel, "Configure", stream)
    with pytest.raises(grpc.RpcError):
        call(channel, "Fail", b"it")
    assert ps.log.text().count("Traceback (most recent call last):") == 1
    assert ps.log.text().startswith("ERROR:grpc._server:Exception calling application: nothing")


@pytest.mark.parametrize("launcher", ["thread"], indirect=True)
def test_threads_leave_no_handler_behind(make_cluster: MakeCluster) -> None:
    before = list(logging.getLogger("grpc").handlers)
    cluster = make_cluster(RUNTIME, ps=2)
    assert len(logging.getLogger("grpc").handlers) == len(before) + 2
    cluster.stop()
    assert logging.getLogger("grpc").handlers == before


@pytest.mark.parametrize("launcher", ["thread"], indirect=True)
def test_errors_of_others_are_not_a_tasks(make_cluster: MakeCluster) -> None:
    (ps,) = make_cluster(RUNTIME, ps=1).ps
    logging.getLogger("grpc._server").error("of the test itself")
    assert ps.log.text() == ""


@pytest.mark.parametrize("mode", [["-p", "no:xdist"], ["-n1"]])
def test_the_report_of_a_red_test_shows_it(
    pytester: pytest.Pytester, launcher: str, mode: list[str]
) -> None:
    pytester.makepyfile(
        f"""
        import grpc, pytest
        from pytest_localcluster import ServicerRuntime

        def add(server, task):
            def pull(request, context):
                return parameters[request]  # they were never made

            handler = grpc.unary_unary_rpc_method_handler(pull)
            server.add_registered_method_handlers("own.Parameters", {{"Pull": handler}})

        runtime = ServicerRuntime(ps=add)

        @pytest.mark.cluster(workers=0, ps=2, launcher={launcher!r}, runtime=runtime)
        def test_pull(local_cluster):
            pull = local_cluster.ps[0].channel().unary_unary("/own.Parameters/Pull")
            assert pull(b"weights", timeout=20) == b"1"
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:asyncio", *mode, timeout=60)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*Captured log /job:ps/task:0 call*",
            "<Server /job:ps/task:0 at localhost:*",
            "*Exception calling application: name 'parameters' is not defined",
            "Traceback (most recent call last):",
            "    return parameters[[]request[]]  # they were never made",
            "NameError: name 'parameters' is not defined",
        ]
    )
    result.stdout.no_fnmatch_line("*Captured log /job:ps/task:1*")
