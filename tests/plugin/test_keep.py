"""``--cluster-keep=failed``: what is left running, what is not, and how that ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pytest_localcluster import Session, Variable, constant, device, variables_initializer
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._clusterfile import ClusterFile, read_cluster_file
from tests.plugin.conftest import Run
from tests.survivors.runs import TAG, processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="goes by what Linux has")

Down = Callable[[Path], None]


@pytest.fixture(autouse=True)
def tag(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Mark all that the inner pytest starts; let nothing of it outlive the test."""
    tag = str(tmp_path)
    (tmp_path / "temporary").mkdir()
    with monkeypatch.context() as patch:
        patch.setenv(TAG, tag)
        patch.setenv("TMPDIR", str(tmp_path / "temporary"))
        yield tag
    left = processes(tag)
    for one in left:
        one.kill()
    assert left == []
    assert list((tmp_path / "temporary").glob("pytest-localcluster*")) == []


@pytest.fixture
def down(tag: str) -> Down:
    """End a kept cluster, and wait until nothing of the run is left."""

    def end(path: Path) -> None:
        everybody = processes(tag)
        done = subprocess.run(
            [sys.executable, "-m", "pytest_localcluster", "down", path],
            capture_output=True,
            text=True,
            check=False,
            env={name: value for name, value in os.environ.items() if name != TAG},
        )
        assert (done.returncode, done.stderr) == (0, "")
        _, alive = psutil.wait_procs(everybody, 20)
        assert alive == []

    return end


def kept(result: pytest.RunResult, count: int = 1) -> list[Path]:
    """Return the files of what is kept, as the summary names them; each is in the report too."""
    line = r"^<LocalCluster of .*: running> is kept by (\S+); to end it: .* down (\S+)$"
    found = re.findall(line, result.stdout.str(), re.MULTILINE)
    assert len(found) == 2 * count, result.stdout.str()
    return [Path(path) for path in dict.fromkeys(path for _, path in found)]


def up(file: ClusterFile) -> list[int]:
    return [process.pid for process in file.processes.values() if process.lives()]


def test_the_cluster_of_a_failed_test(
    pytester: pytest.Pytester, run_both: Run, down: Down, tag: str
) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_localcluster import cluster_fixture

        wide = cluster_fixture(scope="module")

        def test_before(local_cluster, wide):
            pass

        @pytest.mark.cluster(workers=2)
        def test_red(local_cluster, wide):
            local_cluster.workers[1].run(print, "so far")
            with open("pids", "w") as file:
                print(*[s.pid for s in [*local_cluster.servers, *wide.servers]], file=file)
            assert 0

        def test_after(local_cluster):
            local_cluster.run(int)
        """
    )
    result = run_both("--cluster-keep=failed")
    result.assert_outcomes(passed=2, failed=1)
    (path,) = kept(result)
    result.stdout.fnmatch_lines(
        [
            "*is not kept: it is of a fixture or marker of a wider scope, and goes on with the*",
            "  <Server /job:worker/task:1 at localhost:*: running, pid *>",
            f'*for a shell: eval "$(python -m pytest_localcluster env {path})"',
            '*a session, in Python started from there: Session("grpc://localhost:*")',
            "*a debugger: gdb -p *, or py-spy dump --pid *",
            f"*logs: tail -f {path.parent}/[*].log",
        ]
    )
    file = read_cluster_file(path)
    *pids, wide_worker, wide_ps = map(int, Path("pids").read_text().split())
    assert up(file) == pids
    assert not {wide_worker, wide_ps} & {one.pid for one in processes(tag)}
    assert (path.parent / "worker-1.log").read_text() == "so far\n"
    assert str(file.token) not in result.stdout.str()
    with device("/job:ps/task:0"):
        v = Variable(2.0, name="v")
    with Session(f"grpc://{file.spec.task_address('worker', 1)}", token=file.token) as session:
        session.run(variables_initializer([v]))
        assert session.run(v.read() * constant(3.0)) == 6.0
    down(path)


def test_only_who_fails_and_only_if_asked_for(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import pytest

        def test_green(local_cluster): pass

        @pytest.mark.xfail(strict=False)
        def test_expected(local_cluster): assert 0

        def test_skipped(local_cluster): pytest.skip("not today")
        """
    )
    result = run("--cluster-keep=failed")
    result.assert_outcomes(passed=1, xfailed=1, skipped=1)
    assert "kept by" not in result.stdout.str()
    pytester.makepyfile("def test_red(local_cluster): assert 0")
    result = run()
    result.assert_outcomes(failed=1)
    assert "kept by" not in result.stdout.str()


