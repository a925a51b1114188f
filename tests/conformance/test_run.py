"""Functions in tasks: run, submit, current_task, and what a task starts with."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pytest_localcluster import (
    ClusterSpec,
    LocalCluster,
    ServerExited,
    SpecError,
    Task,
    current_task,
)
from tests.conformance.conftest import PROCESSES, MakeCluster


@dataclass
class Answer:
    task: str
    value: int


class Refusal(Exception):
    pass


def whoami(value: int = 0) -> Answer:
    return Answer(str(current_task().task), value)


def refuse(text: str) -> None:
    print("about to refuse")
    raise Refusal(text)


pytestmark = pytest.mark.usefixtures("python")


def test_results_come_by_index(cluster: LocalCluster) -> None:
    answers = cluster.run(whoami, 3)
    assert answers == [Answer("/job:worker/task:0", 3), Answer("/job:worker/task:1", 3)]
    assert type(answers[0]) is Answer
    assert cluster.run(whoami, job="ps", value=4) == [Answer("/job:ps/task:0", 4)]
    with pytest.raises(SpecError, match="has no job 'chief'; its jobs are worker, ps"):
        cluster.run(whoami, job="chief")


def test_a_task_knows_its_place(cluster: LocalCluster) -> None:
    context = cluster.workers[1].run(lambda: current_task())
    assert context.task == Task("worker", 1)
    assert context.cluster_spec == cluster.spec
    assert context.target == cluster.workers[1].target
    tf_config = json.loads(context.env["TF_CONFIG"])
    assert tf_config["task"] == {"type": "worker", "index": 1}
    assert ClusterSpec(tf_config["cluster"]) == cluster.spec
    torch = {
        name: context.env[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    }
    assert torch == {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert context.env["MASTER_PORT"] == cluster.workers[0].run(
        lambda: current_task().env["MASTER_PORT"]
    )
    assert "RANK" not in cluster.ps[0].run(lambda: dict(current_task().env))


def test_functions_run_in_order_one_at_a_time(cluster: LocalCluster) -> None:
    futures = [cluster.ps[0].submit(lambda i=i: (i, threading.get_ident())) for i in range(20)]
    results = [future.result(20) for future in futures]
    assert [i for i, _ in results] == list(range(20))
    assert len({ident for _, ident in results}) == 1


def test_a_raise_comes_back_as_itself(cluster: LocalCluster, launcher: str) -> None:
    with pytest.raises(Refusal, match="not today") as caught:
        cluster.workers[0].run(refuse, "not today")
    if launcher != "thread":
        assert "raise Refusal(text)" in str(caught.value.__cause__)
        assert cluster.workers[0].log.text().endswith("about to refuse\n")
    with pytest.raises(Refusal) as caught:
        cluster.run(refuse, "all of you")
    assert caught.value.__notes__[0].startswith("raised in /job:worker/task:")


def test_an_exception_has_a_note_with_its_task(cluster: LocalCluster) -> None:
    last = cluster.workers[1]
    future = last.submit(refuse, "submit")
    for _ in range(2):
        assert getattr(future.exception(30), "__notes__", None) == ["raised in /job:worker/task:1"]
    # It could be no other task: match= sees the message alone.
    with pytest.raises(Refusal, match="^run of one task$"):
        last.run(refuse, "run of one task")
    with pytest.raises(Refusal, match="^run of one task by its job$"):
        cluster.run(refuse, "run of one task by its job", job="ps")


def test_an_expired_timeout_names_the_task(cluster: LocalCluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    ps = cluster.ps[0]
    with pytest.raises(
        TimeoutError, match="/job:ps/task:0 at .* has not finished after 0.2 s; it runs on"
    ):
        ps.run(gate.read_text, timeout=0.2)
    gate.write_text("go on")
    assert ps.run(lambda: 5, timeout=20) == 5
    with pytest.raises(TimeoutError, match="/job:ps/task:0 at .* has not finished after 0.1 s"):
        cluster.run(gate.read_text, job="ps", timeout=0.1)
    gate.write_text("go on")


def test_a_timeout_error_of_the_function_is_its_own(cluster: LocalCluster) -> None:
    def late() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="^mine$"):
        cluster.ps[0].run(late, timeout=20)


def test_a_function_may_use_the_cluster(cluster: LocalCluster) -> None:
    def shape(x: np.ndarray) -> tuple[int, ...]:
        return (x * 2).shape

    assert cluster.run(shape, np.zeros((2, 3))) == [(2, 3), (2, 3)]


@pytest.mark.parametrize("launcher", PROCESSES, indirect=True)
class TestProcesses:
    def test_a_death_while_it_runs(self, cluster: LocalCluster) -> None:
        worker = cluster.workers[0]
        with pytest.raises(ServerExited, match="/job:worker/task:0 exited with status 3") as caught:
            worker.run(lambda: (print("last words", flush=True), os._exit(3)))
        assert caught.value.exitcode == worker.exitcode == 3
        assert "last words" in str(caught.value)
        with pytest.raises(ServerExited, match="there is nothing to run"):
            worker.run(print)

    def test_sys_exit_ends_the_task_as_it_would_any_process(self, cluster: LocalCluster) -> None:
        with pytest.raises(ServerExited, match="exited with status 5"):
            cluster.ps[0].run(sys.exit, 5)

    def test_what_waits_for_a_dead_task_is_told(self, cluster: LocalCluster) -> None:
        ps = cluster.ps[0]
        futures: list[Future[object]] = [
            ps.submit(lambda: threading.Event().wait()),
            ps.submit(lambda: None),
        ]
        ps.kill()
        for future in futures:
            with pytest.raises(ServerExited, match="killed by SIGKILL"):
                future.result(20)

    def test_what_cannot_be_sent_says_so(self, cluster: LocalCluster) -> None:
        with pytest.raises(TypeError, match="cannot pickle") as caught:
            cluster.ps[0].run(print, threading.Lock())
        note = caught.value.__notes__[-1]  # from Python 3.14 on pickle adds its own before it
        assert note.startswith("print and its arguments go to /job:ps/task:0 pickled;")

    def test_main_thread_and_pid(self, cluster: LocalCluster) -> None:
        worker = cluster.workers[0]
        assert worker.run(lambda: threading.current_thread() is threading.main_thread())
        assert worker.run(os.getpid) == worker.pid != os.getpid()

    def test_output_is_in_the_log_before_run_returns(self, cluster: LocalCluster) -> None:
        def shout() -> None:
            print("by print")
            print("to stderr", file=sys.stderr)
            os.write(1, b"by the descriptor\n")
            subprocess.run(["echo", "by a child"], check=True)

        worker = cluster.workers[0]
        mark = worker.log.mark()
        worker.run(shout)
        lines = worker.log.since(mark).splitlines()
        assert sorted(lines) == ["by a child", "by print", "by the descriptor", "to stderr"]

    def test_a_task_starts_like_the_test(
        self, make_cluster: MakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_cluster(workers=1, ps=0)  # the forkserver is older than what follows
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLOUR", "blue")
        monkeypatch.delenv("PATH")
        monkeypatch.syspath_prepend(tmp_path / "lib")
        tmp_path.joinpath("lib").mkdir()
        tmp_path.joinpath("lib", "helper_of_this_test.py").write_text("VALUE = 7\n")

        def look() -> tuple[str, str | None, bool, list[str], int]:
            import helper_of_this_test  # type: ignore[import-not-found]

            value = helper_of_this_test.VALUE
            return str(Path.cwd()), os.environ.get("COLOUR"), "PATH" in os.environ, sys.path, value

        cluster = make_cluster(workers=1, ps=0)
        assert cluster.run(look) == [(str(tmp_path), "blue", False, sys.path, 7)]
        monkeypatch.setenv("COLOUR", "red")
        cluster.workers[0].restart()
        assert cluster.run(os.getenv, "COLOUR") == ["red"]
        assert cluster.run(os.getenv, "MALLOC_ARENA_MAX") == [None]

    def test_env_by_task(self, make_cluster: MakeCluster) -> None:
        cluster = make_cluster(workers=2, ps=1, env=lambda task: {"ME": str(task), "RANK": "mine"})
        assert cluster.run(os.getenv, "ME") == ["/job:worker/task:0", "/job:worker/task:1"]
        assert cluster.run(os.getenv, "RANK") == ["mine", "mine"]
        assert cluster.run(os.getenv, "ME", job="ps") == ["/job:ps/task:0"]

    def test_random_generators_differ(self, cluster: LocalCluster) -> None:
        def draw() -> tuple[float, float]:
            return random.random(), float(np.random.random())

        draws = [*cluster.run(draw), *cluster.run(draw, job="ps"), draw()]
        assert len({x for x, _ in draws}) == len({y for _, y in draws}) == 4

    def test_stdin_is_nowhere(self, cluster: LocalCluster) -> None:
        assert cluster.run(lambda: os.read(0, 10)) == [b"", b""]

    def test_children_go_with_the_task(self, cluster: LocalCluster, tmp_path: Path) -> None:
        ps = cluster.ps[0]
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        # The child holds the fifo open for writing until it dies.
        ps.run(lambda: subprocess.Popen(f"exec sleep 1000 > {fifo}", shell=True).pid)
        with fifo.open() as reader:
            ps.kill()
            assert reader.read() == "", "the end of the file comes with the child's death"
