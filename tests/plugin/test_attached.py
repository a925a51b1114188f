"""A cluster of somebody else: what can be done to it, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_localcluster import (
    ClusterConfig,
    CommandRuntime,
    ConfigProto,
    LocalCluster,
    SpecError,
    Task,
    UnsupportedError,
    Variable,
    device,
    variables_initializer,
)
from pytest_localcluster._attached import AttachedCluster
from pytest_localcluster._clusterfile import read_cluster_file


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("worker.kill()", "/job:worker/task:0 cannot be sent a signal"),
        ("worker.stop()", "/job:worker/task:0 cannot be stopped"),
        ("worker.start()", "/job:worker/task:0 cannot be started"),
        ("worker.restart()", "/job:worker/task:0 cannot be restarted"),
        ("worker.suspend()", "/job:worker/task:0 cannot be suspended"),
        ("worker.resume()", "/job:worker/task:0 cannot be resumed"),
        ("worker.suspended().__enter__()", "/job:worker/task:0 cannot be suspended"),
        ("worker.run(len, '')", "/job:worker/task:0 cannot run len"),
        ("worker.submit(len, '')", "/job:worker/task:0 cannot run len"),
        ("cluster.run(len, '')", "the cluster cannot run a function in its tasks"),
        ("cluster.partition('worker', 'ps')", "the cluster cannot partition"),
        ("cluster.delay('worker', 'ps', 1)", "the cluster cannot delay"),
        ("cluster.drop('worker', 'ps')", "the cluster cannot drop"),
        ("cluster.heal()", "the cluster cannot heal"),
        ("cluster.chaos(1).__enter__()", "the cluster cannot be disturbed"),
    ],
)
def test_what_only_its_starter_can_do(
    cluster: LocalCluster, path: Path, code: str, message: str
) -> None:
    with AttachedCluster(read_cluster_file(path), path, ClusterConfig()) as attached:
        (worker,) = attached.workers
        with pytest.raises(UnsupportedError) as caught:
            eval(code, {"worker": worker, "cluster": attached})
        text = str(caught.value)
        assert text.startswith(f"{message}: it is not of this run, which is only attached to it")
        assert f"attached to {path}" in text
        assert "To fix this: run this test without --cluster-attach" in text
        if code.startswith("worker"):
            assert f"at {worker.address}, pid {cluster.workers[0].pid}" in text
        assert worker.is_alive()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"workers": 3}, "it asks for 3 worker, and there are 2"),
        ({"jobs": {"evaluator": 1}}, "it asks for 1 evaluator, and there are 0"),
        ({"links": True}, "it asks for links, and what runs already cannot be given any"),
        ({"env": {"A": "b"}}, "it asks for env, and"),
        ({"worker_config": ConfigProto()}, "it asks for worker_config, and"),
        (
            {"runtime": CommandRuntime(worker=["a"], ps=["a"])},
            "it asks for worker tasks that serve 'command', not 'native'\n  | it asks for ps tasks",
        ),
    ],
)
def test_who_asks_for_more_is_refused(path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        AttachedCluster(read_cluster_file(path), path, ClusterConfig(**fields))
    text = str(caught.value)
    assert text.startswith(
        "this test cannot run on the cluster that pytest is attached to\n"
        f"  attached to {path}: 2 worker and 1 ps and 1 chief\n"
        f"  | {message}"
    )
    assert "To fix this: attach to a cluster that has what all tests ask for" in text


def test_it_leaves_state_that_was_there_until_a_test_begins(
    cluster: LocalCluster, path: Path
) -> None:
    with device("/job:ps/task:0"):
        v = Variable(1.0, name="v")
    cluster.session().run(variables_initializer([v]))
    attached = AttachedCluster(read_cluster_file(path), path, ClusterConfig(ps=0))
    assert set(cluster.ps[0].variables()) == {"v"}
    with attached:
        assert cluster.ps[0].variables() == {}, "also what the test does not ask for is reset"


def test_a_log_that_cannot_be_read_is_none(path: Path, tmp_path: Path) -> None:
    file = replace(read_cluster_file(path), logs={Task("ps", 0): tmp_path / "none.log"})
    with AttachedCluster(file, path, ClusterConfig()) as attached:
        assert attached.ps[0].log.text() == ""
        assert attached.workers[0].log.text() == ""
    assert not (tmp_path / "none.log").exists()