def test_a_setup_that_fails(
    pytester: pytest.Pytester, run: Run, down: Down, ini: Callable[[str], object]
) -> None:
    ini("cluster_keep = failed")
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def model(local_cluster):
            yield 1 / 0

        def test_it(model): pass
        """
    )
    result = run()
    result.assert_outcomes(errors=1)
    (path,) = kept(result)
    assert len(up(read_cluster_file(path))) == 2
    down(path)


def test_links_logs_of_their_own_and_a_task_that_is_dead(
    pytester: pytest.Pytester, run: Run, down: Down, tmp_path: Path, tag: str
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.cluster(workers=3, links=True)
        def test_it(local_cluster):
            local_cluster.workers[2].kill()
            local_cluster.workers[1].suspend()
            assert 0
        """
    )
    logs = tmp_path / "logs"
    result = run("--cluster-keep=failed", f"--cluster-log-dir={logs}")
    (path,) = kept(result)
    file = read_cluster_file(path)
    assert len(up(file)) == 3
    assert len(file.helpers) == 1
    assert all(log.parent.parent == logs for log in file.logs.values())
    result.stdout.fnmatch_lines(["*to wake those that are suspended: kill -CONT *"])
    with device("/job:ps/task:0"):
        v = Variable(2.0, name="v")
    with Session(f"grpc://{file.spec.task_address('worker', 0)}", token=file.token) as session:
        session.run(variables_initializer([v]))  # by way of the links
    down(path)
    assert logs.is_dir()


def test_what_a_function_still_has_to_say_is_no_end(
    pytester: pytest.Pytester, run: Run, down: Down, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    pytester.makepyfile(
        f"""
        def test_it(local_cluster):
            def work():
                with open({str(fifo)!r}) as file:
                    file.read()
                print("it has ended")
                return b"x" * (1 << 20)
            local_cluster.workers[0].submit(work)
            assert 0
        """
    )
    (path,) = kept(run("--cluster-keep=failed"))
    fifo.write_text("go on")
    log = path.parent / "worker-0.log"
    assert poll(lambda: "it has ended" in log.read_text(), Deadline(20))
    assert len(up(read_cluster_file(path))) == 2
    down(path)


def test_what_cannot_be_kept(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.cluster(launcher="thread")
        def test_threads(local_cluster): assert 0

        @pytest.mark.cluster(workers=1, ps=0)
        def test_dead(local_cluster):
            local_cluster.workers[0].kill()
            assert 0

        @pytest.mark.cluster(scope="module")
        def test_shared(local_cluster): assert 0
        """
    )
    result = run("--cluster-keep=failed")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "<LocalCluster *> is not kept",
            "/job:worker/task:0 cannot be kept: it is no process, and ends with pytest",
            "nothing can be kept: no task is alive",
            "<LocalCluster *> is not kept: it is of a fixture or marker of a wider scope*",
        ]
    )


def test_not_everything_is_kept(pytester: pytest.Pytester, run: Run, down: Down) -> None:
    pytester.makeconftest("from pytest_localcluster._plugin import keep\nkeep._MOST = 1")
    pytester.makepyfile(
        """
        def test_one(local_cluster): assert 0
        def test_two(local_cluster): assert 0
        """
    )
    result = run("--cluster-keep=failed")
    result.stdout.fnmatch_lines(["<LocalCluster *> is not kept: 1 others are already"])
    (path,) = kept(result)
    down(path)


def test_a_value_that_cannot_be(pytester: pytest.Pytester, run: Run) -> None:
    result = run("--cluster-keep=always")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --cluster-keep = 'always': use one of never, failed"])


def test_doctor_takes_it_for_no_stray(pytester: pytest.Pytester, run: Run, down: Down) -> None:
    pytester.makepyfile("def test_it(local_cluster): assert 0")
    (path,) = kept(run("--cluster-keep=failed"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest_localcluster", "doctor"],
        capture_output=True,
        text=True,
        check=False,
    )
    strays = done.stdout.partition("stray tasks: ")[2].splitlines()[0]
    pids = up(read_cluster_file(path))
    assert not {str(pid) for pid in pids} & set(strays.split())
    assert "stray files: none" in done.stdout
    assert f"clusters without a test: {path} (2 tasks)" in done.stdout
    down(path)
