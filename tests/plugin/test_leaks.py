"""The leak check: what outlives its cluster is named, and nobody else is blamed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

INNOCENT = """
import functools
from contextlib import ExitStack

import pytest
from pytest_localcluster import LocalCluster, create_local_cluster, lease_port

@pytest.fixture(scope="module")
def make():
    with ExitStack() as stack:
        yield lambda: stack.enter_context(LocalCluster(workers=1, ps=0))

@pytest.fixture(scope="session")
def lease():
    with lease_port() as lease:
        yield lease

@functools.cache
def cached():
    return LocalCluster(workers=1, ps=0).start()

@functools.cache
def cached_worker():
    return LocalCluster(workers=1, ps=0, launcher="thread").start().workers[0]

@functools.cache
def cached_lease():
    return lease_port()

def test_a_factory_of_a_wider_scope(make):
    make()

def test_what_is_kept_somewhere():
    cached(), cached_worker(), cached_lease()

def test_what_is_still_there(lease):
    assert cached().workers[0].is_alive() and cached_worker().is_alive()
    assert cached_lease().held and lease.held

@pytest.mark.cluster(workers=1, ps=0, scope="module")
def test_shared(local_cluster, session_cluster):
    pass

def test_as_the_ancestor():
    create_local_cluster(1, 0)

class Test:
    def setup_class(cls):
        cls.cluster = LocalCluster(workers=1, ps=0).start()

    def teardown_class(cls):
        cls.cluster.stop()

    def test_class(self):
        assert self.cluster.workers[0].is_alive()

def test_stopped_by_hand():
    cluster = LocalCluster(workers=1, ps=0).start()
    cluster.session()
    cluster.stop()
    lease = lease_port()
    lease.release()

def test_things_of_others():
    import socket, subprocess, threading
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    test_things_of_others.kept = socket.socket(), subprocess.Popen(["sleep", "1000"])

def test_end_things_of_others():
    test_things_of_others.kept[1].kill()
    test_things_of_others.kept[1].wait()
    test_things_of_others.kept[0].close()
"""


def test_nobody_innocent_is_blamed(pytester: pytest.Pytester, run_both: Run) -> None:
    pytester.makepyfile(INNOCENT)
    run_both("-W", "error").assert_outcomes(passed=9)


LEAKY = """
import pytest
from pytest_localcluster import LocalCluster, StopError, lease_port

@pytest.fixture
def started():
    return LocalCluster(workers=1, ps=0).start()

def test_fixture(started):
    pass

def test_forgotten_cluster():
    cluster = LocalCluster(workers=1, ps=1).start()
    print("pids", *(server.pid for server in cluster.servers))

def test_forgotten_lease():
    lease_port()

def test_red():
    LocalCluster(workers=2, ps=0).start()
    assert "this test" == "failed by itself"

def test_innocent(local_cluster):
    pass
"""


def test_what_nobody_can_stop_any_more(pytester: pytest.Pytester, run_both: Run) -> None:
    pytester.makepyfile(LEAKY)
    result = run_both("-rA", "-W", "ignore::ResourceWarning")
    result.assert_outcomes(passed=4, failed=1, errors=3)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_fixture*",
            "something of a cluster stayed behind (--cluster-leak-check)",
            "<LocalCluster of 1 worker>",
            "  made at *test_what_nobody_can_stop_any_more.py:6 in *::test_fixture",
            "  To fix this: stop() it, use it in a with statement, *cluster_factory",
            "  | nobody could stop it any more; it was stopped now",
            "*ERROR at teardown of test_forgotten_cluster*",
            "<LocalCluster of 1 worker, 1 ps>",
            "  made at *test_what_nobody_can_stop_any_more.py:12 in *::test_forgotten_cluster",
            "*<Server /job:worker/task:0 at localhost:*: running, pid *>, <Server /job:ps*",
            "*ERROR at teardown of test_forgotten_lease*",
            "the lease of port *",
            "  made at *test_what_nobody_can_stop_any_more.py:16 in *::test_forgotten_lease",
            "  To fix this: release() it, use it in a with statement, or take the fixture*",
            "E *'this test' == 'failed by itself'*",
            "*Captured log of leaks teardown*",
            "<LocalCluster of 2 worker>",
            "*short test summary*",
        ]
    )


GODOT = """
import threading

go = threading.Event()

def wait_for_godot(x):
    go.wait()
    return x
"""

THREADS = """
import threading
import pytest
import numpy as np
from godot import go, wait_for_godot
from pytest_localcluster import LocalCluster, StopError, function

