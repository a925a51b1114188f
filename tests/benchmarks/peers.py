"""The same for TensorFlow, Dask, Ray, torch, as JSON: ``python -m tests.benchmarks.peers ray 20``.

Run by an interpreter that has the peer, each in a process of its own; it imports nothing of ours
but what lies next door. All times are after the import, which a suite pays once.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

from ._measure import Figure, Stopwatch, in_a_fork, laps_of, per_call, together
from ._ranks import RANKS, all_reduce

MODULES = {"tensorflow": "tensorflow", "dask": "distributed", "ray": "ray", "torch": "torch"}
LARGE = 64 * 2**20
SESSIONS, STEPS = 16, 10


def import_tensorflow() -> tuple[Any, Any]:
    """Return TensorFlow and its v1, without eager execution, GPUs and chatter."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import tensorflow as tf

    v1: Any = tf.compat.v1
    v1.disable_eager_execution()
    return tf, v1


def across(tf: Any, value: Any) -> Any:
    """Send a value over a ps and two workers, as clusters.py does."""
    with tf.device("/job:ps/task:0"):
        held = value + 1
    with tf.device("/job:worker/task:0"):
        doubled = held * 2
    with tf.device("/job:worker/task:1"):
        return doubled + 1


def concurrent(tf: Any, targets: list[str], number: int) -> list[Callable[[], object]]:
    """Return a warm step of each of ``number`` sessions, which are open from here on."""
    v1 = tf.compat.v1
    with v1.Graph().as_default():
        with tf.device("/job:ps/task:0"):
            state = v1.get_variable("state", initializer=tf.ones([16], tf.float64))
        result = across(tf, state)
        opened = [v1.Session(targets[one % len(targets)]) for one in range(number)]
    opened[0].run(state.initializer)
    steps: list[Callable[[], object]] = [partial(session.run, result) for session in opened]
    together(steps, 2)
    return steps


def hundred(tf: Any) -> list[float]:
    """Return the seconds of 110 starts in one process, if there is time for them."""
    start, began = Stopwatch(), time.monotonic()
    while len(start.seconds) < 110 and time.monotonic() - began < 120:
        with start.lap():
            tf.test.create_local_cluster(num_workers=2, num_ps=2)
    if len(start.seconds) < 110:
        raise TimeoutError(f"only {len(start.seconds)} starts in two minutes")
    return start.seconds


def tensorflow(repeat: int) -> dict[str, Figure]:
    """tf.test.create_local_cluster: servers in the test's process, which nothing stops."""
    tf, v1 = import_tensorflow()
    found: dict[str, Figure] = {}
    # Before anything else: only a process that has not used TensorFlow can be forked.
    # It aborts where a process has no room for so many servers; then there is no such figure.
    with contextlib.suppress(RuntimeError):
        seconds = in_a_fork(partial(hundred, tf))
        drift = statistics.median(seconds[89:110]) / statistics.median(seconds[1:20])
        found["starts 90-110 to starts 2-20, thread"] = drift, 20

    start, first = Stopwatch(), Stopwatch()
    for _ in range(repeat):
        with start.lap():
            workers, _ps = tf.test.create_local_cluster(num_workers=2, num_ps=2)
        with v1.Graph().as_default():
            fed = v1.placeholder(tf.float64, (16,))
            result = across(tf, fed)
            with first.lap(), v1.Session(workers[0].target) as session:
                session.run(result, {fed: [1.0] * 16})
    targets = [worker.target for worker in workers]
    (step,) = concurrent(tf, targets, 1)
    again = per_call(step, repeat * 20), repeat * 20
    steps = concurrent(tf, targets, SESSIONS)
    seconds = statistics.median(together(steps, STEPS) for _ in range(repeat))
    for launcher in ("process", "thread"):
        found |= {
            f"start 2+2, {launcher}": start.figure,
            f"first step on a fresh cluster, {launcher}": first.figure,
            f"step over ps and two workers, {launcher}": again,
            f"steps of {SESSIONS} sessions, {launcher}": (SESSIONS * STEPS / seconds, repeat),
        }
    return found | large(tf, targets[0], repeat)


