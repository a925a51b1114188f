"""Why it takes so long: the processor time that each process spends, on as many cores as there are.

Whoever waits for a start, a first step or the steps of many sessions waits for processors first of
all: what all processes compute, spread over all cores, is a bound below which no wall-clock time of
the same can be.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import psutil

from pytest_localcluster import LocalCluster, Session, placeholder

from ._measure import Row, together
from .clusters import SESSIONS, STEPS, across, concurrent

CORES = os.cpu_count() or 1
LINUX = sys.platform.startswith("linux")  # elsewhere other processes' clocks cannot be read
BOUND = f"all of it on {CORES} cores"


class Shares:
    """Collects what each kind of process has computed, lap by lap."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._laps: defaultdict[str, list[float]] = defaultdict(list)

    @contextmanager
    def lap(self, others: dict[str, list[int]]) -> Iterator[dict[str, list[int]]]:
        """Measure this process and ``others``, pids by what they are; more may be added."""
        before = {pid: _computed(pid) for pids in others.values() for pid in pids}
        own = time.process_time()
        yield others
        own = time.process_time() - own
        spent = {
            kind: sum(_computed(pid) - before.get(pid, 0.0) for pid in pids)
            for kind, pids in others.items()
        }
        spent["test process"] = own
        for kind, seconds in (*spent.items(), (BOUND, sum(spent.values()) / CORES)):
            self._laps[kind].append(seconds * 1000)

    def rows(self, share: int = 1) -> Iterator[Row]:
        """Yield the medians of all kinds, each divided by ``share``."""
        for kind, laps in self._laps.items():
            median = statistics.median(laps) / share
            yield Row(f"CPU of {self._what}: {kind}", median, laps=len(laps))


def _computed(pid: int) -> float:
    """Return the seconds that a process has computed, its threads that have ended included."""
    return time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3) names its clock


def of_births(repeat: int) -> Iterator[Row]:
    """Start 2 workers and 2 ps, and make their first step."""
    if not LINUX:
        return
    starts, steps = Shares("start 2+2, process"), Shares("a first step, process")
    with LocalCluster(workers=1, ps=0) as first:
        forkserver = psutil.Process(first.workers[0].pid).ppid()
    fed = placeholder(np.float64, (16,))
    result = across(fed)
    for _ in range(repeat):
        cluster = LocalCluster(workers=2, ps=2)
        with starts.lap({"forkserver": [forkserver]}) as others:
            cluster.start()
            others["4 tasks"] = [server.pid or 0 for server in cluster.servers]
        master, *rest = others["4 tasks"]
        with (
            steps.lap({"master's task": [master], "3 other tasks": rest}),
            Session(cluster.workers[0].target) as session,
        ):
            session.run(result, {fed: np.ones(16)})
        cluster.stop()
    yield from starts.rows()
    yield from steps.rows()


def of_sessions(repeat: int) -> Iterator[Row]:
    """Have many sessions step at once."""
    if not LINUX:
        return
    shares = Shares(f"a step of {SESSIONS} sessions, process")
    with LocalCluster(workers=2, ps=2) as cluster, ExitStack() as stack:
        calls = concurrent(cluster, stack, SESSIONS)
        for _ in range(repeat):
            with shares.lap({"4 tasks": [server.pid or 0 for server in cluster.servers]}):
                together(calls, STEPS)
    yield from shares.rows(SESSIONS * STEPS)
