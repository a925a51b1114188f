"""How things are measured: medians of wall-clock times, memory as the kernel shares it out."""

from __future__ import annotations

import gc
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# What a peer's figure is: a median, and of how many laps.
Figure = tuple[float, int]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was measured; peers use the same words for what compares.
        value: the median, in ``unit``.
        unit: ``ms``, ``us``, ``MiB``, ``GiB/s``, ``tests/s``, ``steps/s``, ``x`` (a ratio) or
            ``power`` (of a size: 1 is a cost that grows as the size does).
        budget: what the design allows, in ``unit``; None if it says nothing.
        at_least: whether the budget is a floor (a rate) and not a ceiling (a cost).
        ratio: the budget as a share of what a peer needs for the same.
        against: the peer that ``ratio`` means.
        laps: how many measurements ``value`` is the median of.
    """

    what: str
    value: float
    unit: str = "ms"
    budget: float | None = None
    at_least: bool = False
    ratio: float | None = None
    against: str = "tensorflow"
    laps: int = 1

    def beside(self, peer: float | None) -> Row:
        """Return the row, its budget worked out from the peer's figure if it is a ratio."""
        if self.ratio is None or peer is None:
            return self
        return replace(self, budget=self.ratio * peer)

    @property
    def met(self) -> bool | None:
        """Tell whether the budget is kept; None where there is none, or no peer to tell it."""
        if self.budget is None:
            return None
        return self.value >= self.budget if self.at_least else self.value <= self.budget


class Stopwatch:
    """Collects durations of one kind; :attr:`median` in milliseconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @contextmanager
    def lap(self) -> Iterator[None]:
        gc.collect()  # nobody pays for what an earlier lap left
        start = time.perf_counter()
        yield
        self.seconds.append(time.perf_counter() - start)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) * 1000

    @property
    def figure(self) -> Figure:
        return self.median, len(self.seconds)

    def row(self, what: str, **fields: Any) -> Row:
        """Return the row of the median."""
        return Row(what, self.median, laps=len(self.seconds), **fields)


def laps_of(call: Callable[[], object], repeat: int) -> list[float]:
    """Return the seconds of each of ``repeat`` calls, one right after the other."""
    laps = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        laps.append(time.perf_counter() - start)
    return laps


def per_call(call: Callable[[], object], repeat: int) -> float:
    """Return the median milliseconds of ``call`` when called over and over, after a warm-up."""
    for _ in range(max(3, repeat // 10)):
        call()
    return statistics.median(laps_of(call, repeat)) * 1000


def together(calls: Sequence[Callable[[], object]], times: int) -> float:
    """Make each call ``times`` times, each in a thread of its own; return the seconds of all.

    The threads are there before the clock starts.
    """
    barrier = threading.Barrier(len(calls) + 1)
    broken: list[BaseException] = []

    def work(call: Callable[[], object]) -> None:
        barrier.wait()
        try:
            for _ in range(times):
                call()
        except BaseException as error:
            broken.append(error)

    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    if broken:
        raise broken[0]
    return seconds


def in_a_fork(work: Callable[[], Any]) -> Any:
    """Return what ``work`` returns in a child, which is gone afterwards with all that it made."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(writing, json.dumps(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"a fork that measures ended with status {status}")
    return json.loads(told)


def pss(pid: int) -> float | None:
    """Return the MiB of process ``pid``, shared pages counted in part; None if no kernel tells."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return None
    (line,) = (line for line in text.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) / 1024
