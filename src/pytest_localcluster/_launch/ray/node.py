"""Runs in a Ray actor, on the node of its task, never in the test process.

The actor has what a test process has for the tasks of its own machine: a forkserver with its
guard, and a lease of the task's port. So signals, exit codes, main threads, and who dies with whom
are what they are there; the end of the actor is what the end of the test process would be. What
goes over the task's control socket, its status pipe and its output is passed on, as bytes, in one
order: what a task has printed comes before what it says next, and how it ended comes last.

The test process fetches what there is, and says with each request up to where it has it, so that a
request may be repeated when an answer was lost.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ... import _ports
from ..._clock import Deadline
from ..._logs import empty_folder
from ...errors import ClusterError, PortError
from .. import shelter
from ..process import ProcessLauncher
from .relay import Part, Relay
from .surroundings import is_of_a_machine

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Late", "Package", "TaskActor", "own_version"]

_PACKAGES, _LIBRARY = str(Path(__file__).parents[3]), str(Path(os.__file__).parent)
"""Where this package is, and Python's own: if the test process has both there too, all is."""


class Package(NamedTuple):
    """What a task is made of.

    Attributes:
        environ: its environment, but for what is left to the node.
        without: what is not left to the node, but is not there either.
        directory: the working directory, if the node has it too.
        path: where to import from; if the node has Python elsewhere, its own comes after that.
        entry: what to call, and who the task is; pickled.
        news: the test's settings.
        refusal: why it gets no terminal.
    """

    environ: Mapping[str, str]
    without: frozenset[str]
    directory: str | None
    path: list[str]
    entry: bytes
    news: Any
    refusal: str


class Late(NamedTuple):
    """What a forkserver did that took no request in time: its last words, and where it is."""

    last: str
    stacks: str


def own_version() -> str:
    """Return the version of this package, here."""
    return metadata.version("pytest-localcluster")


class TaskActor:
    """One task's place on a node; the task can be started there again and again.

    Args:
        version: of this package, in the test process.
        path: where the test process imports from.
        preload: the modules to import once.
        boot_env: what the process that imports them has in its environment, and no task.
    """

    def __init__(
        self, version: str, path: list[str], preload: tuple[str, ...], boot_env: Mapping[str, str]
    ) -> None:
        if version != own_version():
            raise ClusterError(
                f"pytest-localcluster is {own_version()} on this node, and {version} at pytest's",
                remedy="install the same version on all nodes",
            )
        sys.path.extend(entry for entry in path if entry not in sys.path)
        self._launcher = ProcessLauncher(preload, boot_env)
        self._launcher.prepare()
        self._leases: list[_ports.PortLease] = []
        self._folder: Path | None = None
        self._relays: dict[int, Relay] = {}

    def lease(
        self, count: int, ports: tuple[int, int] | None, folder: bool
    ) -> tuple[str, list[int], Path | None]:
        """Lease ports, from a range if there is one, and make a folder if the task needs one.

        Returns:
            The node's address, the ports, and the folder.
        """
        from ray.util import get_node_ip_address

        self.release()
        _ports.configure(ports)
        self._leases = _ports.lease_ports(count)
        self._folder = shelter.new_folder() if folder else None
        return get_node_ip_address(), [lease.port for lease in self._leases], self._folder

    def release(self) -> None:
        """Give the ports and the folder back."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        for lease in self._leases:
            lease.release()
        self._leases = []

    def empty_folder(self) -> None:
        """Remove what is in the task's own folder."""
        if self._folder is not None:
            empty_folder(self._folder)

    def launch(
        self, number: int, package: Package, seconds: float | None, binding: _ports.Binding
    ) -> Late | None:
        """Start the task, which binds its ports like that; None if it is on its way.

        Raises:
            PortError: somebody else has taken its port.
        """
        for lease in self._leases:
            try:
                lease.take_back()
            except PortError:
                if not binding:  # otherwise it may be connections of its own that linger
                    raise
            lease.hand_over(binding)
        reader, output = os.pipe()
        try:
            control, status = self._launcher.fork(
                number, _payload(package), output, Deadline(seconds)
            )
        except TimeoutError:
            os.close(reader)
            late = Late(self.said(), self.dump_stacks())
            self._launcher.abandon()
            return late
        self._relays[number] = Relay(control, status, reader)
        return None

    def request(self, kind: int, request: object, acknowledged: bool) -> bytes:
        """Pass a request on to the forkserver; return its answer."""
        return self._launcher.request(kind, request, acknowledged=acknowledged)

    def send(self, number: int, index: int, data: bytes) -> None:
        """Send the task what it is told over its control socket; wait until it takes it.

        What has an ``index`` that was there before is not sent again.
        """
        if number in self._relays:
            self._relays[number].send(index, data)

    def hang_up(self, number: int) -> None:
        """Be for the task as if the test process were gone."""
        if number in self._relays:
            self._relays[number].hang_up()

    def news(self, number: int, seen: int) -> list[Part]:
        """Return what there is after the first ``seen`` parts, once there is something.

        The last part of all tells how the task ended; whoever has seen that asks no more.
        """
        return self._relays[number].news(seen)

    def forget(self, number: int) -> None:
        """Drop what there is of a task that has ended."""
        self._relays.pop(number, None)

    def said(self) -> str:
        """Return the last words of the forkserver."""
        return self._launcher.said().rstrip().rpartition("\n")[2]

    def dump_stacks(self) -> str:
        """Return where the threads of the forkserver are."""
        return self._launcher.dump_stacks()

    def abandon(self, hung: bool) -> None:
        """Kill the forkserver; if it may be ``hung``, only if it is."""
        if hung:
            self._launcher.abandon_if_hung()
        else:
            self._launcher.abandon()


def _payload(package: Package) -> bytes:
    """Return what the forkserver gives a task: of this node what is the node's."""
    directory = package.directory
    if directory is not None and not Path(directory).is_dir():
        directory = None
    path = package.path
    if not {_PACKAGES, _LIBRARY}.issubset(path):
        path = [*path, *(entry for entry in sys.path if entry not in path)]
    own = {n: v for n, v in os.environ.items() if is_of_a_machine(n) and n not in package.without}
    environ = {**own, **package.environ}
    return pickle.dumps((environ, directory, path, package.entry, package.news, package.refusal))
