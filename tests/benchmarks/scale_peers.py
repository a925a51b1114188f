"""The curves of TensorFlow and Dask, as JSON: ``python -m tests.benchmarks.scale_peers dask 20``.

Like peers.py, by an interpreter that has the peer. What takes a peer long is repeated for a minute
only; the points say how often.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from ._curves import BYTES, OPS, SESSIONS, TASKS, VARIABLES, Curve, measure_bytes, sweep
from ._measure import in_a_fork, laps_of, together
from .peers import MODULES, answer, concurrent, import_tensorflow

SECONDS = 60
AGAIN = 3


def tf_tasks(tf: Any, repeat: int) -> Iterator[Curve]:
    """Start clusters, each in a process of its own: nothing else stops their servers."""

    def start(size: int) -> float:
        tf.test.create_local_cluster(num_workers=1, num_ps=0)  # the first costs more
        began = time.perf_counter()
        tf.test.create_local_cluster(num_workers=size, num_ps=0)
        return time.perf_counter() - began

    def measure(size: int) -> dict[str, list[float]]:
        return {"tasks-start": [in_a_fork(partial(start, size))]}

    for plot, points in sweep(measure, TASKS, repeat, SECONDS):
        yield Curve(plot, "tensorflow", "thread", points)


def tf_variables(tf: Any, target: str, repeat: int) -> Iterator[Curve]:
    """Initialise variables of one ps, and add to all of them, as one step of a worker."""
    v1 = tf.compat.v1

    def measure(size: int) -> dict[str, list[float]]:
        v1.Session.reset(target)
        with v1.Graph().as_default(), v1.Session(target) as session:
            with tf.device("/job:ps/task:0"):
                held = [v1.get_variable(f"v{number}", initializer=0.0) for number in range(size)]
                add = tf.group(*(variable.assign_add(1.0, read_value=False) for variable in held))
            initialise = v1.variables_initializer(held)
            first = laps_of(partial(session.run, initialise), 1)
            session.run(add)
            again = laps_of(partial(session.run, add), AGAIN)
        return {"variables-first": first, "variables-again": again}

    for plot, points in sweep(measure, VARIABLES, repeat, SECONDS):
        yield Curve(plot, "tensorflow", "thread", points)


def tf_ops(tf: Any, target: str, repeat: int, *, hop: int = 0) -> Iterator[Curve]:
    """Run a chain of ops on one worker; if ``hop``, on two, changing after so many ops."""
    v1, name = tf.compat.v1, "hops" if hop else "ops"
    # Its optimiser makes one op of a chain like this one, and how ops add up is the question.
    config = v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True

    def measure(size: int) -> dict[str, list[float]]:
        with v1.Graph().as_default(), v1.Session(target, config=config) as session:
            result = fed = v1.placeholder(tf.float64, (16,))
            for number in range(size):
                with tf.device(f"/job:worker/task:{number // hop % 2 if hop else 0}"):
                    result = tf.tanh(result)
            run = partial(session.run, result, {fed: [1.0] * 16})
            return {f"{name}-first": laps_of(run, 1), f"{name}-again": laps_of(run, AGAIN)}

    for plot, points in sweep(measure, OPS, repeat, SECONDS):
        yield Curve(plot, "tensorflow", "thread", points)


def tf_sessions(tf: Any, targets: list[str], repeat: int) -> Iterator[Curve]:
    """Have each of many sessions make a step over ps and two workers, all at once."""
    steps = concurrent(tf, targets, max(SESSIONS))

    def measure(size: int) -> dict[str, list[float]]:
        return {"sessions": [together(steps[:size], AGAIN) / AGAIN]}

    for plot, points in sweep(measure, SESSIONS, repeat, SECONDS):
        yield Curve(plot, "tensorflow", "thread", points)


def tf_tensors(tf: Any, target: str, repeat: int) -> Iterator[Curve]:
    """Have a worker take a whole tensor from a ps."""
    v1 = tf.compat.v1

    def measure(size: int) -> list[float]:
        v1.Session.reset(target)
        with v1.Graph().as_default(), v1.Session(target) as session:
            with tf.device("/job:ps/task:0"):
                ones = tf.ones([size // 8], tf.float64)
                held = v1.get_variable("held", initializer=ones)
            with tf.device("/job:worker/task:0"):
                pull = tf.group(v1.py_func(lambda x: len(x), [held], tf.int64, stateful=True))
            session.run(held.initializer)
            run = partial(session.run, pull)
            laps_of(run, 3)
            return laps_of(run, repeat)

    yield measure_bytes(Curve("tensors", "tensorflow", "thread"), BYTES, measure)


def tensorflow(repeat: int) -> list[dict[str, Any]]:
    tf, _v1 = import_tensorflow()
    found = list(tf_tasks(tf, repeat))  # first: only a process that has not used it can be forked
    workers, _ps = tf.test.create_local_cluster(num_workers=2, num_ps=2)
    targets = [worker.target for worker in workers]
    found += tf_variables(tf, targets[0], repeat)
    found += tf_ops(tf, targets[0], repeat)
    found += tf_ops(tf, targets[0], repeat, hop=10)
    found += tf_sessions(tf, targets, repeat)
    found += tf_tensors(tf, targets[0], repeat)
    return [asdict(curve) for curve in found]


def dask(repeat: int) -> list[dict[str, Any]]:
    """LocalCluster of many workers, which have a scheduler beside them."""
    from distributed import LocalCluster

    def measure(size: int, *, processes: bool) -> dict[str, list[float]]:
        began = time.perf_counter()
        cluster = LocalCluster(
            n_workers=size, threads_per_worker=1, processes=processes, dashboard_address=None
        )
        started = time.perf_counter()
        cluster.close()
        stopped = time.perf_counter()
        return {"tasks-start": [started - began], "tasks-stop": [stopped - started]}

    found = []
    for launcher, processes in (("process", True), ("thread", False)):
        one = partial(measure, processes=processes)
        for plot, points in sweep(one, TASKS, repeat, SECONDS):
            found.append(asdict(Curve(plot, "dask", launcher, points)))
    return found


if __name__ == "__main__":
    answer({"tensorflow": tensorflow, "dask": dask}, MODULES)
