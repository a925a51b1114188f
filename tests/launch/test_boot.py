"""How guard and forkserver begin, in whatever surroundings, and what is told if they do not."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pytest_localcluster import CommandRuntime, LocalCluster, ServerExited, StartError
from pytest_localcluster._core import library

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a module, first on the path; return its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, code: str) -> str:
        (tmp_path / f"{name}.py").write_text(code)
        return name

    return write


# Workers of xdist have guards that are no children of theirs: how one ended is not known there.
SHARED = "PYTEST_XDIST_WORKER" in os.environ
alone = pytest.mark.skipif(SHARED, reason="the guard is a child of another process")


class TestEnds:
    """Whatever ends the forkserver before it speaks is told with its status and its words."""

    @pytest.mark.parametrize(
        ("name", "code", "how"),
        [
            ("exits", "import os; os.write(1, b'last words\\n'); os._exit(3)", "status 3"),
            ("aborts", "import os; os.abort()", "SIGABRT"),
            ("is_killed", "import os; os.kill(os.getpid(), 9)", "SIGKILL"),
            ("is_ended", "import os; os.kill(os.getpid(), 15)", "SIGTERM"),
        ],
    )
    def test_while_it_imports(self, write: Write, name: str, code: str, how: str) -> None:
        cluster = LocalCluster(workers=1, ps=0, preload=[write(name, code)])
        with pytest.raises(StartError) as caught:
            cluster.start()
        text = str(caught.value)
        assert "ended with the process that starts the tasks, which" in text
        assert how in text
        assert ("last words" if name == "exits" else name) in text
        assert how == "SIGKILL" or "SIGKILL" not in text

    @alone
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_of_the_guard_while_it_imports(self, write: Write, number: int) -> None:
        code = f"import os, time; os.kill(os.getppid(), {number:d}); time.sleep(100)"
        name = write(f"kills_the_guard_{number:d}", code)
        with pytest.raises(StartError, match=f"guard.* {signal.Signals(number).name}"):
            LocalCluster(workers=1, ps=0, preload=[name]).start()

    @alone
    def test_of_the_interpreter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONHOME", "/nowhere")
        # A preloaded module of its own, for a forkserver that no other test has started.
        with pytest.raises(StartError, match="status 1") as caught:
            LocalCluster(workers=1, ps=0, preload=["this"]).start()
        assert "SIGKILL" not in str(caught.value)
        assert "No module named 'encodings'" in str(caught.value)

    @alone
    def test_of_a_sitecustomize(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "sitecustomize.py").write_text("import os; os.write(2, b'no!\\n'); os._exit(4)")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(StartError, match=r"status 4[\s\S]*no!"):
            LocalCluster(workers=1, ps=0, preload=["antigravity"]).start()

    @pytest.mark.parametrize("who", ["the process", "the guard of the process"])
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_while_tasks_run(self, who: str, number: signal.Signals) -> None:
        with LocalCluster(workers=1, ps=0) as cluster:
            worker = cluster.workers[0]
            assert worker.pid is not None
            above = psutil.Process(worker.pid).parents()
            os.kill(above["guard" in who].pid, number)
            with pytest.raises(ServerExited) as caught:
                worker.run(signal.pause)
            known = not SHARED or "guard" not in who
            how = f"was killed by {number.name}" if known else "ended, exit status unknown"
            assert f"ended with {who} that starts the tasks, which {how}" in str(caught.value)
            assert caught.value.exitcode is None
            assert "exit code unknown" in repr(worker)


class TestPath:
    @pytest.mark.parametrize("name", ["secrets", "queue", "selectors", "struct", "colorsys"])
    def test_a_module_of_a_name_of_the_standard_library(self, write: Write, name: str) -> None:
        loaded = sys.modules.get(name)
        sys.modules.pop(name, None)
        try:
            write(name, "OURS = True")
            mine = __import__(name)
            assert mine.OURS
            only = write(f"only_{name}", "")  # for a forkserver that starts now
            with LocalCluster(workers=1, ps=1, preload=[only]) as cluster:
                seen = [cluster.workers[0].run(lambda: __import__(name).OURS)]
                cluster.workers[0].restart()
                seen.append(cluster.workers[0].run(lambda: __import__(name).OURS))
            assert seen == [True, True]
            with library.first():
                assert not hasattr(__import__(name), "OURS")
            assert sys.modules[name] is mine
        finally:
            sys.modules.pop(name, None)
            if loaded is not None:
                sys.modules[name] = loaded

    def test_one_that_was_imported_before(self, write: Write) -> None:
        write("json", "OURS = True")
        with LocalCluster(workers=1, ps=0, preload=["this"]) as cluster:
            assert cluster.workers[0].run(lambda: __import__("json").dumps([3])) == "[3]"

    def test_a_path_and_a_variable_longer_than_arguments_may_be(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        long = [f"/opt/{'x' * 150}/{n:04}/site-packages" for n in range(900)]
        monkeypatch.setattr(sys, "path", [*sys.path, *long])
        monkeypatch.setenv("LONG", "x" * 200_000)
        with LocalCluster(workers=1, ps=0, preload=["this"]) as cluster:
            worker = cluster.workers[0]
            assert worker.run(lambda: sys.path[-900:]) == long
            assert worker.run(lambda: len(os.environ["LONG"])) == 200_000

    def test_no_name_is_an_argument(self) -> None:
        with LocalCluster(workers=1, ps=0) as cluster:
            folder = str(cluster.workers[0].log.path.parent.parent)
            for process in psutil.Process(cluster.workers[0].pid).parents()[:2]:
                assert folder not in " ".join(process.cmdline())


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks here")
class TestSignals:
    def test_blocked_ones_reach_no_child(self) -> None:
        blocked = {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            with LocalCluster(workers=1, ps=1, preload=["this"]) as cluster:
                worker = cluster.workers[0]
                assert worker.run(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ())) == set()
                worker.kill()
                assert worker.join(10) == -signal.SIGKILL
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def test_ignored_ones_are_not_ignored_by_programs(self, write: Write) -> None:
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            sleeps = CommandRuntime(worker=["sh", "-c", "kill $$; echo survived; sleep 100"])
            cluster = LocalCluster(workers=1, ps=0, runtime=sleeps, preload=[write("only_now", "")])
            with pytest.raises(StartError, match="SIGTERM"):
                cluster.start()
        finally:
            signal.signal(signal.SIGTERM, before)


def test_logs_are_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    monkeypatch.setenv("LC_ALL", "C")
    with LocalCluster(workers=1, ps=0, preload=["this"]) as cluster:
        worker = cluster.workers[0]
        worker.run(print, "Gr\u00fc\u00dfe \u6d4b")
        assert "Gr\u00fc\u00dfe \u6d4b" in worker.log.text()
