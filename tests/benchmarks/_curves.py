"""Cost against size: what is drawn, who measured it, and how fast it grows."""

from __future__ import annotations

import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TASKS = (1, 2, 4, 8, 16, 32, 64)
VARIABLES = (1, 10, 100, 316, 1000, 3162, 10_000)
OPS = (1, 10, 100, 316, 1000, 3162, 10_000)
SESSIONS = (1, 2, 4, 8, 16, 32, 64)
BYTES = tuple(4**power << 10 for power in range(11))  # 1 KiB to 1 GiB

# A curve that is steeper than this in its upper half, on logarithmic axes, grows faster than its
# work. A little above 1: caches end somewhere, and clocks scatter.
STEEPEST = 1.1
# Held by a ps, held by a worker, on its way, and some of them twice.
COPIES = 6


@dataclass(frozen=True)
class Plot:
    """A picture: several curves of the same cost against the same size."""

    slug: str
    cost: str
    size: str

    @property
    def title(self) -> str:
        return f"{self.cost}, against {self.size}"


PLOTS = {
    plot.slug: plot
    for plot in (
        Plot("tasks-start", "starting a cluster", "tasks"),
        Plot("tasks-stop", "stopping a cluster", "tasks"),
        Plot("variables-first", "initialising all, the first step", "variables"),
        Plot("variables-again", "adding to all, a later step", "variables"),
        Plot("ops-first", "a chain on one task, its first step", "ops"),
        Plot("ops-again", "a chain on one task, a later step", "ops"),
        Plot("hops-first", "a chain from task to task, its first step", "ops"),
        Plot("hops-again", "a chain from task to task, a later step", "ops"),
        Plot("sessions", "a step in each, all at once", "sessions"),
        Plot("tensors", "a tensor from ps to worker", "bytes"),
    )
}


@dataclass
class Curve:
    """One line of a plot.

    Attributes:
        plot: the slug of its plot.
        who: ``ours`` or the peer's module.
        launcher: ``process`` or ``thread``: where the tasks ran.
        points: size, median in milliseconds, and of how many laps.
        skipped: sizes that were not measured, and why.
    """

    plot: str
    who: str
    launcher: str
    points: list[tuple[int, float, int]] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)

    @property
    def power(self) -> float | None:
        """The power of the size with which the cost grows, over the upper half of the sizes."""
        return power(self.points[len(self.points) // 2 :])

    @property
    def jump(self) -> tuple[float, int, int] | None:
        """The power between the two neighbours, of the upper half, where it is highest."""
        upper = self.points[len(self.points) // 2 :]
        pairs = itertools.pairwise(upper)
        return max(
            ((power_between(a, b), a[0], b[0]) for a, b in pairs),
            default=None,
        )

    @property
    def what(self) -> str:
        """The row of the table that tells the power."""
        return f"growth of {PLOTS[self.plot].title}, {self.launcher}"


def power(points: Sequence[tuple[int, float, int]]) -> float | None:
    """Return the slope of ``points`` on logarithmic axes; None for fewer than 3."""
    if len(points) < 3:
        return None
    xs = [math.log(size) for size, _, _ in points]
    ys = [math.log(cost) for _, cost, _ in points]
    return statistics.linear_regression(xs, ys).slope


def power_between(a: tuple[int, float, int], b: tuple[int, float, int]) -> float:
    return math.log(b[1] / a[1]) / math.log(b[0] / a[0])


def too_large(size: int) -> str | None:
    """Return why a tensor of ``size`` bytes is not measured here; None if there is room."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None  # no such file on this system: then the measuring shows
    (line,) = (line for line in text.splitlines() if line.startswith("MemAvailable:"))
    free = int(line.split()[1]) << 10
    if free >= COPIES * size:
        return None
    return f"needs {COPIES * size / 2**30:.0f} GiB of memory, and {free / 2**30:.1f} were free"


Measure = Callable[[int], dict[str, list[float]]]


def sweep(
    measure: Measure, sizes: Sequence[int], repeat: int, seconds: float = math.inf
) -> Iterator[tuple[str, list[tuple[int, float, int]]]]:
    """Measure all sizes in turn, over and over; yield the points of each plot.

    In turn, so that a slow minute of the machine is not that of one size.

    Args:
        measure: measures one size, and returns seconds for each plot, one or several.
        sizes: what to measure.
        repeat: how many rounds.
        seconds: no round is begun after so many; the first one is finished.
    """
    found: dict[str, dict[int, list[float]]] = {}
    began = time.monotonic()
    for turn in range(repeat):
        if turn and time.monotonic() - began > seconds:
            break
        for size in sizes:
            gc.collect()
            for plot, laps in measure(size).items():
                found.setdefault(plot, {}).setdefault(size, []).extend(laps)
    for plot, by_size in found.items():
        yield (
            plot,
            [(size, statistics.median(laps) * 1000, len(laps)) for size, laps in by_size.items()],
        )


def measure_bytes(
    curve: Curve, sizes: Sequence[int], measure: Callable[[int], list[float]]
) -> Curve:
    """Fill a curve with tensors of ``sizes`` bytes, without those for which memory is short."""
    for size in sizes:
        reason = too_large(size)
        if reason is not None:
            curve.skipped[size] = reason
            continue
        laps = measure(size)
        curve.points.append((size, statistics.median(laps) * 1000, len(laps)))
    return curve
