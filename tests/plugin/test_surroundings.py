"""A pytest that is not an ordinary one: inside of a job, with odd names, encodings and signals."""

from __future__ import annotations

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
            import pytest
            from pytest_localcluster import CommandRuntime

            @pytest.mark.cluster(preload=["mylib"])
            def test_preload(local_cluster):
                import mylib
                assert local_cluster.workers[0].run(lambda: mylib.SEEN) == [None, None]

            def test_program(cluster_factory):
                shows = ["sh", "-c", "env; echo ready; sleep 100"]
                runtime = CommandRuntime(worker=shows, ready="ready")
                said = cluster_factory(workers=1, ps=0, runtime=runtime).workers[0].log.text()
                assert "SLURM_" not in said and "TORCHELASTIC" not in said
                assert "RANK=0" in said and '"worker"' in said
            """,
        )
        run().assert_outcomes(passed=2)
