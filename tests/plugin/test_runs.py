"""Whole runs, and how they end: nothing of a cluster is ever left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from pytest_localcluster._clock import Deadline, poll

Run = Callable[..., pytest.RunResult]

TAG = "PYTEST_LOCALCLUSTER_TEST_RUN"


@pytest.fixture
def left_behind(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], list[str]]]:
    """Return which processes and which files in the temporary directory an inner run has left."""
    temporary = pytester.mkdir("temporary")
    tag = str(pytester.path)
    # Every process of the inner run inherits both, whatever becomes of its parents.
    monkeypatch.setenv(TAG, tag)
    monkeypatch.setenv("TMPDIR", str(temporary))

    def find() -> list[str]:
        return [*processes(tag), *(path.name for path in temporary.glob("pytest-localcluster*"))]

    yield find
    for process in psutil.process_iter():
        if _tag(process) == tag and process.pid != os.getpid():
            process.kill()


def processes(tag: str) -> list[str]:
    return [str(p) for p in psutil.process_iter() if p.pid != os.getpid() and _tag(p) == tag]


def _tag(process: psutil.Process) -> str | None:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.environ().get(TAG)
    except psutil.Error:
        return None


TESTS = """
import pytest
from pytest_localcluster import LocalCluster, create_local_cluster

def test_one(local_cluster, session_cluster, cluster_factory):
    cluster_factory(launcher="thread")

@pytest.mark.cluster(scope="module")
def test_two(local_cluster):
    create_local_cluster(1, 1)
    LocalCluster(workers=1).start()  # and nobody stops it
    assert 0

@pytest.mark.cluster(scope="session")
@pytest.mark.parametrize("n", range(4))
def test_three(local_cluster, session_cluster, n):
    assert n != 1
