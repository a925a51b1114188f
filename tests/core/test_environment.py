"""Which variables of an outer job a task does without, and since when."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_localcluster import LocalCluster
from pytest_localcluster._core import environment


@pytest.fixture(autouse=True)
def no_outer_job() -> Iterator[None]:
    before = environment.begin({})
    yield
    environment.begin(before)


OUTER = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
    "ROLE_NAME": "trainer",
    "WORLD_SIZE": "8",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "job",
    "PET_NNODES": "2",
    "SLURM_PROCID": "7",
    "SLURM_JOB_ID": "1",
    "OMPI_COMM_WORLD_RANK": "3",
    "PMI_RANK": "3",
    "PMIX_RANK": "3",
    "MPI_LOCALRANKID": "0",
    "DMLC_ROLE": "server",
    "HOROVOD_RANK": "3",
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1",
    "JAX_PROCESS_ID": "3",
    "JAX_NUM_PROCESSES": "8",
    "TF_CONFIG": '{"cluster": {"worker": ["elsewhere:1"]}}',
    "PBS_NODEFILE": "/nodes",
    "LSB_JOBID": "1",
}
USERS = {
    "JAX_PLATFORMS": "cpu",
    "LOCAL_SETTINGS": "x",
    "HYDRA_FULL_ERROR": "1",
    "NCCL_DEBUG": "INFO",
    "RANKING": "1",
    "PMIR": "1",
    "MASTER": "x",
}
INTERFACES = {"GLOO_SOCKET_IFNAME": "eth7", "NCCL_SOCKET_IFNAME": "^docker0", "FI_TCP_IFACE": "ib0"}


def test_variables_of_a_job_are_dropped_and_those_of_the_user_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {**OUTER, **USERS}.items():
        monkeypatch.setenv(name, value)
    environment.begin(environment.outer_job())
    found = environment.for_tasks()
    assert OUTER.keys().isdisjoint(found)
    assert found.items() >= USERS.items()


def test_variables_that_a_test_has_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    environment.begin(environment.outer_job())
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("SLURM_PROCID", "7")
    found = environment.for_tasks()
    assert (found["RANK"], found["SLURM_PROCID"]) == ("1", "7")
    monkeypatch.delenv("RANK")
    assert "RANK" not in environment.for_tasks()


def test_interfaces_are_the_loopback_where_tasks_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in INTERFACES.items():
        monkeypatch.setenv(name, value)
    environment.begin(environment.outer_job())
    monkeypatch.setenv("TP_SOCKET_IFNAME", "the test's own")
    found = environment.for_tasks()
    assert {found[name] for name in INTERFACES} <= {"lo", "lo0"}
    assert found["TP_SOCKET_IFNAME"] == "the test's own"
    assert environment.for_tasks(loopback=False).items() >= INTERFACES.items()


def test_a_task_is_an_outer_job_for_the_clusters_that_it_starts() -> None:
    def start() -> tuple[str | None, list[str]]:
        import os

        with LocalCluster(workers=1, ps=1) as inner:
            rank = inner.ps[0].run(os.environ.get, "RANK")
            config = inner.ps[0].run(os.environ.get, "TF_CONFIG")
        return rank, [word for word in ("worker", "ps", "chief") if word in (config or "")]

    with LocalCluster(jobs={"chief": 1}, workers=2) as cluster:
        assert cluster.workers[1].run(start) == (None, ["worker", "ps"])


def test_os_environ_is_the_task_s_own_and_comes_back_as_it_is_there() -> None:
    import os

    with LocalCluster(workers=1, env={"ONE": "of the task"}) as cluster:
        worker = cluster.workers[0]
        assert worker.run(os.environ.get, "ONE") == "of the task"
        environ = os.environ
        assert worker.run(lambda: environ["ONE"]) == "of the task"
        assert worker.run(lambda: os.environ)["ONE"] == "of the task"
    assert "ONE" not in os.environ