def large(tf: Any, target: str, repeat: int) -> dict[str, Figure]:
    """64 MiB from a ps to a worker and back, without the client."""
    v1, found = tf.compat.v1, {}
    with v1.Graph().as_default():
        size = LARGE // 8
        with tf.device("/job:ps/task:0"):
            held = v1.get_variable("held", initializer=tf.ones([size], tf.float64))
        with tf.device("/job:worker/task:0"):
            kept = v1.get_variable("kept", initializer=tf.ones([size], tf.float64))
            # A part of it would be taken before it is sent; this needs it all.
            pull = tf.group(v1.py_func(lambda x: len(x), [held], tf.int64, stateful=True))
        with tf.device("/job:ps/task:0"):
            push = tf.group(v1.py_func(lambda x: len(x), [kept], tf.int64, stateful=True))
        with v1.Session(target) as session:
            session.run([held.initializer, kept.initializer])
            for name, op in (("ps to worker", pull), ("worker to ps", push)):
                run = partial(session.run, op)
                laps_of(run, 3)
                seconds = statistics.median(laps_of(run, repeat))
                found[f"64 MiB, {name}"] = LARGE / 2**30 / seconds, repeat
    return found


def dask(repeat: int) -> dict[str, Figure]:
    """LocalCluster of four workers, which have a scheduler beside them."""
    from distributed import LocalCluster

    found = {}
    for launcher, processes in (("process", True), ("thread", False)):
        start, stop = Stopwatch(), Stopwatch()
        for _ in range(repeat):
            with start.lap():
                cluster = LocalCluster(
                    n_workers=4, threads_per_worker=1, processes=processes, dashboard_address=None
                )
            with stop.lap():
                cluster.close()
        found[f"start 2+2, {launcher}"] = start.figure
        found[f"stop 2+2, {launcher}"] = stop.figure
    return found


def ray(repeat: int) -> dict[str, Figure]:
    """cluster_utils.Cluster of four nodes, each with several processes."""
    from ray.cluster_utils import Cluster

    start, stop = Stopwatch(), Stopwatch()
    for _ in range(repeat):
        with start.lap():
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
            for _node in range(3):
                cluster.add_node(num_cpus=1)
            cluster.wait_for_nodes()
        with stop.lap():
            cluster.shutdown()
    return {"start 2+2, process": start.figure, "stop 2+2, process": stop.figure}


def torch(repeat: int) -> dict[str, Figure]:
    """torch.multiprocessing.spawn of four ranks, each of which imports torch."""
    import portpicker
    import torch.multiprocessing

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(RANKS)}
    whole = Stopwatch()
    for _ in range(repeat):
        os.environ["MASTER_PORT"] = str(portpicker.pick_unused_port())
        with whole.lap():
            torch.multiprocessing.spawn(all_reduce, nprocs=RANKS)
    return {"4 torch ranks and an all-reduce": whole.figure}


PEERS = {"tensorflow": tensorflow, "dask": dask, "ray": ray, "torch": torch}


def answer(measured: Mapping[str, Callable[[int], object]], modules: Mapping[str, str]) -> None:
    """Measure what the command line names, and print it as JSON."""
    name, repeat = sys.argv[1], int(sys.argv[2])
    if find_spec(modules[name]) is None:
        sys.exit(f"{name} is not installed here")
    # The libraries print as they like: what counts goes to the real standard output, last.
    out = os.dup(1)
    os.dup2(2, 1)
    result = json.dumps(measured[name](repeat)).encode()
    with os.fdopen(out, "wb") as pipe:
        pipe.write(result)
    os._exit(0)  # nothing stops TensorFlow's servers, and they can hang an orderly exit


if __name__ == "__main__":
    answer(PEERS, MODULES)
