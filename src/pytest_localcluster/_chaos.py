"""Chaos: faults one after the other, on a schedule that a seed fixes, while a test goes on."""

from __future__ import annotations

import itertools
import random
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from . import _held
from ._clock import Thread, now
from ._core.forks import inherited
from .errors import ClusterError, ServerExited

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from ._cluster import LocalCluster
    from ._spec import Task

__all__ = ["BETWEEN_TASKS", "KINDS", "OF_TASKS", "Chaos", "Disturbance", "schedule"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

OF_TASKS = ("kill", "suspend")
BETWEEN_TASKS = ("partition", "drop", "delay")
KINDS = (*OF_TASKS, *BETWEEN_TASKS)


@dataclass(frozen=True)
class Disturbance:
    """One fault of a schedule.

    Attributes:
        after: seconds from the end of the one before, or from the beginning, to this one.
        kind: one of ``kill``, ``suspend``, ``partition``, ``drop``, ``delay``.
        tasks: whom it hits; of a fault between tasks, one side.
        others: the other side of a fault between tasks.
        lasts: seconds until it is undone: the task restarted or resumed, the network healed.
        seconds: of a delay, how much later every byte arrives.
    """

    after: float
    kind: str
    tasks: tuple[Task, ...]
    others: tuple[Task, ...]
    lasts: float
    seconds: float = 0.0

    def __str__(self) -> str:
        whom = ", ".join(map(str, self.tasks))
        if self.others:
            whom = f"between {whom} and {', '.join(map(str, self.others))}"
        much = f" of {self.seconds:.3f} s" if self.kind == "delay" else ""
        return f"after {self.after:.3f} s: {self.kind}{much} {whom}, for {self.lasts:.3f} s"


def schedule(
    seed: int | str,
    kinds: Sequence[str],
    every: float,
    tasks: Sequence[Task],
    everyone: Sequence[Task],
) -> Iterator[Disturbance]:
    """Yield disturbances without end, always the same for the same arguments.

    Args:
        seed: what makes this schedule another than others.
        kinds: what may happen.
        every: seconds between two of them, on average; each lasts for up to as long.
        tasks: whom they may hit.
        everyone: all tasks of the cluster; what is cut off is cut off from all the rest of them.
    """
    draw = random.Random(seed)
    while True:
        after, lasts = draw.uniform(0.5, 1.5) * every, draw.uniform(0.0, 1.0) * every
        kind = draw.choice(kinds)
        if kind in OF_TASKS:
            yield Disturbance(after, kind, (draw.choice(tasks),), (), lasts)
            continue
        most = min(len(tasks), len(everyone) - 1)  # somebody has to be on the other side
        ones = tuple(draw.sample(tasks, draw.randint(1, most)))
        others = tuple(task for task in everyone if task not in ones)
        seconds = draw.uniform(0.0, 0.2) * every if kind == "delay" else 0.0
        yield Disturbance(after, kind, ones, others, lasts, seconds)


class Chaos:
    """A context manager in whose block a cluster is disturbed: what ``cluster.chaos()`` returns.

    At the end of the block all is undone: every task that was hit runs, every link is healed. A red
    test's report has the seed, and what happened.

    Attributes:
        seed: what the schedule was drawn from.
        kinds: what may happen.
        every: seconds between two disturbances, on average.
        happened: the disturbances so far, the last of which may be in force.
    """

    def __init__(
        self,
        cluster: LocalCluster,
        seed: int | str,
        kinds: Sequence[str],
        every: float,
        tasks: Sequence[Task],
    ) -> None:
        self.seed = seed
        self.kinds: tuple[str, ...] = tuple(kinds)
        self.every = every
        self.happened: list[Disturbance] = []
        self._cluster = cluster
        self._plan = schedule(seed, self.kinds, every, tasks, cluster.config.tasks())
        self._began = 0.0
        self._lines: list[str] = []
        self._undone = 0  # how many of them are
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def upcoming(self, count: int) -> list[Disturbance]:
        """Return the next ``count`` disturbances of the schedule, without anything happening."""
        coming = list(itertools.islice(self._plan, count))
        self._plan = itertools.chain(coming, self._plan)
        return coming

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise ClusterError("this chaos has been", remedy="call chaos() again: it gives another")
        self._began = now()
        self._cluster._chaos.append(self)
        self._thread = Thread(
            target=self._disturb, name=f"chaos of seed {self.seed!r}", daemon=True
        )
        _held.hold_thread(self._thread, owner=self._cluster._held)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        assert self._thread is not None
        if inherited(self._cluster):  # a fork leaves the block, in which nothing disturbs
            return
        self._over.set()
        self._thread.join()  # all that it may be doing has a deadline of its own
        failure, self._failure = self._failure, None
        if failure is None:
            return
        if error is None:
            raise failure
        error.add_note(f"chaos ended early: a fault could not be made, or undone: {failure}")

    def _disturb(self) -> None:
        try:
            for disturbance in self._plan:
                if self._over.wait(disturbance.after):
                    return
                self._live_through(disturbance)
        except BaseException as error:
            if self._lines:
                self._lines[-1] += f"; chaos ended here: {error}".partition("\n")[0]
            if self._cluster._open is not None:  # else it was stopped in the block
                self._failure = error
        finally:
            self._undone = len(self._lines)

    def _live_through(self, disturbance: Disturbance) -> None:
        self.happened.append(disturbance)
        self._lines.append(f"{now() - self._began:8.3f} s  {disturbance}")
        try:
            with self._inflict(disturbance):
                self._over.wait(disturbance.lasts)
        except ServerExited as error:  # by what the test does itself
            self._lines[-1] += f": nothing happened, {error.args[0]}".partition("\n")[0]
        else:
            self._lines[-1] += f"; undone by {now() - self._began:.3f} s"
        self._undone += 1

    @contextmanager
    def _inflict(self, disturbance: Disturbance) -> Iterator[None]:
        cluster, ones, others = self._cluster, disturbance.tasks, disturbance.others
        if disturbance.kind in OF_TASKS:
            server = cluster._find(ones[0])
            with cluster._lock:  # the test may be starting or stopping it
                if server.is_suspended():
                    raise ServerExited(f"{server.task} is suspended already")
                (server.kill if disturbance.kind == "kill" else server.suspend)()
                process = server._life.process
            try:
                yield
            finally:
                with cluster._lock:
                    if server._life.process is not process:
                        pass  # the test has started it again meanwhile: what it is now, it wants
                    elif disturbance.kind == "kill":
                        server.start()
                    elif server.is_alive() and server.is_suspended():
                        server.resume()
        elif disturbance.kind == "delay":
            with cluster.delay(ones, others, disturbance.seconds):
                yield
        else:
            with getattr(cluster, disturbance.kind)(ones, others):
                yield

    def _in_force(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def mark(self) -> int | None:
        """Return what :meth:`since` takes for all that happens from now on; None if it is over."""
        return self._undone if self._in_force() else None

    def since(self, mark: int) -> str:
        """Say what was in force, or was begun, since a :meth:`mark`."""
        head = f"chaos(seed={self.seed!r}, kinds={self.kinds}, every={self.every:g})"
        before = [f"({mark} before that)"] if mark else []
        lines = self._lines[mark:] or ["nothing happened yet"]
        return "\n  ".join([f"{head}: at which moment, and what was planned", *before, *lines])

    def __str__(self) -> str:
        return self.since(0)

    def __repr__(self) -> str:
        state = "in force" if self._in_force() else "over" if self._began else "not begun"
        return f"<Chaos of seed {self.seed!r}: {state}, {len(self.happened)} disturbances>"
