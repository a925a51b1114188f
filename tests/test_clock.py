"""Deadline, Alarm and poll."""

from __future__ import annotations

import threading

from pytest_localcluster._clock import Alarm, Deadline, poll


def test_a_deadline_passes() -> None:
    deadline = Deadline(0)
    assert deadline.expired()
    assert deadline.remaining() == 0
    assert not Deadline(100).expired()


def test_never() -> None:
    for seconds in (None, 7.4e9):  # the second is what gRPC says of a call without a deadline
        deadline = Deadline(seconds)
        assert not deadline.expired()
        assert deadline.remaining() is None
        assert deadline.seconds is None


def test_poll_returns_the_first_true_result_or_the_last() -> None:
    results = iter([0, 0, 7])
    assert poll(lambda: next(results), Deadline(60), interval=0.0001) == 7
    assert poll(lambda: 0, Deadline(0)) == 0


def test_an_alarm_rings_for_what_is_late_and_for_nothing_else() -> None:
    rung: list[str] = []
    late = threading.Event()
    with Alarm(60, lambda: rung.append("far")) as far, Alarm(None, lambda: rung.append("never")):
        with Alarm(0.01, late.set) as near:  # the thread that waits for the other has to look again
            assert late.wait(20)
        assert near.rang
        with Alarm(60, lambda: rung.append("in time")) as in_time:
            pass
    assert not far.rang
    assert not in_time.rang
    assert not rung


def test_the_thread_of_alarms_ends_when_there_are_none() -> None:
    def rings() -> bool:
        return any(thread.name == "alarms" for thread in threading.enumerate())

    with Alarm(60, lambda: None):
        assert rings()
    assert poll(lambda: not rings(), Deadline(20))
    late = threading.Event()
    with Alarm(0.01, late.set):
        assert late.wait(20)
