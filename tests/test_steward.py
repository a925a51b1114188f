"""The steward of a run: what goes between it and a worker, and its end."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from pytest_localcluster import ClusterConfig, StartError, _rendezvous
from pytest_localcluster._steward.cluster import RunCluster
from pytest_localcluster._steward.link import Member
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


def test_also_one_that_cannot_be_pickled() -> None:
    error = raised(StartError("it did not"), Held())
    assert str(error) == "it did not"
    assert isinstance(error.__cause__, Held)
    assert error.__cause__.__cause__ is None


def test_any_other_tells_where_it_was_raised() -> None:
    error = raised(LookupError("no table"))
    assert isinstance(error, LookupError)
    assert "in raised" in str(error.__cause__)


def test_what_cannot_be_sent_keeps_its_type() -> None:
    error = raised(Held())
    with pytest.raises(Held, match=r"^with a lock$"):
        raise error
    assert "in raised" in str(error.__cause__)


@pytest.mark.skipif(not _rendezvous.AVAILABLE, reason="no abstract sockets here")
def test_who_leaves_last_waits_for_the_end_of_the_clusters(tmp_path: Path) -> None:
    """Also if the one before has taken its leave and is still there: its end is told later."""
    run = str(uuid4())
    one, other = Member(run), Member(run)
    config = ClusterConfig(workers=1, ps=0)
    cluster = RunCluster(config, one, name="it", where="", logs=tmp_path, ports=None)
    try:
        earlier = other.join()
        cluster.start()
        task = psutil.Process(cluster.workers[0].run(os.getpid))
        earlier.ask("leave").result(10)
        cluster.stop()  # for this process alone
        assert task.is_running()
        one.leave()
        assert not task.is_running()
    finally:
        one.leave()
        other.leave()
