"""A cluster that a failed test has left: it outlives pytest, however that ends, and nobody else."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_localcluster._cli import main
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._clusterfile import read_cluster_file
from tests.survivors.conftest import Start
from tests.survivors.runs import Run, processes

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="goes by pidfds")

SUITE = """
import pytest
from pytest_localcluster import cluster_fixture

wide = cluster_fixture(scope="module", workers=1, ps=0)

def test_red(local_cluster, wide):
    local_cluster.workers[0].run(child_in_session)
    assert 0

def test_next(local_cluster, wide):
    local_cluster.workers[0].run(be_deaf)
    wide.workers[0].suspend()
    at("next", others=[s.pid for s in [*local_cluster.servers, *wide.servers]])
"""


def only_file(run: Run) -> Path:
    (path,) = run.temporary.glob("pytest-localcluster-*-kept-*/*/cluster.json")
    return path


def keepers(path: Path) -> dict[str, list[int]]:
    """Return the processes of a kept cluster, by what they are."""
    file = read_cluster_file(path)
    tasks = [process.pid for process in file.processes.values()]
    assert all(process.lives() for process in file.processes.values())
    forkserver = psutil.Process(tasks[0]).ppid()
    return {
        "tasks": tasks,
        "forkserver": [forkserver],
        "guard": [psutil.Process(forkserver).ppid()],
    }


def reach(start: Start) -> tuple[Run, dict[str, Any], Path]:
    run = start(SUITE, "--cluster-keep=failed")
    told = run.reached("next")
    return run, told, only_file(run)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_outlives_pytest_and_the_others_do_not(start: Start, number: int) -> None:
    run, told, path = reach(start)
    run.note()
    run.process.send_signal(number)
    run.seconds_until_nobody_is_left([run.process.pid, *told["others"]])
    family = keepers(path)
    kept = [one for one in processes(str(path.parents[3])) if one.is_running()]
    assert {pid for pids in family.values() for pid in pids} < {one.pid for one in kept}
    assert len(kept) == 5, "the child of its task, too"

    def folders() -> list[str]:
        return [folder.name for folder in run.temporary.glob("pytest-localcluster*")]

    # The guard, which lives on, removes the other one; nobody ends when it has.
    assert poll(lambda: folders() == [path.parents[1].name], Deadline(20)), folders()
    assert main(["down", str(path)]) == 0
    run.seconds_until_nothing_is_left()
    assert run.leftovers() == []


@pytest.mark.parametrize("who", ["guard", "forkserver", "tasks"])
def test_it_ends_with_each_of_those_that_keep_it(start: Start, who: str) -> None:
    run, _, path = reach(start)
    run.process.kill()
    run.process.wait()
    # What is not kept goes first: a guard that is killed before that cannot see to it.
    assert poll(lambda: len(list(run.temporary.glob("pytest-*"))) == 1, Deadline(20))
    for pid in keepers(path)[who]:
        os.kill(pid, signal.SIGKILL)
    run.seconds_until_nothing_is_left()
    left = run.in_sight()
    if who == "guard":  # nobody is left who would remove it
        left.remove(path.parents[1].name)
    assert left == []


def test_it_ends_before_pytest_does(start: Start) -> None:
    run, told, path = reach(start)
    assert main(["down", str(path)]) == 0
    run.go(told)
    run.seconds_until_nothing_is_left()
    assert run.leftovers() == []
    assert "1 failed, 1 passed" in run.output()


def test_it_can_be_told_again(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    run, told, path = reach(start)
    copy = run.temporary / "copy.json"
    copy.write_text(path.read_text())
    run.go(told)
    assert run.process.wait(60) == 1
    assert main(["down", str(path)]) == 0
    assert main(["down", str(copy)]) == 0
    assert "had ended already" in capsys.readouterr().out
    run.seconds_until_nothing_is_left()
    assert run.leftovers() == []


MIXED = """
import pytest

@pytest.mark.cluster(
    jobs={"shell": 1},
    runtime={
        "worker": "native",
        "ps": "native",
        "shell": CommandRuntime(
            shell=["sh", "-c", DEAF_PROGRAM], ready=lambda server: "up" in server.log.text()
        ),
    },
)
def test_red(local_cluster):
    assert 0

def test_next():
    at("next")
"""


def test_programs_and_tasks_of_several_forkservers(start: Start) -> None:
    run = start(MIXED, "--cluster-keep=failed")
    run.reached("next")
    path = only_file(run)
    file = read_cluster_file(path)
    assert file.runtimes == {"worker": "native", "ps": "native", "shell": "command"}
    assert len({psutil.Process(process.pid).ppid() for process in file.processes.values()}) == 2
    run.process.kill()
    run.process.wait()
    assert all(process.lives() for process in file.processes.values())
    assert {log.read_text() for log in file.logs.values()} == {"", "up\n"}
    assert main(["down", str(path)]) == 0
    run.seconds_until_nothing_is_left()
    assert run.leftovers() == []
