"""Our own figures that need an extra, as JSON: ``python -m tests.benchmarks.extras torch 20``.

Run by an interpreter that has the extra and this project; the rows are as those of clusters.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from pytest_localcluster import LocalCluster
from pytest_localcluster._launch.process import shutdown

from ._measure import Row, Stopwatch
from ._ranks import RANKS, all_reduce
from .peers import MODULES, answer


def torch(repeat: int) -> Iterator[Row]:
    """Bring up four ranks, have them all-reduce, and stop them: a whole test."""
    whole = Stopwatch()
    for _ in range(repeat + 1):
        cluster = LocalCluster(workers=RANKS, ps=0, preload=("torch",), start_timeout=60)
        with whole.lap(), cluster:
            cluster.run(all_reduce)
    del whole.seconds[0]
    yield whole.row("4 torch ranks and an all-reduce", ratio=1 / 30, against="torch")


def tensorflow(repeat: int) -> Iterator[Row]:
    """Start, reset and stop 2 workers and 2 ps, and then start the ancestor's.

    Its servers are never freed, and each of its clusters starts slower than the one before it.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import tensorflow as tf

    start, stop, reset, ancestor = Stopwatch(), Stopwatch(), Stopwatch(), Stopwatch()
    for _ in range(repeat + 1):
        cluster = LocalCluster(workers=2, ps=2, runtime="tensorflow")
        with start.lap():
            cluster.start()
        with reset.lap():
            cluster.reset()
        with stop.lap():
            cluster.stop()
    for _ in range(repeat):
        with ancestor.lap():
            tf.test.create_local_cluster(num_workers=2, num_ps=2)
    first = start.seconds.pop(0) * 1000
    yield Row("first start of 2+2, TensorFlow", first)
    yield start.row("start 2+2, TensorFlow", budget=45)
    yield stop.row("stop 2+2, TensorFlow", budget=18)
    yield reset.row("reset 2+2, TensorFlow")
    yield Row("first start of 2+2, tf.test", ancestor.seconds[0] * 1000)
    yield ancestor.row("start 2+2, tf.test")


def rows(name: str, repeat: int) -> list[dict[str, Any]]:
    try:
        return [asdict(row) for row in EXTRAS[name](repeat)]
    finally:
        shutdown()


EXTRAS = {"tensorflow": tensorflow, "torch": torch}

if __name__ == "__main__":
    answer({name: partial(rows, name) for name in EXTRAS}, MODULES)
