"""The last lines of a task in its error: once, in order, at most twenty, with a crash's stack."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from pytest_localcluster import CommandRuntime, LocalCluster, ServerExited, StartError, StartTimeout
from pytest_localcluster._launch.reports import TAIL
from tests.test_launch import Runtime

LINES = "for n in range(60): print('line', n, flush=True)\n"


def evidence(error: BaseException) -> list[str]:
    """Return the lines of the log that an error shows, which is more than its attribute."""
    lines = [line[4:] for line in str(error).splitlines() if line.startswith("  | ")]
    assert lines.pop(0).startswith("last log lines of ")
    return lines


def last(count: int = TAIL, of: int = 60) -> list[str]:
    return [f"line {n}" for n in range(of - count, of)]


def say(code: int, text: str = LINES) -> None:
    exec(text)
    os._exit(code)


def test_of_a_task_that_exits() -> None:
    with LocalCluster(workers=1, ps=0) as cluster, pytest.raises(ServerExited) as caught:
        cluster.workers[0].run(say, 3)
    assert evidence(caught.value) == last()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("print('one\\n\\nthree')", ["one", "", "three"]),
        ("print('no end', end='', flush=True)", ["no end"]),
        (LINES + "print('x' * 100_000, flush=True)", [*last(19), "x" * 100_000]),
        ("os.write(2, b'\\xff\\n')", ["\N{REPLACEMENT CHARACTER}"]),
    ],
    ids=["empty", "unfinished", "long", "bytes"],
)
def test_of_what_is_printed_otherwise(text: str, lines: list[str]) -> None:
    with LocalCluster(workers=1, ps=0) as cluster, pytest.raises(ServerExited) as caught:
        cluster.workers[0].run(say, 3, text)
    assert evidence(caught.value) == lines


def test_of_a_start_and_its_cause_together() -> None:
    cluster = LocalCluster(workers=1, ps=0, runtime=Runtime(lambda: say(7)))
    with pytest.raises(StartError) as caught:
        cluster.start()
    assert evidence(caught.value) == last()
    cause = caught.value.__cause__
    assert isinstance(cause, ServerExited)
    assert cause.exitcode == 7
    assert "| line" not in str(cause), "a red report shows both errors"


def test_of_a_command_that_ends_at_once() -> None:
    runtime = CommandRuntime(ps=[sys.executable, "-c", LINES + "exit(3)"])
    with pytest.raises(StartError) as caught:
        LocalCluster(workers=0, ps=1, runtime=runtime).start()
    assert evidence(caught.value) == last()
    assert isinstance(caught.value.__cause__, ServerExited)
    assert "| line" not in str(caught.value.__cause__)


def test_of_a_command_that_never_is_ready() -> None:
    code = LINES + "import signal; signal.pause()"
    runtime = CommandRuntime(ps=[sys.executable, "-c", code], ready=lambda server: False)
    with pytest.raises(StartTimeout) as caught:
        LocalCluster(workers=0, ps=1, runtime=runtime, start_timeout=5.0).start()
    assert evidence(caught.value) == last()


def threads(count: int) -> None:
    for _ in range(count):
        threading.Thread(target=threading.Event().wait, daemon=True).start()


def descend(depth: int) -> None:
    if depth:
        descend(depth - 1)
    os.kill(os.getpid(), signal.SIGSEGV)


def crash(depth: int) -> None:
    exec(LINES)
    threads(60)
    descend(depth)


@pytest.mark.parametrize("depth", [0, 200])
def test_of_a_crash(depth: int) -> None:
    with LocalCluster(workers=1, ps=0) as cluster:
        with pytest.raises(ServerExited) as caught:
            cluster.workers[0].run(crash, depth)
        assert cluster.workers[0].log.text().count("Thread 0x") >= 60
    lines = evidence(caught.value)
    assert lines[:TAIL] == last()
    assert lines[TAIL] == "Fatal Python error: Segmentation fault"
    assert lines[TAIL + 1].startswith("Current thread 0x")
    assert lines[TAIL + 2].endswith(" in descend")
    assert lines[TAIL + 3] == "    os.kill(os.getpid(), signal.SIGSEGV)"
    assert depth == 0 or lines[-1] == "  ...", "without it, the depth is that of the start"
    assert len(lines) < TAIL + 50


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("more", [3, 60])
def test_of_a_task_that_outlives_the_crash_of_its_child(more: int) -> None:
    def run() -> None:
        print("line before", flush=True)
        if (pid := os.fork()) == 0:
            os.kill(os.getpid(), signal.SIGSEGV)
        os.waitpid(pid, 0)
        say(3, f"for n in range({more}): print('line', n, flush=True)")

    with LocalCluster(workers=1, ps=0) as cluster, pytest.raises(ServerExited) as caught:
        cluster.workers[0].run(run)
    lines = evidence(caught.value)
    if more == 60:
        assert lines == last()
    else:
        lines = [line for line in lines if "fork_posix" not in line]  # gRPC's own words
        assert lines[:2] == ["line before", "Fatal Python error: Segmentation fault"]
        assert lines[-3:] == last(3, of=3)


def test_in_a_red_report(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)  # where pytest's summary repeats each error
    pytester.makepyfile(
        """
        import sys
        from pytest_localcluster import CommandRuntime

        def test_it(cluster_factory):
            ends = [sys.executable, "-c", "print('I ' + 'cannot'); exit(3)"]
            cluster_factory(workers=0, ps=1, runtime=CommandRuntime(ps=ends))
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    assert result.ret == 1
    assert result.stdout.str().count("| I cannot") == 1
