"""Tasks on the nodes of a Ray cluster: each in an actor of its own.

Nothing here imports Ray before a cluster is started::

    placement  the actors of a cluster, spread over the nodes
    berth      what starts one task through its actor, and where it serves
    process    the handle of a task that was started
    node       in the actor: what a task is started by on its node, and passes its news on
"""

from __future__ import annotations

import atexit
import os
import socket
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from ...errors import ClusterError, SpecError, StartError, UnsupportedError

if TYPE_CHECKING:
    from ..._logs import TaskLog
    from .. import Entry, Needs
    from .placement import Placement, Reserved

__all__ = ["RayLauncher", "launcher", "shutdown"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

_SMALL = 0.01
_REACH = 5.0
"""Seconds for a connection to the address of Ray, which itself would try for minutes."""

_MOST_IDLE = 8
"""How many actors wait for the next cluster at most: each takes memory while it waits."""


@dataclass(frozen=True)
class RayLauncher:
    """Starts tasks on the nodes of a Ray cluster, each in a Ray actor of its own.

    The nodes need this package, at the same version, and what the tests' functions import; the
    actors are spread over them by a placement group. If Ray is connected already it is used as it
    is.

    Args:
        address: of the Ray cluster, as ``ray.init()`` takes it. None is that of ``RAY_ADDRESS``,
            else the one that runs on this machine, else a new one, of this machine alone.
        resources: what each task takes of its node, by Ray's names: ``{"CPU": 1}``.

    Raises:
        SpecError: resources that cannot be.
    """

    address: str | None = None
    resources: Mapping[str, float] = field(default_factory=lambda: {"CPU": _SMALL})

    networked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.address is not None and not isinstance(self.address, str):
            raise SpecError(
                f"address={self.address!r} is no address of a Ray cluster",
                remedy='write "host:port", or "auto" for the one that runs on this machine',
            )
        given = self.resources
        sound = isinstance(given, Mapping) and given and all(map(_is_amount, given.items()))
        if not sound:
            raise SpecError(
                f"resources={given!r} says nothing that a task could take",
                remedy='write {"CPU": 1}: a name, and a number above 0',
            )

    def check(self) -> None:
        """Raise SpecError if Ray, or what makes certificates, is not installed."""
        missing = [name for name in ("ray", "trustme") if find_spec(name) is None]
        if missing:
            raise SpecError(
                f"launcher='ray' needs {' and '.join(missing)}, which is not installed",
                remedy="pip install 'pytest-localcluster[ray]'",
            )

    def prepare(self) -> None:
        """Do nothing: whether a Ray cluster is needed only its first task tells."""

    def fork_ahead(self, tasks: int) -> None:
        """Do nothing: no task is forked here."""

    def launch(self, entry: Entry, log: TaskLog) -> NoReturn:
        """Refuse it: what launches a task is its berth on a node."""
        raise UnsupportedError("a RayLauncher launches tasks of clusters only")

    def close(self) -> None:
        """End all actors that wait for tasks. Idempotent."""
        _actors.discard()

    def reserve(self, wanted: Sequence[Needs]) -> Reserved:
        """Return a berth on a node for each task.

        Raises:
            StartError: there is no room for them, or no Ray cluster.
        """
        self._connect()
        return _actors.reserve(wanted, self.resources)

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            self._check_connection(ray)
            return
        address = self.address or os.environ.get("RAY_ADDRESS")
        if address is not None:
            if address.startswith("ray://"):
                raise UnsupportedError(
                    f"tasks cannot be started through Ray's client, {address}: sessions dial the "
                    "nodes from here",
                    remedy="run pytest on one of the nodes, with the address of the cluster itself",
                )
            _check_reachable(address)
        hooked = "PYTHONBREAKPOINT" in os.environ
        try:
            # What Ray warns of its own future is no fault of the test.
            with warnings.catch_warnings(action="ignore"):
                ray.init(
                    address=self.address,
                    include_dashboard=False,
                    log_to_driver=False,
                    configure_logging=False,
                )
        except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            raise _no_ray(address, str(error)) from error
        finally:
            if not hooked:  # Ray's is for Ray's own tasks, and here pytest has one
                os.environ.pop("PYTHONBREAKPOINT", None)
        _actors.connected = os.getpid()
        atexit.register(shutdown)

    def _check_connection(self, ray: Any) -> None:
        current = ray.get_runtime_context().gcs_address
        if self.address is not None and ":" in self.address and self.address != current:
            raise ClusterError(
                f"Ray is connected to {current}, and can have no second connection, "
                f"to {self.address}",
                remedy="use one Ray cluster for all tests of a run, or call ray.shutdown() first",
            )


def _is_amount(item: tuple[object, object]) -> bool:
    name, n = item
    number = isinstance(n, (int, float)) and not isinstance(n, bool)
    return isinstance(name, str) and bool(name) and number and n > 0  # type: ignore[operator]


def _check_reachable(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not port.isdigit():  # "auto", "local", and what Ray will say itself
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH).close()
    except OSError as error:
        raise _no_ray(address, f"{type(error).__name__}: {error}") from None


def _no_ray(address: str | None, evidence: str) -> StartError:
    return StartError(
        f"there is no Ray cluster to be reached at {address or 'this machine'}",
        evidence=evidence,
        remedy="start one with `ray start --head`, and give its address: "
        "RayLauncher(address=...), or RAY_ADDRESS in the environment",
    )


class _Actors:
    """The actors of this process: those in use, and those that wait for the next cluster."""

    def __init__(self) -> None:
        self.connected: int | None = None  # the process that has connected Ray
        self._owner = os.getpid()
        self._idle: list[Placement] = []
        self._job = ""  # by Ray's name for our connection
        self._lock = threading.Lock()

    def reserve(self, wanted: Sequence[Needs], resources: Mapping[str, float]) -> Reserved:
        from ray.exceptions import RayError

        from .placement import Placement, key_of

        key = key_of(wanted, resources)
        with self._lock:
            self._disown()
            placement = next((each for each in self._idle if each.key == key), None)
            if placement is not None:
                self._idle.remove(placement)
                try:
                    return placement.reserve(wanted, self._take_back)
                except (RayError, TimeoutError):  # a node is gone, or somebody has killed an actor
                    placement.discard()
            self._make_room(_MOST_IDLE - len(wanted))
            placement = Placement(wanted, resources)
            try:
                return placement.reserve(wanted, self._take_back)
            except BaseException as error:
                placement.discard()
                if isinstance(error, (RayError, TimeoutError)):
                    raise _no_actors(error) from error
                raise

    def _take_back(self, placement: Placement) -> None:
        with self._lock:
            before = self._owner, self._job
            self._disown()
            if before == (self._owner, self._job) and self._job:
                placement.free()
                self._idle.append(placement)
                self._make_room(_MOST_IDLE)

    def _make_room(self, most: int) -> None:
        """Keep so many actors that wait, at most; the oldest go first."""
        while self._idle and sum(len(each.actors) for each in self._idle) > most:
            self._idle.pop(0).discard()

    def _disown(self) -> None:
        """Forget what belongs to the process that forked this one, or to an earlier connection."""
        import ray

        job = ray.get_runtime_context().get_job_id() if ray.is_initialized() else ""
        if (self._owner, self._job) != (os.getpid(), job):
            self._owner, self._job, self._idle = os.getpid(), job, []

    def discard(self) -> None:
        with self._lock:
            self._disown()
            self._make_room(0)


def _no_actors(error: BaseException) -> StartError:
    return StartError(
        "the Ray actors that are to start the tasks did not come up",
        evidence=str(error).strip() or type(error).__name__,
        remedy="see that the nodes have this package, at the same version, and room for a process "
        "more; Ray's logs are in /tmp/ray/session_latest/logs",
    )


_actors = _Actors()


def shutdown() -> None:
    """End the actors of this process, and Ray's connection if it is ours. Idempotent."""
    import ray

    if _actors.connected != os.getpid() or not ray.is_initialized():
        return
    _actors.connected = None
    _actors.discard()
    ray.shutdown()


_LAUNCHER = RayLauncher()


def launcher(preload: tuple[str, ...], boot_env: Mapping[str, str], run: str) -> RayLauncher:
    """Return the launcher; it is told what to preload with each cluster."""
    return _LAUNCHER