"""


@pytest.mark.parametrize(
    ("args", "outcomes"),
    [
        ((), {"passed": 4, "failed": 2}),
        (("-s",), {"passed": 4, "failed": 2}),
        (("-x",), {"passed": 1, "failed": 1}),
        (("--maxfail=2",), {"passed": 2, "failed": 2}),
        (("-n2",), {"passed": 4, "failed": 2}),
        (("-n2", "-x"), {}),
        (("--timeout=30", "--timeout-method=thread"), {"passed": 4, "failed": 2}),
        (("--timeout=30", "--timeout-method=signal"), {"passed": 4, "failed": 2}),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else "",
)
def test_nothing_is_left(
    pytester: pytest.Pytester,
    run: Run,
    left_behind: Callable[[], list[str]],
    args: tuple[str, ...],
    outcomes: dict[str, int],
) -> None:
    pytester.makepyfile(TESTS)
    result = run(*args)
    assert left_behind() == []
    assert result.ret in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    if outcomes:
        result.assert_outcomes(**outcomes)
    assert "INTERNALERROR" not in result.stdout.str()
    result.stdout.no_fnmatch_line("*ERROR at teardown*")


def test_something_left_would_be_found(
    pytester: pytest.Pytester, run: Run, left_behind: Callable[[], list[str]]
) -> None:
    os.mkfifo(pytester.path / "fifo")
    pytester.makepyfile(
        """
        import os, subprocess, tempfile
        import psutil

        def test_it(local_cluster):
            for server in local_cluster.servers:
                # What left_behind() goes by.
                assert "PYTEST_LOCALCLUSTER_TEST_RUN" in psutil.Process(server.pid).environ()
                assert str(server.log.path).startswith(os.environ["TMPDIR"])
            tempfile.mkdtemp(prefix="pytest-localcluster-")
            subprocess.Popen(["cat", "fifo"], stdout=-3, stderr=-3)
        """
    )
    run().assert_outcomes(passed=1)
    assert len(left_behind()) == 2


@pytest.mark.parametrize("answer", ["c\nc\n", "q\n", ""], ids=["continue", "quit", "end of input"])
def test_pdb(pytester: pytest.Pytester, left_behind: Callable[[], list[str]], answer: str) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.run(
        sys.executable,
        "-m",
        "pytest",
        "--pdb",
        timeout=60,
        stdin=b"p [s.is_alive() for s in local_cluster.servers]\n" + answer.encode(),
    )
    result.stdout.fnmatch_lines(["*entering PDB*", "*[[]True, True]*"])
    assert left_behind() == []


@pytest.mark.parametrize(
    ("number", "mode"),
    [
        (signal.SIGINT, ()),
        (signal.SIGTERM, ()),
        (signal.SIGKILL, ()),
        (signal.SIGTERM, ("-n2",)),
        (signal.SIGKILL, ("-n2",)),
    ],
)
def test_pytest_is_ended_by_a_signal(
    pytester: pytest.Pytester,
    left_behind: Callable[[], list[str]],
    number: signal.Signals,
    mode: tuple[str, ...],
) -> None:
    ready = pytester.path / "ready"
    os.mkfifo(ready)
    pytester.makepyfile(
        f"""
        def test_it(local_cluster, session_cluster):
            with open({str(ready)!r}, "w") as file:
                file.write("ready")
            local_cluster.workers[0].run(input_that_never_comes)

        def input_that_never_comes():
            import threading
            threading.Event().wait()
        """
    )
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *mode],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    ) as process:
        assert ready.read_text() == "ready"
        process.send_signal(number)
        process.wait(30)
    # xdist's workers notice that their controller is gone on their own, after some seconds.
    poll(lambda: not processes(str(pytester.path)), Deadline(20))
    assert processes(str(pytester.path)) == []


def test_a_test_that_times_out(
    pytester: pytest.Pytester, run: Run, left_behind: Callable[[], list[str]]
) -> None:
    pytester.makepyfile(
        """
        import threading
        import pytest

        @pytest.mark.timeout(1, method="signal")
        def test_hangs(local_cluster):
            local_cluster.workers[0].submit(print, "hung words").result()
            threading.Event().wait()

        def test_next(local_cluster):
            assert local_cluster.workers[0].is_alive()
        """
    )
    result = run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*Timeout*1.0*", "hung words"])
    assert left_behind() == []


def test_without_xdist_installed(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("def test_it(local_cluster): pass")
    result = run("-p", "no:xdist", "-p", "no:asyncio", "-p", "no:timeout", "-p", "no:junitxml")
    result.assert_outcomes(passed=1)


def test_a_suite_without_clusters_imports_nothing(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it():
            pass

        def test_imports():
            heavy = ("grpc", "google.protobuf", "numpy", "cloudpickle", "portpicker")
            assert [name for name in heavy if name in sys.modules] == []
            ours = {name for name in sys.modules if name.startswith("pytest_localcluster.")}
            assert {name.split(".")[1] for name in ours} == {"_observer", "_plugin", "plugin"}
        """
    )
    pytester.makeconftest(
        """
        import sys

        def pytest_unconfigure():
            print("at the end:", "pytest_localcluster.errors" in sys.modules)
        """
    )
    result = run()
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["at the end: False"])


def test_a_failure_without_clusters_shows_no_frame_of_ours(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def broken():
            raise RuntimeError("setup")

        @pytest.fixture
        def breaks_later():
            yield
            raise RuntimeError("teardown")

        def test_setup(broken): pass

        def test_teardown(breaks_later): pass

        def test_call(): assert 0
        """
    )
    result = run()
    result.assert_outcomes(passed=1, failed=1, errors=2)
    assert "localcluster/" not in result.stdout.str()


@pytest.mark.parametrize("mode", [(), ("-n2",)], ids=["plain", "xdist"])
def test_coverage_of_what_runs_in_tasks(
    pytester: pytest.Pytester, run: Run, mode: tuple[str, ...]
) -> None:
    # Older releases cannot be told to follow forks that end with os._exit.
    pytest.importorskip("coverage", minversion="7.10")
    (pytester.path / ".coveragerc").write_text("[run]\npatch =\n    subprocess\n    _exit\n")
    pytester.makepyfile(
        work="""
        def in_task(n):
            total = 0
            for i in range(n):
                total += i
            return total
        """,
        test_it="""
        import work

        def test_it(local_cluster):
            assert local_cluster.workers[0].run(work.in_task, 4) == 6
        """,
    )
    result = run(*mode, "--cov=work", "--cov-report=term-missing")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["work.py * 100%*"])
    assert list(pytester.path.glob(".coverage.*")) == []  # all were combined
