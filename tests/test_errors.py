"""The error trees: what an error says, what it carries, and that it survives a pickle."""

from __future__ import annotations

import pickle

import grpc
import pytest

import pytest_localcluster
from pytest_localcluster import errors

REPORT = errors.ServerExited(
    "/job:ps/task:0 was killed by SIGSEGV",
    exitcode=-11,
    task="/job:ps/task:0",
    address="localhost:4123",
    pid=812,
    evidence="last log lines:\nloading checkpoint",
    remedy="mend it",
)


def test_a_report_says_what_where_evidence_remedy() -> None:
    assert str(REPORT) == (
        "/job:ps/task:0 was killed by SIGSEGV\n"
        "  at localhost:4123, pid 812\n"
        "  | last log lines:\n"
        "  | loading checkpoint\n"
        "  To fix this: mend it"
    )


@pytest.mark.parametrize(
    "error",
    [
        REPORT,
        errors.SpecError("no"),
        errors.StartTimeout("late", status="still alive; last seen: importing x"),
        errors.StopError("stays", survivors=("/job:ps/task:0",)),
        errors.InvalidArgumentError("bad", op="add_1", device="/job:ps/task:0"),
        errors.DeadlineExceededError("late"),
        errors.RemoteTraceback("Traceback ..."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_everything_survives_a_pickle(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert repr(again) == repr(error)
    assert vars(again) == vars(error)


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(errors.SpecError, ValueError)
    assert issubclass(errors.StartTimeout, TimeoutError)
    assert issubclass(errors.DeadlineExceededError, TimeoutError)


def test_session_errors_have_grpc_codes() -> None:
    for kind in errors.OpError.__subclasses__():
        name = kind.__name__.removesuffix("Error")
        assert errors.op_error(kind.code) is kind
        status = {status.value[0]: status.name for status in grpc.StatusCode}[kind.code]
        assert status.replace("_", "") == name.upper()
    assert errors.op_error(99) is errors.UnknownError


def test_an_op_error_shows_op_and_device() -> None:
    error = errors.AbortedError("ended", op="add", device="/job:ps/task:0")
    assert str(error) == "ended\n  op: add, device: /job:ps/task:0"


def test_cluster_errors_are_at_the_top_and_say_so() -> None:
    assert pytest_localcluster.StartError is errors.StartError
    assert errors.StartError.__module__ == "pytest_localcluster"
