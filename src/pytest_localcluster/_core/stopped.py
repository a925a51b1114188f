"""Tasks whose cluster stopped with an earlier test, for those who kept their addresses.

A module-level cache, such as TensorFlow's own test utilities have, keeps servers for longer than
the test that made them. Nothing answers at their addresses any more. An address is noted here once
the test is over, and struck off when another cluster gets it.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import ClusterStoppedWarning

__all__ = ["REMEDY", "Stopped", "about", "at", "forget", "forget_reads", "note", "reads", "warn"]

REMEDY = (
    "start a cluster in each test, or keep it for longer: "
    'create_local_cluster(..., scope="module"), or a fixture of that scope'
)

_MOST = 1000
"""How many addresses are known, the last ones."""

_ADDRESS = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\]):(\d+)")
_PACKAGE = __name__.partition(".")[0]


class Stopped(NamedTuple):
    """A task that ended with a test."""

    task: str
    address: str
    test: str

    def __str__(self) -> str:
        return f"{self.task} at {self.address}, whose cluster stopped with {self.test}"


_known: dict[str, Stopped] = {}
_read: dict[str, Stopped] = {}  # by address: what the running test has asked for


def note(stopped: Stopped) -> None:
    """Add a task."""
    _known.pop(stopped.address, None)
    _known[stopped.address] = stopped
    while len(_known) > _MOST:
        del _known[next(iter(_known))]


def forget(addresses: Iterable[str]) -> None:
    """Strike off addresses at which other tasks are about to serve."""
    for address in addresses:
        _known.pop(address, None)
        _read.pop(address, None)


def at(address: str) -> Stopped | None:
    """Return the task that served at an address; None if it did not end with an earlier test."""
    return _known.get(address)


def about(text: str) -> list[Stopped]:
    """Return the tasks whose addresses a text names, such as the message of an error."""
    ports = dict.fromkeys(_ADDRESS.findall(text)) if _known else {}
    return [found for port in ports if (found := at(f"localhost:{port}")) is not None]


def reads() -> list[Stopped]:
    """Return the tasks whose addresses the running test has asked for."""
    return list(_read.values())


def forget_reads() -> None:
    """Begin anew with another test."""
    _read.clear()


def warn(stopped: Stopped, attribute: str) -> None:
    """Warn the code that reads an attribute of a stopped server, unless it is ours."""
    reader = sys._getframe(3).f_globals.get("__name__", "")
    if str(reader).partition(".")[0] == _PACKAGE:
        return
    _read[stopped.address] = stopped
    warnings.warn(
        ClusterStoppedWarning(
            f"the {attribute} of {stopped}: nothing answers there any more\n  To fix this: {REMEDY}"
        ),
        stacklevel=4,
    )
