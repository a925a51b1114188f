"""Whole runs, and how they end: nothing of a cluster is ever left behind.

How they are ended by others, and whatever is hard to end: see ``tests/survivors``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.survivors.runs import TAG, processes

Run = Callable[..., pytest.RunResult]


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
        return [
            *map(str, processes(tag)),
            *(path.name for path in temporary.glob("pytest-localcluster*")),
        ]

    yield find
    for process in processes(tag):
        process.kill()


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
        (("-x",), {"passed": 1, "failed": 1}),
        (("--maxfail=2", "--timeout=30", "--timeout-method=thread"), {"passed": 2, "failed": 2}),
        (("-s", "--timeout=30", "--timeout-method=signal"), {"passed": 4, "failed": 2}),
        (("-n2",), {"passed": 4, "failed": 2}),
        (("-n2", "-x"), {}),
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


def test_a_test_that_times_out(
    pytester: pytest.Pytester, run: Run, left_behind: Callable[[], list[str]]
) -> None:
    pytester.makepyfile(
        """
        import threading
        import pytest

        @pytest.mark.timeout(3, method="signal", func_only=True)  # however long a start takes
        def test_hangs(local_cluster):
            local_cluster.workers[0].submit(print, "hung words").result()
            threading.Event().wait()

        def test_next(local_cluster):
            assert local_cluster.workers[0].is_alive()
        """
    )
    result = run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*Timeout*3.0*", "hung words"])
    assert left_behind() == []
