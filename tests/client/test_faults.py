"""How steps and sessions end before they should, and what a session outlives."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from pytest_localcluster import (
    ConfigProto,
    Session,
    Task,
    Variable,
    _channel,
    constant,
    device,
    errors,
    function,
    lease_port,
)
from pytest_localcluster._clock import Deadline, poll

from .conftest import Tasks

GATES: dict[str, threading.Event] = {}


def wait_at(gate: str) -> int:
    """Tell that it runs, then wait; the tasks are threads of this process."""
    from tests.client import test_faults as here

    here.GATES[gate + " reached"].set()
    here.GATES[gate].wait(30)
    return 1


@pytest.fixture
def gate() -> Any:
    """A function that waits where it runs until the test is over."""
    GATES.update(gate=threading.Event(), **{"gate reached": threading.Event()})
    yield function(wait_at)("gate")
    GATES["gate"].set()


def test_nothing_is_dialled_before_the_first_run() -> None:
    with lease_port() as lease, Session(f"grpc://{lease.address}", token="x") as session:
        assert repr(session) == f"<Session to grpc://{lease.address}: open>"
        with pytest.raises(
            errors.UnavailableError, match=rf"grpc://{lease.address} cannot be reached .*\n.*To fix"
        ):
            session.run(constant(1))


def test_a_run_after_close_is_refused(tasks: Tasks) -> None:
    with Session(tasks.target()) as session:
        call = session.make_callable(constant(1))
        assert call() == 1
    session.close()
    attempts: list[Callable[[], object]] = [
        lambda: session.run(constant(1)),
        lambda: session.run([]),
        call,
        session.list_devices,
        session.__enter__,
        lambda: session.make_callable(constant(1)),
    ]
    for attempt in attempts:
        with pytest.raises(errors.FailedPreconditionError, match="^this session is closed$"):
            attempt()
    assert repr(session) == f"<Session to {tasks.target()}: closed>"


def test_it_closes_with_its_cluster(tasks: Tasks) -> None:
    with Session(tasks.target("worker", 1)) as session, Session(tasks.target()) as other:
        session.run(constant(1))
        _channel.close_all(tasks.leases[Task("worker", 1)].address)
        with pytest.raises(
            errors.FailedPreconditionError,
            match=r"this session is closed: the cluster of grpc://localhost:\d+ was stopped",
        ):
            session.run(constant(1))
        assert other.run(constant(1)) == 1


@pytest.mark.parametrize(("token", "what"), [("wrong", "another token"), ("", "token")])
def test_a_wrong_token_is_refused_and_not_shown(tasks: Tasks, token: str, what: str) -> None:
    session = Session(tasks.target(), token=token)
    with session, pytest.raises(errors.UnauthenticatedError, match=what) as caught:
        session.run(constant(1))
    assert tasks.leases[Task("worker", 0)].address in str(caught.value)
    assert "Session(..., token=...)" in str(caught.value)
    assert tasks.token not in str(caught.value)
    with Session(tasks.target(), token=tasks.token) as session:
        assert session.run(constant(1)) == 1


def test_a_step_that_takes_too_long_is_ended(tasks: Tasks, gate: Any) -> None:
    with device("/job:ps/task:0"):
        stuck = gate + 1
    with Session(tasks.target()) as session:
        late = r"^a step for add:0 was not done by \S+ within 0.2 s; not finished: .*/job:ps/task:0"
        with pytest.raises(errors.DeadlineExceededError, match=late) as caught:
            session.run(stuck, timeout=0.2)
        assert isinstance(caught.value, TimeoutError)
        assert session.run(constant(1)) == 1
    with Session(tasks.target(), config=ConfigProto(operation_timeout_in_ms=200)) as session:
        with pytest.raises(errors.DeadlineExceededError, match=late):
            session.run(stuck)
        assert session.run(constant(1)) == 1


def test_a_target_that_says_nothing_is_named_when_the_time_is_up() -> None:
    with lease_port() as lease, socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        silent.bind(("127.0.0.1", lease.port))
        silent.listen()
        message = rf"opening a session was not done by grpc://{lease.address} within 0.2 s"
        session = Session(f"grpc://{lease.address}", token="x")
        with session, pytest.raises(errors.DeadlineExceededError, match=message):
            session.run(constant(1), timeout=0.2)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), True, "1"])
def test_what_is_no_timeout(session: Session, timeout: Any) -> None:
    with pytest.raises(ValueError, match=f"timeout={timeout!r} is no time for a step: use seconds"):
        session.run(constant(1), timeout=timeout)


def test_a_close_cancels_what_runs(tasks: Tasks, gate: Any) -> None:
    session, raised = Session(tasks.target()), []

    def run() -> None:
        try:
            session.run(gate)
        except errors.OpError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert GATES["gate reached"].wait(10)
    session.close()
    thread.join(10)
    assert [type(error) for error in raised] == [errors.CancelledError]
    assert "session" in str(raised[0])
    assert "closed" in str(raised[0])


def test_a_reset_clears_variables_and_sessions_open_themselves_again(tasks: Tasks) -> None:
    with device("/job:ps/task:0"):
        w = Variable(1.0, name="w")
    with Session(tasks.target()) as session:
        session.run(w.initializer)
        Session.reset(tasks.target())
        with pytest.raises(errors.FailedPreconditionError, match="w"):
            session.run(w)
        session.run(w.initializer)
        assert session.run(w) == 1


@pytest.mark.parametrize("job", ["worker", "ps"])
def test_it_works_again_when_a_task_is_back(tasks: Tasks, job: str) -> None:
    task = Task(job, 1)
    with device(str(task)):
        where = function(lambda: 7)()
    big = constant(np.arange(200_000.0))
    with Session(tasks.target("worker", 1)) as session:
        assert session.run(where) == 7
        assert session.run(big - 1)[0] == -1
        tasks.stop(task)
        for _ in range(2):
            with pytest.raises(errors.UnavailableError, match=tasks.leases[task].address):
                session.run(where)
        tasks.start(task)
        for other, serving in tasks.serving.items():
            if other != task:
                serving.forget(task)
        assert session.run([where, big])[0] == 7
        tasks.restart(task)
        assert session.run([where, big - 1])[1][0] == -1


def test_a_stranger_is_told_from_a_task() -> None:
    with lease_port() as lease, ThreadPoolExecutor(1) as pool:
        lease.hand_over()
        server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        server.add_insecure_port(f"127.0.0.1:{lease.port}")
        server.start()
        session = Session(f"grpc://{lease.address}", token="x")
        message = "sessions talk to tasks of the native runtime"
        try:
            with session, pytest.raises(errors.UnimplementedError, match=message):
                session.run(constant(1))
        finally:
            server.stop(None).wait()


@pytest.mark.parametrize("how", [Session.reset, None])
def test_resets_while_steps_run_show_as_aborted_and_as_nothing_else(
    tasks: Tasks, session: Session, how: Callable[[str], None] | None
) -> None:
    with device("/job:ps/task:0"):
        held = constant(1) + 1
    with device("/job:worker/task:1"):
        result = held + 1
    wrong: list[BaseException] = []
    enough = threading.Event()

    def run() -> None:
        while not enough.is_set():
            try:
                assert session.run(result) == 3
            except errors.AbortedError as error:
                if type(error) is not errors.AbortedError or "reset" not in str(error):
                    wrong.append(error)
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        if how is not None:
            how(tasks.target())
        else:
            for serving in tasks.serving.values():
                serving.reset()
    enough.set()
    for thread in threads:
        thread.join(20)
    assert wrong == []
    assert session.run(result) == 3


def test_a_session_that_is_dropped_is_closed(tasks: Tasks) -> None:
    def drop() -> None:
        session = Session(tasks.target())
        assert session.run(constant(np.zeros(1 << 18))).size == 1 << 18

    before = threading.active_count()
    for _ in range(3):
        drop()
        gc.collect()
    server: Any = tasks.serving[Task("worker", 0)]
    assert poll(lambda: not server._master._sessions, Deadline(10))
    assert poll(lambda: threading.active_count() <= before + 8, Deadline(10))


def test_a_session_that_is_dropped_says_goodbye_to_nobody_who_is_gone(tasks: Tasks) -> None:
    session = Session(tasks.target())
    session.run(constant(1))
    tasks.stop(Task("worker", 0))
    try:
        del session
        gc.collect()
    finally:
        tasks.start(Task("worker", 0))
