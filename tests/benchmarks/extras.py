"""Our own figures that need an extra, as JSON: ``python -m tests.benchmarks.extras torch 20``.

Run by an interpreter that has the extra and this project; the rows are as those of clusters.py.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec

from pytest_localcluster import LocalCluster
from pytest_localcluster._launch.process import shutdown

from ._measure import Row, Stopwatch
from ._ranks import RANKS, all_reduce


def torch(repeat: int) -> Iterator[Row]:
    """Bring up four ranks, have them all-reduce, and stop them: a whole test."""
    whole = Stopwatch()
    for _ in range(repeat + 1):
        cluster = LocalCluster(workers=RANKS, ps=0, preload=("torch",), start_timeout=60)
        with whole.lap(), cluster:
            cluster.run(all_reduce)
    whole.seconds.pop(0)
    yield Row("4 torch ranks and an all-reduce", whole.median, ratio=1 / 20, against="torch")


def tensorflow(repeat: int) -> Iterator[Row]:
    """Start, reset and stop 2 workers and 2 ps, the ancestor's beside them, in turn.

    Its servers are never freed, and each of its clusters starts slower than the one before it.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import tensorflow as tf

    start, stop, reset, ancestor = Stopwatch(), Stopwatch(), Stopwatch(), Stopwatch()
    for turn in range(repeat + 1):
        cluster = LocalCluster(workers=2, ps=2, runtime="tensorflow")
        with start.lap():
            cluster.start()
        with reset.lap():
            cluster.reset()
        with stop.lap():
            cluster.stop()
        if turn % 4 == 0:
            with ancestor.lap():
                tf.test.create_local_cluster(num_workers=2, num_ps=2)
    first = start.seconds.pop(0) * 1000
    yield Row("first start of 2+2, TensorFlow", first)
    yield Row("start 2+2, TensorFlow", start.median, budget=ancestor.median / 2)
    yield Row("stop 2+2, TensorFlow", stop.median)
    yield Row("reset 2+2, TensorFlow", reset.median)
    yield Row("first start of 2+2, tf.test", ancestor.seconds[0] * 1000)
    yield Row("start 2+2, tf.test", ancestor.median)


EXTRAS = {"tensorflow": tensorflow, "torch": torch}

if __name__ == "__main__":
    name, repeat = sys.argv[1], int(sys.argv[2])
    if find_spec(name) is None:
        sys.exit(f"{name} is not installed here")
    # The libraries print as they like: what counts goes to the real standard output, last.
    out = os.dup(1)
    os.dup2(2, 1)
    os.write(out, json.dumps([asdict(row) for row in EXTRAS[name](repeat)]).encode())
    shutdown()
    os._exit(0)  # nothing stops TensorFlow's own servers, and they can hang an orderly exit
