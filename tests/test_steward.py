"""What goes between a worker and the steward of its run."""

from __future__ import annotations

import threading

import pytest

from pytest_localcluster import ClusterError, StartError
from pytest_localcluster._steward.messages import dump_failure, load_failure
from pytest_localcluster.errors import RemoteTraceback


class Held(Exception):
    """An exception that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("with a lock")
        self.lock = threading.Lock()


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return load_failure(dump_failure(caught))


def test_an_error_of_ours_is_as_it_was() -> None:
    error = raised(StartError("it did not", task="/job:ps/task:0", evidence="the log"))
    assert type(error) is StartError
    assert str(error) == "it did not\n  | the log"
    assert error.__cause__ is None


def test_its_causes_come_along() -> None:
    error = raised(StartError("it did not"), raised(LookupError("no table")))
    cause = error.__cause__
    assert isinstance(cause, LookupError)
    assert isinstance(cause.__cause__, RemoteTraceback)
    assert "no table" in str(cause.__cause__)
    assert cause.__cause__.__cause__ is None


def test_as_far_as_they_can() -> None:
    error = raised(StartError("it did not"), Held())
    assert str(error) == "it did not"
    assert error.__cause__ is None


def test_any_other_tells_where_it_was_raised() -> None:
    error = raised(LookupError("no table"))
    assert isinstance(error, LookupError)
    assert "in raised" in str(error.__cause__)


def test_what_cannot_be_sent_is_told() -> None:
    error = raised(Held())
    assert type(error) is ClusterError
    with pytest.raises(ClusterError, match=r"cannot be brought here: .*Held: with a lock") as told:
        raise error
    assert "in raised" in str(told.value)