def test_operation():
    with LocalCluster(workers=1, ps=0, launcher="thread") as cluster:
        session = cluster.session()
        waiting = function(wait_for_godot)(np.zeros(3))
        thread = threading.Thread(target=lambda: pytest.raises(Exception, session.run, waiting))
        thread.start()
        while not cluster.workers[0]._life.process._serving._site.busy():
            pass
        with pytest.raises(StopError, match="wait_for_godot"):
            cluster.stop()
    thread.join()

def test_function():
    with LocalCluster(workers=1, ps=0, launcher="thread", stop_timeout=1) as cluster:
        cluster.workers[0].submit(wait_for_godot, 1)
        with pytest.raises(StopError):
            cluster.stop()

def test_teardown_fails_already():
    cluster = LocalCluster(workers=1, ps=0, launcher="thread", stop_timeout=1).start()
    cluster.workers[0].submit(wait_for_godot, 1)
    cluster.stop()

def test_let_go():
    go.set()

def test_innocent(local_cluster):
    pass
"""


def test_what_will_not_end_is_told_by_name(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(THREADS)
    pytester.makepyfile(godot=GODOT)
    result = run()
    result.assert_outcomes(passed=4, failed=1, errors=2)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_operation*",
            "the threads of /job:worker/task:0 at localhost:*, of <LocalCluster of 1 worker>",
            "  made at *is_told_by_name.py:* in *::test_operation",
            "  | still running: wait_for_godot* on /job:worker/replica:0/task:0/device:CPU:0",
            "  To fix this: have the operation end, or use launcher='process'*",
            "*ERROR at teardown of test_function*",
            "the thread of /job:worker/task:0, of <LocalCluster of 1 worker>",
            "*in wait_for_godot",
        ]
    )


def test_ours(pytester: pytest.Pytester, run: Run) -> None:
    # Whatever we forget ourselves is found just as well: here nothing is closed at the end.
    pytester.makepyfile(
        """
        import os
        import signal
        import pytest
        from pytest_localcluster import LocalCluster, _ports
        from pytest_localcluster._launch.handle import ChildProcess
        from pytest_localcluster._life import Life

        kept = []

        def test_it(monkeypatch):
            with monkeypatch.context() as patch:
                patch.setattr(Life, "ask_to_stop", lambda self: None)
                patch.setattr(Life, "await_end", lambda *_: None)
                patch.setattr(Life, "finish", lambda *_: None)
                patch.setattr(_ports.PortLease, "release", lambda self: None)
                cluster = LocalCluster(workers=1, ps=0).start()
                cluster.workers[0].run(print, "a listener is there")
                kept.append(cluster.workers[0]._life)
                cluster.stop()

        def test_clean_up():
            from pytest_localcluster._clock import Deadline
            kept[0].process.close(Deadline(5))
            kept[0].place.lease.release()
        """
    )
    result = run("-W", "ignore::ResourceWarning")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*things of a cluster stayed behind*",
            "the lease of port *, of <LocalCluster of 1 worker>",
            "the control socket and the status pipe of /job:worker/task:0, of <Local*",
            "the process of /job:worker/task:0, of <LocalCluster of 1 worker>",
            "  | pid *",
            "the thread 'results of /job:worker/task:0', of <LocalCluster of 1 worker>",
        ]
    )


@pytest.mark.parametrize("how", ["option", "ini"])
def test_warn(pytester: pytest.Pytester, run: Run, ini: Callable[[str], object], how: str) -> None:
    pytester.makepyfile(LEAKY)
    if how == "ini":
        ini("cluster_leak_check = warn\n")
    result = run(*(["--cluster-leak-check=warn"] if how == "option" else []))
    result.assert_outcomes(passed=4, failed=1, warnings=3)
    result.stdout.fnmatch_lines(["*ClusterLeakWarning: something of a cluster stayed behind*"])
    category = "error::pytest_localcluster.errors.ClusterLeakWarning"
    run("--cluster-leak-check=warn", "-W", category).assert_outcomes(passed=4, failed=1, errors=3)


def test_off(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(LEAKY)
    result = run("--cluster-leak-check=off")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.no_fnmatch_line("*stayed behind*")


@pytest.mark.parametrize("check", ["error", "off"])
def test_stopped_clusters_are_forgotten(pytester: pytest.Pytester, run: Run, check: str) -> None:
    pytester.makepyfile(
        """
        import gc
        import weakref
        import pytest

        before = []

        @pytest.mark.parametrize("n", range(3))
        def test_it(local_cluster, cluster_factory, n):
            gc.collect()
            assert [cluster() for cluster in before if cluster() is not None] == []
            before[:] = map(weakref.ref, (local_cluster, cluster_factory()))
        """
    )
    run(f"--cluster-leak-check={check}").assert_outcomes(passed=3)
