"""A pytest that is not an ordinary one: inside of a job, with odd names, encodings and signals."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pytest_localcluster import _rendezvous
from tests.plugin.conftest import Run

OUTER = {
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "RANK": "0",
    "WORLD_SIZE": "1",
    "SLURM_PROCID": "7",
    "GLOO_SOCKET_IFNAME": "eth7",
    "TF_CONFIG": "{}",
}

NAMES = "NAMES = 'TORCHELASTIC_USE_AGENT_STORE', 'SLURM_PROCID'\n"


@pytest.fixture
def outer_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OUTER.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("outer_job")
class TestOuterJob:
    @pytest.mark.parametrize(
        "scope",
        [
            "test",
            pytest.param(
                "run",
                marks=pytest.mark.skipif(not _rendezvous.AVAILABLE, reason="no abstract sockets"),
            ),
        ],
    )
    def test_no_task_has_its_variables(
        self, pytester: pytest.Pytester, run_both: Run, scope: str
    ) -> None:
        scoped = "" if scope == "test" else ", scope='run'"
        pytester.makepyfile(
            f"""
            import os, pytest
            {NAMES}
            @pytest.mark.parametrize("n", range(2))
            @pytest.mark.cluster(workers=2, ps=1{scoped})
            def test_it(local_cluster, n):
                for server in local_cluster.servers:
                    assert server.run(lambda: [os.environ.get(n) for n in NAMES]) == [None, None]
                    assert server.run(os.environ.get, "GLOO_SOCKET_IFNAME") in ("lo", "lo0")
                assert local_cluster.ps[0].run(os.environ.get, "RANK") is None
                assert [w.run(os.environ.get, "RANK") for w in local_cluster.workers] == ["0", "1"]
                assert os.environ["RANK"] == "0", "ours is left alone"
            """
        )
        run_both().assert_outcomes(passed=2)

    def test_tests_and_conftests_set_their_own(
        self, pytester: pytest.Pytester, run_both: Run
    ) -> None:
        pytester.makeconftest("import os\nos.environ.update(SLURM_NODEID='4', PMI_RANK='5')\n")
        pytester.makepyfile(
            """
            import os

            def test_it(cluster_factory, monkeypatch):
                monkeypatch.setenv("SLURM_PROCID", "3")
                worker = cluster_factory(workers=1, env={"WORLD_SIZE": "9"}).workers[0]
                names = "SLURM_PROCID", "SLURM_NODEID", "PMI_RANK", "WORLD_SIZE"
                assert [worker.run(os.environ.get, name) for name in names] == ["3", "4", "5", "9"]
            """
        )
        run_both().assert_outcomes(passed=1)

    def test_no_program_and_no_preloaded_module_has_them(
        self, pytester: pytest.Pytester, run: Run
    ) -> None:
        pytester.makepyfile(
            mylib=f"import os\n{NAMES}SEEN = [os.environ.get(name) for name in NAMES]\n",
            test_it="""
            import re, pytest
            from pytest_localcluster import CommandRuntime

            @pytest.mark.cluster(preload=["mylib"])
            def test_preload(local_cluster):
                import mylib
                assert local_cluster.workers[0].run(lambda: mylib.SEEN) == [None, None]

            def test_program(cluster_factory):
                shows = ["sh", "-c", "env; echo READY; sleep 100"]
                runtime = CommandRuntime(worker=shows, ready=re.compile("READY"))
                said = cluster_factory(workers=1, ps=0, runtime=runtime).workers[0].log.text()
                assert "SLURM_" not in said and "TORCHELASTIC" not in said
                assert "RANK=0" in said and '"worker"' in said
            """,
        )
        run().assert_outcomes(passed=2)


RUN = "def test_run(local_cluster):\n    assert local_cluster.workers[0].run(int, '3') == 3\n"


class TestNames:
    """The console script does not put the working directory first, as ``python -m pytest`` does."""

    @pytest.mark.parametrize("names", [["secrets", "colorsys"], ["sched", "csv"], ["uuid", "hmac"]])
    def test_helpers_named_like_the_standard_library(
        self, pytester: pytest.Pytester, names: list[str]
    ) -> None:
        tests = pytester.mkdir("suite")
        for name in names:
            (tests / f"{name}.py").write_text("raise RuntimeError('not the module you want')")
        (tests / "test_it.py").write_text(
            RUN
            + "from pytest_localcluster import Session, Variable\n"
            + "def test_restart(local_cluster):\n    local_cluster.ps[0].restart()\n"
        )
        script = Path(sys.executable).with_name("pytest")
        result = pytester.run(script, "--import-mode=prepend", "suite")
        result.assert_outcomes(passed=2)

    def test_of_many_bytes(self, pytester: pytest.Pytester, run_both: Run) -> None:
        long = "\u6d4b\u8bd5" * 60
        pytester.makepyfile(
            test_it=f"def test_{long}1(local_cluster):\n    pass\n"
            f"def test_{long}2(local_cluster):\n    pass\n"
        )
        run_both("--cluster-log-dir=logs", "--cluster-timeline=all").assert_outcomes(passed=2)
        folders = [path for path in (pytester.path / "logs").iterdir() if path.is_dir()]
        assert len([path for path in folders if path.name.startswith("test_it.test_")]) == 2
        assert all(len(os.fsencode(path.name)) < 180 for path in folders)


def test_a_terminal_without_the_characters(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    pytester.makepyfile(
        "def test_it(local_cluster):\n"
        "    local_cluster.workers[0].run(print, 'Gr\\u00fc\\u00dfe')\n"
        "    assert 'Gr\\u00fc\\u00dfe' in local_cluster.workers[0].log.text()\n"
    )
    result = run("-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*/job:worker/task:0* Gr\\xfc\\xdfe"])


class TestFakeFiles:
    @pytest.fixture(autouse=True)
    def temporary(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
        pytest.importorskip("pyfakefs")
        folder = pytester.mkdir("temporary")
        monkeypatch.setenv("TMPDIR", str(folder))
        return folder

    def test_a_cluster_sees_the_machine_s(
        self, pytester: pytest.Pytester, run_both: Run, temporary: Path
    ) -> None:
        pytester.makepyfile(
            """
            import os, pathlib
            from pytest_localcluster import LocalCluster

            def test_around_it(local_cluster, fs):
                worker = local_cluster.workers[0]
                worker.kill()
                worker.restart()
                worker.run(print, "words")
                assert "words" in worker.log.text()

            def test_within_it(fs, local_cluster):
                fs.create_file("/only/here", contents="fake")
                local_cluster.ps[0].restart()
                assert not local_cluster.ps[0].run(lambda: os.path.exists("/only/here"))
                with LocalCluster(workers=1, ps=0) as other:
                    assert other.workers[0].run(int, "3") == 3
                assert pathlib.Path("/only/here").read_text() == "fake"
                assert open("/only/here").read() == "fake"

            def test_innocent():
                assert not os.path.exists("/only/here")
            """
        )
        run_both().assert_outcomes(passed=3)
        assert not list(temporary.glob("pytest-localcluster-*"))

    def test_reports(self, pytester: pytest.Pytester, run: Run, temporary: Path) -> None:
        pytester.makepyfile(
            """
            def test_red(local_cluster, fs):
                local_cluster.workers[0].run(print, "my words")
                assert local_cluster is None
            """
        )
        result = run("--cluster-logs=all", "--cluster-timeline=all", "--cluster-leak-check=error")
        result.stdout.no_fnmatch_line("*INTERNALERROR*")
        result.stdout.fnmatch_lines(["my words"])
        result.assert_outcomes(failed=1)
        assert not list(temporary.glob("pytest-localcluster-*"))


class TestSockets:
    @pytest.fixture(autouse=True)
    def plugin(self, pytester: pytest.Pytester) -> None:
        pytest.importorskip("pytest_socket")
        pytester.makepyfile(
            """
            import pytest

            def test_run(local_cluster):
                assert local_cluster.workers[0].run(int, "3") == 3

            @pytest.mark.parametrize("n", range(2))
            def test_port(lease_port, n):
                lease_port()

            @pytest.mark.cluster(scope="run")
            def test_run_wide(local_cluster):
                local_cluster.run(int, "3")

            @pytest.mark.enable_socket
            def test_allowed(local_cluster):
                local_cluster.ps[0].restart()
            """
        )

    @pytest.mark.parametrize("warnings", ["default", "error"])
    def test_disabled(self, run: Run, warnings: str) -> None:
        result = run("--disable-socket", "-W", warnings)
        result.assert_outcomes(passed=1, failed=2, errors=2)
        result.stdout.fnmatch_lines(
            ["E *StartError: pytest-socket refuses*", "E *To fix this: *--allow-hosts=127.0.0.1*"]
        )

    def test_the_remedy(self, run_both: Run) -> None:
        result = run_both("--disable-socket", "--allow-hosts=127.0.0.1,::1", "--allow-unix-socket")
        result.assert_outcomes(passed=5)
