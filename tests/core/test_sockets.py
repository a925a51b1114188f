"""socket.setdefaulttimeout() and gevent's patches, in the test process and in preloaded modules."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from pytest_localcluster import LocalCluster
from pytest_localcluster._core import sockets

TINY = 0.05


@pytest.fixture
def default_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TINY)
    yield
    socket.setdefaulttimeout(before)


@pytest.mark.usefixtures("default_timeout")
class TestSockets:
    def test_a_pair(self) -> None:
        one, other = sockets.new_socketpair()
        with one, other:
            assert one.gettimeout() is None
            assert os.get_blocking(one.fileno())
            assert os.get_blocking(other.fileno())

    def test_a_descriptor_from_elsewhere(self) -> None:
        one, other = socket.socketpair()
        with one, sockets.adopt(other.detach()) as adopted:
            assert adopted.gettimeout() is None
            assert os.get_blocking(adopted.fileno())


def pause() -> None:
    """Take longer than any timeout here."""
    threading.Event().wait(4 * TINY)


@pytest.mark.usefixtures("default_timeout")
@pytest.mark.parametrize("launcher", ["process", "thread"])
def test_a_cluster_under_a_default_timeout(launcher: str) -> None:
    with LocalCluster(workers=2, ps=1, launcher=launcher) as cluster:
        cluster.run(pause)
        data = bytes(10_000_000)
        assert cluster.workers[0].run(lambda data: data, data) == data
        cluster.reset()
        with cluster.session() as session:
            assert len(session.list_devices()) == 3
        cluster.workers[0].restart()
        assert cluster.workers[0].run(int, "4") == 4


@pytest.mark.usefixtures("default_timeout")
def test_links_under_a_default_timeout() -> None:
    with LocalCluster(workers=2, ps=1, links=True) as cluster:
        with cluster.session() as session:
            assert len(session.list_devices()) == 3
        with cluster.partition("worker", "ps"):
            cluster.run(pause)
        with cluster.session() as session:
            assert len(session.list_devices()) == 3


def test_a_function_that_sets_one() -> None:
    with LocalCluster(workers=1, ps=0) as cluster:
        cluster.workers[0].run(socket.setdefaulttimeout, TINY)
        cluster.run(pause)
        with cluster.session() as session:
            assert session.list_devices()


WHERE = {
    "a conftest": ("conftest", "import socket\nsocket.setdefaulttimeout(0.05)\n", ""),
    "a preloaded module": (
        "preloaded",
        "import socket\nsocket.setdefaulttimeout(0.05)\n",
        "preload=['preloaded']",
    ),
    "a conftest, by gevent": ("conftest", "from gevent import monkey\nmonkey.patch_all()\n", ""),
}


@pytest.mark.parametrize(
    ("where", "workers"),
    [
        ("a conftest", "0"),
        ("a conftest", "2"),
        ("a preloaded module", "0"),
        pytest.param("a conftest, by gevent", "0", marks=pytest.mark.needs("gevent")),
    ],
)
def test_a_run(pytester: pytest.Pytester, where: str, workers: str) -> None:
    module, text, marked = WHERE[where]
    pytester.makepyfile(
        **{module: text},
        test_it=f"""
        import time
        import pytest

        def pause():
            time.sleep(0.2)
            return 3

        @pytest.mark.cluster(workers=2, links=True, {marked})
        def test_it(local_cluster):
            first, second = local_cluster.workers
            assert local_cluster.run(pause) == [3, 3]
            time.sleep(0.2)
            assert [first.submit(int, str(n)).result(20) for n in range(20)] == list(range(20))
            data = bytes(5_000_000)
            assert first.run(lambda data: data, data) == data
            with pytest.raises(TimeoutError):
                first.run(time.sleep, 60, timeout=0.2)
            first.kill()
            first.restart()
            with second.suspended():
                assert first.run(int, "4") == 4
            with local_cluster.partition("worker", "ps"):
                pass
            with local_cluster.session() as session:
                assert len(session.list_devices()) == 3

        @pytest.mark.cluster(scope="session", {marked})
        def test_shared(local_cluster):
            assert local_cluster.workers[0].run(int, "3") == 3

        @pytest.mark.cluster(scope="run", {marked})
        def test_of_the_run(local_cluster):
            assert local_cluster.workers[0].run(pause) == 3
        """,
    )
    result = pytester.runpytest_subprocess("-p", "no:asyncio", f"-n{workers}", timeout=100)
    result.assert_outcomes(passed=3)


@pytest.mark.needs("gevent")
@pytest.mark.parametrize("where", ["thread", "preload"])
def test_a_server_that_gevent_takes_its_threads(pytester: pytest.Pytester, where: str) -> None:
    patch = "from gevent import monkey\nmonkey.patch_all()\n"
    marked = "preload=['patched']" if where == "preload" else "launcher='thread'"
    pytester.makepyfile(
        conftest=patch if where == "thread" else "",
        patched=patch,
        test_it=f"""
        import pytest

        @pytest.mark.cluster({marked})
        def test_it(local_cluster):
            pass
        """,
    )
    result = pytester.runpytest_subprocess("-p", "no:asyncio", "-p", "no:xdist", timeout=60)
    result.assert_outcomes(errors=1)
    text = result.stdout.str()
    assert "UnsupportedError: gevent.monkey has replaced the threads of process" in text
    assert "To fix this: use launcher='process'" in text
