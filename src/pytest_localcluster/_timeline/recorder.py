"""The recorder: clusters and sessions of the test process tell it what happens (``_moments``)."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from .._clock import now_ns
from .._ring import has_no_space
from .lane import Call, Lane
from .lookout import Lookout

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path
    from types import TracebackType

    from .._cluster import LocalCluster
    from .._net import Fault
    from .._server import Server
    from .._spec import Task

__all__ = ["Disorder", "Phase", "Recorder", "Step"]

_STEPS = 20_000
_PHASES = 2000


@dataclass
class Phase:
    """A part of the test itself: ``setup``, ``call``, ``teardown``, or a fixture's setup."""

    name: str
    begin: int
    end: int | None = None
    fixture: bool = False
    failed: bool = False


@dataclass(slots=True)
class Step:
    """A step of a session of the test process, as a context manager for as long as it runs."""

    target: str
    name: str
    begin: int = 0
    end: int | None = None
    step_id: int = 0
    error: str = ""

    def __enter__(self) -> Self:
        self.begin = now_ns()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        self.end = now_ns()
        if kind is not None:
            self.error = f"{kind.__name__}: {error}"


@dataclass
class Disorder:
    """A fault between tasks; ``end`` is None while it is in force."""

    cluster: LocalCluster
    what: str
    tasks: Collection[Task]
    begin: int = field(default_factory=now_ns)
    end: int | None = None


class Recorder:
    """What is known of the test that runs, and of the clusters that it may use.

    Attributes:
        steps: of sessions in this process.
        faults: between tasks.
        phases: of the test.
        began: when the test began.
    """

    def __init__(self) -> None:
        self.steps: deque[Step] = deque(maxlen=_STEPS)
        self.faults: list[Disorder] = []
        self.phases: deque[Phase] = deque(maxlen=_PHASES)
        self.began = now_ns()
        self._lanes: list[Lane] = []
        self._lookout = Lookout()
        self._clusters = itertools.count(1)
        self._files = itertools.count(1)
        self._folder: Path | None = None
        self._lock = threading.Lock()

    # -- what clusters and sessions tell

    def launching(self, server: Server) -> str:
        """Learn that a task is about to be launched; return the file for what it notes itself."""
        if server not in server.cluster.servers:
            return ""  # what runs the links
        notes = self._new_file()
        lane = self.lane(server)
        lane.launching(notes)
        self._lookout.follow(lane)
        return str(notes)

    def happened(self, server: Server, what: str, name: str) -> None:
        """Learn of something that happens to a task just now."""
        if server not in server.cluster.servers:
            return
        lane = self.lane(server)
        lane.happened(what, name)
        if what == "ready" and server.pid is not None:
            self._lookout.came_up(lane, server.pid)

    def called(self, server: Server, name: str, began: int, result: Future[Any]) -> None:
        """Record a call of a function, sent at ``began``, in ns of the monotonic clock."""
        if server in server.cluster.servers:
            call = Call(name, began)
            self.lane(server).calls.append(call)
            result.add_done_callback(call.done)

    def stepping(self, target: str, name: str) -> Step:
        """Return what is to be entered for as long as a session runs a step."""
        step = Step(target, name)
        self.steps.append(step)
        return step

    def inflicted(self, cluster: LocalCluster, fault: Fault, tasks: Collection[Task]) -> None:
        """Learn that a fault is in force from now on."""
        self.faults.append(Disorder(cluster, fault.what, tasks))

    def healed(self, faults: Collection[Fault]) -> None:
        """Learn that faults are in force no more."""
        for fault in faults:
            for known in self.faults:
                if known.end is None and known.what == fault.what:
                    known.end = now_ns()
                    break

    # -- what the plugin tells, and asks

    def begin(self) -> None:
        """Forget what was before the test that begins now, but for what goes on."""
        self.look()
        self.began = now_ns()
        for lane in self._lanes:
            lane.begin()
        self.steps.clear()
        self.phases.clear()
        self.faults = [fault for fault in self.faults if fault.end is None]

    def lane(self, server: Server) -> Lane:
        """Return what is known of a task."""
        with self._lock:
            number = 0
            for lane in self._lanes:
                if lane.server is server:
                    return lane
                if lane.server.cluster is server.cluster:
                    number = lane.cluster
            self._lanes.append(Lane(server, number or next(self._clusters)))
            return self._lanes[-1]

    def lanes(self, clusters: Collection[LocalCluster]) -> list[Lane]:
        """Return what is known of the tasks of ``clusters``."""
        for cluster in clusters:
            for server in cluster.servers:
                self.lane(server)
        return [lane for lane in self._lanes if lane.server.cluster in clusters]

    def unrecorded(self, clusters: Collection[LocalCluster]) -> list[Task]:
        """Return the tasks that recorded nothing for want of space on the disk."""
        return [
            lane.server.task
            for lane in self.lanes(clusters)
            if any(has_no_space(life.notes) for life in lane.lives)
        ]

    def look(self) -> None:
        """Take note of what was printed until now, and who has died."""
        self._lookout.look()

    def stopped(self, cluster: LocalCluster) -> None:
        """Look for the last time at what the tasks of a cluster print."""
        self._lookout.leave([lane for lane in self._lanes if lane.server.cluster is cluster])
        for fault in self.faults:
            if fault.cluster is cluster and fault.end is None:
                fault.end = now_ns()

    def forget(self, cluster: LocalCluster) -> None:
        """Drop what is known of a cluster that was stopped."""
        for lane in [lane for lane in self._lanes if lane.server.cluster is cluster]:
            self._lanes.remove(lane)
            for life in lane.lives:
                life.notes.unlink(missing_ok=True)

    def close(self) -> None:
        """Give everything back."""
        self._lookout.leave(list(self._lanes))
        self._lanes.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _new_file(self) -> Path:
        from .._launch import shelter

        with self._lock:
            if self._folder is None or not self._folder.is_dir():
                self._folder = shelter.new_folder()
            return self._folder / f"{next(self._files)}.notes"
