"""What crosses the border of a task alike for every launcher and runtime: errors and handles."""

from __future__ import annotations

import threading
import urllib.error
from typing import Any

import pytest

from pytest_localcluster import LocalCluster
from pytest_localcluster.errors import TransferError
from tests.conformance.conftest import PROCESSES

pytestmark = pytest.mark.usefixtures("python")

LOCK = threading.Lock()


class Unreachable(ConnectionError):
    def __init__(self, host: str, *, attempts: int) -> None:
        super().__init__(111, "refused", host)
        self.attempts = attempts


class Busy(RuntimeError):
    def __init__(self) -> None:
        super().__init__("busy")
        self.lock, self.number = threading.Lock(), 3

    def code(self) -> int:
        return self.number


def test_an_exception_keeps_its_type_and_data(cluster: LocalCluster) -> None:
    def refuse() -> None:
        raise Unreachable("ps0", attempts=3)

    def unknown() -> None:
        raise urllib.error.HTTPError("http://x", 404, "gone", {}, None)  # type: ignore[arg-type]

    with pytest.raises(Unreachable, match="refused: 'ps0'") as caught:
        cluster.ps[0].run(refuse)
    assert (caught.value.errno, caught.value.attempts) == (111, 3)
    with pytest.raises(urllib.error.HTTPError, match="404: gone") as told:
        cluster.ps[0].run(unknown)
    assert told.value.code == 404


def test_also_one_that_holds_a_lock_and_those_behind_it(cluster: LocalCluster) -> None:
    def fail() -> None:
        try:
            raise Busy
        except Busy as error:
            raise ExceptionGroup("both", [error, KeyError("k")]) from error

    with pytest.raises(ExceptionGroup, match="both") as caught:
        cluster.ps[0].run(fail)
    busy: Any = caught.value.__cause__
    assert Busy in type(busy).__mro__
    assert busy in caught.value.exceptions
    assert (str(busy), busy.code()) == ("busy", 3)


@pytest.mark.parametrize("launcher", PROCESSES, indirect=True)
def test_what_cannot_go_is_named(cluster: LocalCluster) -> None:
    with pytest.raises(TransferError, match=r"to /job:ps/task:0: global LOCK is a _thread.lock"):
        cluster.ps[0].run(lambda: LOCK.locked())
    with pytest.raises(TransferError, match=r"returned\['lock'\] is a _thread.lock"):
        cluster.ps[0].run(lambda: {"lock": threading.Lock()})


def test_handles_come_along_and_back(cluster: LocalCluster) -> None:
    ps = cluster.ps[0]

    def look(view: Any) -> list[Any]:
        return [view.spec, [server.address for server in view.servers], ps.target, view, ps]

    spec, addresses, target, *handles = cluster.workers[0].run(look, cluster)
    assert spec == cluster.spec
    assert addresses == [server.address for server in cluster.servers]
    assert target == ps.target
    assert handles[0] is cluster
    assert handles[1] is ps
