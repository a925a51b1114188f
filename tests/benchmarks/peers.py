"""The same for TensorFlow, Dask, Ray, torch, as JSON: ``python -m tests.benchmarks.peers ray 20``.

Run by an interpreter that has the peer, each in a process of its own; it imports nothing of ours
but what lies next door. All times are after the import, which a suite pays once.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from importlib.util import find_spec
from typing import Any

from ._measure import Stopwatch, per_call
from ._ranks import RANKS, all_reduce

MODULES = {"tensorflow": "tensorflow", "dask": "distributed", "ray": "ray", "torch": "torch"}


def across(tf: Any, value: Any) -> Any:
    """Send a value over a ps and two workers, as clusters.py does."""
    with tf.device("/job:ps/task:0"):
        held = value + 1
    with tf.device("/job:worker/task:0"):
        doubled = held * 2
    with tf.device("/job:worker/task:1"):
        return doubled + 1


def tensorflow(repeat: int) -> dict[str, float]:
    """tf.test.create_local_cluster: servers in the test's process, which nothing stops."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import tensorflow as tf

    v1: Any = tf.compat.v1
    v1.disable_eager_execution()
    start, first = Stopwatch(), Stopwatch()
    workers: Any = []
    for _ in range(max(3, repeat // 4)):
        with start.lap():
            workers, _ps = tf.test.create_local_cluster(num_workers=2, num_ps=2)
        with v1.Graph().as_default():
            fed = v1.placeholder(tf.float64, (16,))
            result = across(tf, fed)
            with first.lap(), v1.Session(workers[0].target) as session:
                session.run(result, {fed: [1.0] * 16})
    with v1.Graph().as_default():
        with tf.device("/job:ps/task:0"):
            state = v1.get_variable("state", initializer=tf.ones([16], tf.float64))
        result = across(tf, state)
        with v1.Session(workers[0].target) as session:
            session.run(state.initializer)
            step = per_call(partial(session.run, result), repeat * 20)
    rates = {}
    with v1.Graph().as_default():
        size = 64 * 2**20 // 8
        with tf.device("/job:ps/task:0"):
            held = v1.get_variable("held", initializer=tf.ones([size], tf.float64))
        with tf.device("/job:worker/task:0"):
            kept = v1.get_variable("kept", initializer=tf.ones([size], tf.float64))
            # A part of it would be taken before it is sent; this needs it all.
            pull = tf.group(v1.py_func(lambda x: len(x), [held], tf.int64, stateful=True))
        with tf.device("/job:ps/task:0"):
            push = tf.group(v1.py_func(lambda x: len(x), [kept], tf.int64, stateful=True))
        with v1.Session(workers[0].target) as session:
            session.run([held.initializer, kept.initializer])
            for name, op in (("ps to worker", pull), ("worker to ps", push)):
                seconds = per_call(partial(session.run, op), max(5, repeat // 2)) / 1000
                rates[f"64 MiB, {name}"] = 1 / 16 / seconds
    return {
        "start 2+2, thread": start.median,
        "start 2+2, process": start.median,
        "first step on a fresh cluster, process": first.median,
        "first step on a fresh cluster, thread": first.median,
        "step over ps and two workers, process": step,
        "step over ps and two workers, thread": step,
        **rates,
    }


def dask(repeat: int) -> dict[str, float]:
    """LocalCluster of four workers, which have a scheduler beside them."""
    from distributed import LocalCluster

    found = {}
    for launcher, processes in (("process", True), ("thread", False)):
        start, stop = Stopwatch(), Stopwatch()
        for _ in range(max(3, repeat // 6)):
            with start.lap():
                cluster = LocalCluster(
                    n_workers=4, threads_per_worker=1, processes=processes, dashboard_address=None
                )
            with stop.lap():
                cluster.close()
        found[f"start 2+2, {launcher}"] = start.median
        found[f"stop 2+2, {launcher}"] = stop.median
    return found


def ray(repeat: int) -> dict[str, float]:
    """cluster_utils.Cluster of four nodes, each with several processes."""
    from ray.cluster_utils import Cluster

    start, stop = Stopwatch(), Stopwatch()
    for _ in range(2 if repeat < 30 else 3):
        with start.lap():
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
            for _node in range(3):
                cluster.add_node(num_cpus=1)
            cluster.wait_for_nodes()
        with stop.lap():
            cluster.shutdown()
    return {"start 2+2, process": start.median, "stop 2+2, process": stop.median}


def torch(repeat: int) -> dict[str, float]:
    """torch.multiprocessing.spawn of four ranks, each of which imports torch."""
    import portpicker
    import torch.multiprocessing

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(RANKS)}
    whole = Stopwatch()
    for _ in range(max(3, repeat // 6)):
        os.environ["MASTER_PORT"] = str(portpicker.pick_unused_port())
        with whole.lap():
            torch.multiprocessing.spawn(all_reduce, nprocs=RANKS)
    return {"4 torch ranks and an all-reduce": whole.median}


if __name__ == "__main__":
    name, repeat = sys.argv[1], int(sys.argv[2])
    if find_spec(MODULES[name]) is None:
        sys.exit(f"{name} is not installed here")
    # The peers print as they like: what counts goes to the real standard output, last.
    out = os.dup(1)
    os.dup2(2, 1)
    measure = {"tensorflow": tensorflow, "dask": dask, "ray": ray, "torch": torch}[name]
    result = measure(repeat)
    os.write(out, json.dumps(result).encode())
    os._exit(0)  # nothing stops TensorFlow's servers, and they can hang an orderly exit
