"""Deadline and poll."""

from __future__ import annotations

from pytest_localcluster._clock import Deadline, poll


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
