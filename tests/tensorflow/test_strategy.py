"""TensorFlow 2's strategies: coordinated in the test process, in a chief, or by the workers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_localcluster import LocalCluster, TensorFlowRuntime, current_task

pytestmark = pytest.mark.needs("tensorflow")

MakeCluster = Callable[..., LocalCluster]

MANUAL = Path(__file__).resolve().parents[2] / "docs/how-to/tensorflow.md"

# In a process of its own: a coordinator leaves threads and a server, which TensorFlow cannot stop.
IN_THE_TEST_PROCESS = """
import sys
import tensorflow as tf
from pytest_localcluster import LocalCluster

def connect(cluster):
    SNIPPET
    with strategy.scope():
        variables = [tf.Variable(1.0), tf.Variable(1.0)]
    return tf.distribute.coordinator.ClusterCoordinator(strategy), variables

def add(coordinator, variables, times=5, rounds=1):
    @tf.function
    def step():
        for _ in tf.range(rounds):
            for variable in variables:
                variable.assign_add(1.0)
    for _ in range(times):
        coordinator.schedule(step)

for turn in range(2):
    with LocalCluster(workers=2, ps=2, runtime="tensorflow") as cluster:
        coordinator, variables = connect(cluster)
        add(coordinator, variables)
        coordinator.join()
        print(*(f"{float(variable)} on {variable.device}" for variable in variables))
        if turn:
            add(coordinator, variables, times=4, rounds=100_000)
    print(f"stopped in time: {cluster.stop_seconds < 1}", flush=True)
"""


def test_the_coordinator_in_the_test_process_twice(tmp_path: Path) -> None:
    script = tmp_path / "coordinate.py"
    (snippet,) = re.findall(r"^```python\n(.*?)^```", MANUAL.read_text("utf-8"), re.DOTALL | re.M)
    code = IN_THE_TEST_PROCESS.replace("    SNIPPET\n", textwrap.indent(snippet, "    "))
    script.write_text(code, encoding="utf-8")  # TensorFlow reads its source
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    places = [f"6.0 on /job:ps/replica:0/task:{index}/device:CPU:0" for index in range(2)]
    assert done.stdout.splitlines() == [" ".join(places), "stopped in time: True"] * 2


def coordinate() -> tuple[float, str]:
    """Run in a chief, which has the cluster in its TF_CONFIG."""
    import tensorflow as tf

    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        total = tf.Variable(0.0)

    @tf.function  # type: ignore[untyped-decorator]
    def step() -> None:
        total.assign_add(1.0)

    for _ in range(8):
        coordinator.schedule(step)
    coordinator.join()
    return float(total), total.device


def test_the_coordinator_in_a_chief(make_cluster: MakeCluster) -> None:
    for jobs in ({"chief": 1}, {"chief": 1, "evaluator": 1}):
        cluster = make_cluster(jobs=jobs)
        (chief,) = cluster.jobs["chief"]
        for _ in range(2):
            assert chief.run(coordinate) == (8, "/job:ps/replica:0/task:0/device:CPU:0")
            chief.restart()


def test_a_worker_that_dies_is_waited_for(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(jobs={"chief": 1})
    (chief,) = cluster.jobs["chief"]
    cluster.workers[0].kill()
    result = chief.submit(coordinate)
    cluster.workers[0].restart()
    assert result.result(60)[0] == 8


def all_reduce(number: float) -> tuple[int, float]:
    """Run in every worker; TensorFlow starts a server in each."""
    import tensorflow as tf

    task = current_task()
    # Not by way of TF_CONFIG: TensorFlow takes an empty job for the leader's, and crashes.
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": task.cluster_spec.job_tasks("worker")}),
        task_type="worker",
        task_id=task.task.index,
        rpc_layer="grpc",
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)

    @tf.function  # type: ignore[untyped-decorator]
    def add() -> object:
        return tf.distribute.get_replica_context().all_reduce("SUM", tf.constant(number))

    return strategy.num_replicas_in_sync, float(strategy.run(add))


def test_a_strategy_whose_workers_serve_already(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=2, ps=0)
    with pytest.raises(Exception, match="Could not start gRPC server") as caught:
        cluster.run(all_reduce, 2.5, timeout=60)
    notes = "\n".join(caught.value.__notes__)
    assert 'use runtime=TensorFlowRuntime(coordinators=["worker"])' in notes
    assert "/job:worker/task:" in notes
    with pytest.raises(ZeroDivisionError) as other:
        cluster.workers[0].run(divmod, 1, 0)
    assert not getattr(other.value, "__notes__", [])


def test_a_strategy_of_the_workers_alone(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(TensorFlowRuntime(coordinators=["worker"]), workers=2, ps=0)
    assert cluster.run(all_reduce, 2.5, timeout=60) == [(2, 5), (2, 5)]
