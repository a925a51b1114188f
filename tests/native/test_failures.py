"""However a step fails, it ends everywhere, nothing stays blocked, and the next one works."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._core import exceptions
from pytest_localcluster._runtimes.native import stepping
from pytest_localcluster.errors import (
    CancelledError,
    DeadlineExceededError,
    OutOfRangeError,
    UnknownError,
)
from tests.native.conftest import (
    Cluster,
    Failed,
    Shared,
    counted,
    gate,
    nothing_is_left,
    start,
)
from tests.native.nodes import call, chain, const, variable, well

PS0, PS1, W0, W1 = "/job:ps/task:0", "/job:ps/task:1", "/job:worker/task:0", "/job:worker/task:1"


class CustomError(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(f"number {number}")
        self.number = number


def fail(*_: Any) -> None:
    raise CustomError(7)


@pytest.mark.parametrize("culprit", [W0, PS0, W1])
def test_what_an_operation_raises_comes_back_whole(
    cluster: Cluster, culprit: str, shared: Shared
) -> None:
    session = cluster.session()
    session.add(
        *chain((PS1, counted("a")), (culprit, fail), (PS1, counted("b")), (W1, counted("c")))
    )
    for _ in range(3):
        with pytest.raises(Failed, match="^n1 raised CustomError: number 7$") as caught:
            session.run("n3:0")
        status = caught.value.status
        assert status.code == UnknownError.code
        assert status.op == "n1"
        assert status.device == culprit.replace("/task", "/replica:0/task") + "/device:CPU:0"
        error = exceptions.load_exception(status.exception, status.traceback)
        assert isinstance(error, CustomError)
        assert error.number == 7
        assert "raise CustomError(7)" in status.traceback
        assert nothing_is_left(cluster)
    assert {name for name, _ in shared.calls} == {"a"}
    assert session.run("n0:0") == 1


def test_errors_of_our_own_keep_their_code(cluster: Cluster) -> None:
    def end(*_: Any) -> None:
        raise OutOfRangeError("no more data")

    session = cluster.session()
    session.add(*chain((PS0, end), (W1, counted("b"))))
    with pytest.raises(Failed, match="^no more data$") as caught:
        session.run("n1:0")
    assert caught.value.code == OutOfRangeError.code
    assert caught.value.status.op == "n0"


def test_exits_and_exceptions_that_cannot_be_pickled_or_printed(cluster: Cluster) -> None:
    class Stubborn(Exception):
        def __reduce__(self) -> Any:
            raise TypeError("no")

        def __str__(self) -> str:
            raise TypeError("no")

    def stubborn() -> None:
        raise Stubborn

    def leave() -> None:
        raise SystemExit(3)

    session = cluster.session()
    session.add(call("stubborn", stubborn, device=PS0), call("leave", leave, device=PS0))
    with pytest.raises(
        Failed, match="stubborn raised .*Stubborn: .*its text cannot be had"
    ) as caught:
        session.run("stubborn:0")
    status = caught.value.status
    error = exceptions.load_exception(status.exception, status.traceback)
    assert isinstance(error, Stubborn)
    assert "raise Stubborn" in str(error.__cause__)
    with pytest.raises(Failed, match="leave raised SystemExit: 3"):
        session.run("leave:0")


@pytest.mark.parametrize("stuck", [W0, PS0, W1])
def test_a_failure_does_not_wait_for_an_operation_that_is_stuck(
    cluster: Cluster, stuck: str, shared: Shared
) -> None:
    def fail_later(*_: Any) -> None:
        from sys import modules

        modules["tests.native.conftest"]._shared.wait_for_operation()
        raise CustomError(1)

    session = cluster.session()
    session.add(
        call("stuck", gate, device=stuck),
        call("after", np.negative, "stuck:0", device=W1),
        call("failing", fail_later, device=PS1),
        call("never", counted("never"), "stuck:0", device=stuck),
    )
    with pytest.raises(Failed, match="failing raised CustomError: number 1"):
        session.run("after:0", "failing:0", "never:0")
    session.add(*well())
    assert session.run("ok:0") == 1
    shared.opened.set()
    assert nothing_is_left(cluster)
    assert shared.calls == []


@pytest.mark.parametrize("stuck", [W0, PS0])
@pytest.mark.parametrize("how", ["timeout", "config"])
def test_a_step_ends_when_its_time_is_up_and_says_what_did_not(
    cluster: Cluster, stuck: str, how: str, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stepping, "_PATIENCE", 8)  # on a busy machine, to hear what is running
    session = cluster.session(operation_timeout_in_ms=300 if how == "config" else 0)
    session.add(
        call("endless", gate, device=stuck), call("after", np.negative, "endless:0", device=W1)
    )
    with pytest.raises(Failed, match=r"the step did not end in time; not finished: ") as caught:
        session.run("after:0", timeout=0.3 if how == "timeout" else None)
    assert caught.value.code == DeadlineExceededError.code
    assert stuck in str(caught.value)
    assert "(running: 'endless')" in str(caught.value)
    session.add(*well())
    assert session.run("ok:0") == 1
    shared.opened.set()
    assert nothing_is_left(cluster)


def test_a_client_that_hangs_up_ends_the_step_everywhere(cluster: Cluster, shared: Shared) -> None:
    session = cluster.session()
    session.add(*chain((PS0, gate), (PS1, counted("b")), (W1, counted("c"))))
    outcome = start(session, "n2:0")
    shared.wait_for_operation()
    outcome.cancel()
    assert poll(
        lambda: all(cluster.servers[name]._steps._over for name in (PS0, PS1)), Deadline(10)
    )
    shared.opened.set()
    assert nothing_is_left(cluster)
    assert shared.calls == []


def test_closing_a_session_cancels_its_steps_and_no_others(
    cluster: Cluster, shared: Shared
) -> None:
    one, two = cluster.session(), cluster.session()
    for session in (one, two):
        session.add(*chain((PS0, gate), (W1, np.negative)))
    first, second = start(one, "n1:0"), start(two, "n1:0")
    shared.wait_for_operation()
    shared.wait_for_operation()
    one.close()
    with pytest.raises(Failed, match="the session was closed") as caught:
        first()
    assert caught.value.code == CancelledError.code
    shared.opened.set()
    assert second().status.code == 0
    with pytest.raises(grpc.RpcError, match="unknown session handle"):
        one.run("n1:0")
    with pytest.raises(grpc.RpcError, match="unknown session handle"):
        one.close()


def test_no_operation_of_a_failed_step_starts_after_its_failure_was_told(
    cluster: Cluster, shared: Shared
) -> None:
    session = cluster.session()
    session.add(
        const("zero", np.float64(0)),
        const("one", np.float64(1)),
        variable("init", "Assign", "zero:0", of="v", device=PS0),
        variable("read", "Read", of="v", device=PS0),
        call("gate", gate, device=W1),
        variable("add", "AssignAdd", "one:0", of="v", device=PS0, after=["gate"]),
        call("failing", lambda: _fail_when_gate_is_reached(), device=PS1),
    )
    session.run("init:0")
    with pytest.raises(Failed, match="number 3"):
        session.run("add:0", "failing:0")
    shared.opened.set()
    assert nothing_is_left(cluster)
    assert session.run("read:0") == 0


def _fail_when_gate_is_reached() -> None:
    from sys import modules

    modules["tests.native.conftest"]._shared.wait_for_operation()
    raise CustomError(3)


def test_stuck_steps_do_not_starve_others(cluster: Cluster, shared: Shared) -> None:
    session = cluster.session()
    session.add(*chain((PS0, gate), (PS1, np.negative), (W1, np.negative)))
    outcomes = [start(session, "n2:0") for _ in range(40)]
    for _ in outcomes:
        shared.wait_for_operation()
    session.add(*well())
    assert session.run("ok:0", timeout=10) == 1
    assert cluster.variables(PS0) == {}
    shared.opened.set()
    assert [outcome().status.code for outcome in outcomes] == [0] * 40
