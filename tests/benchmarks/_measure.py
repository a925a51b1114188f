"""How things are measured: medians of wall-clock times, memory as the kernel shares it out."""

from __future__ import annotations

import gc
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was measured; peers use the same words for what compares.
        value: the median, in ``unit``.
        unit: ``ms``, ``us``, ``MiB``, ``GiB/s`` or ``tests/s``.
        budget: what the design allows, in ``unit``; None if it says nothing.
        at_least: whether the budget is a floor (a rate) and not a ceiling (a cost).
        ratio: the budget as a share of what a peer needs for the same.
        against: the peer that ``ratio`` means.
    """

    what: str
    value: float
    unit: str = "ms"
    budget: float | None = None
    at_least: bool = False
    ratio: float | None = None
    against: str = "tensorflow"

    def beside(self, peer: float | None) -> Row:
        """Return the row, its budget worked out from the peer's figure if it is a ratio."""
        if self.ratio is None or peer is None:
            return self
        return replace(self, budget=self.ratio * peer)

    @property
    def within(self) -> bool:
        """Tell whether the budget is kept; so it is where there is none."""
        if self.budget is None:
            return True
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


def per_call(call: Callable[[], object], repeat: int) -> float:
    """Return the median milliseconds of ``call`` when called over and over, after a warm-up."""
    for _ in range(max(3, repeat // 10)):
        call()
    laps = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        laps.append(time.perf_counter() - start)
    return statistics.median(laps) * 1000


def cpu(command: list[str], cwd: str) -> float:
    """Run a command; return the milliseconds of processor time that it took.

    What a start-up adds is lost in the noise of the clock on the wall.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=cwd, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1000


def pss(pid: int) -> float | None:
    """Return the MiB of process ``pid``, shared pages counted in part; None if no kernel tells."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return None
    (line,) = (line for line in text.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) / 1024
