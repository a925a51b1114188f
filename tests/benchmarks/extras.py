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

from ._measure import Row, Stopwatch
from ._ranks import RANKS, all_reduce


def torch(repeat: int) -> Iterator[Row]:
    """Bring up four ranks, have them all-reduce, and stop them: a whole test."""
    whole = Stopwatch()
    for _ in range(repeat + 1):
        cluster = LocalCluster(workers=RANKS, ps=0, preload=("torch",))
        with whole.lap(), cluster:
            cluster.run(all_reduce)
    whole.seconds.pop(0)
    yield Row("4 torch ranks and an all-reduce", whole.median, ratio=1 / 20, against="torch")


EXTRAS = {"torch": torch}

if __name__ == "__main__":
    name, repeat = sys.argv[1], int(sys.argv[2])
    if find_spec(name) is None:
        sys.exit(f"{name} is not installed here")
    # The libraries print as they like: what counts goes to the real standard output, last.
    out = os.dup(1)
    os.dup2(2, 1)
    os.write(out, json.dumps([asdict(row) for row in EXTRAS[name](repeat)]).encode())
