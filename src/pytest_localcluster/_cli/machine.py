"""``doctor``: what the system can do. All of it is tried, not looked up."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from .. import _ports
from .._launch import family
from .._runtimes._grpc import has_ipv6_loopback
from ..errors import PortError
from .checks import PROBLEM, WARNING, Check, Look

__all__ = ["LOOKS"]

_PR_GET_PDEATHSIG = 2
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37


def python() -> Iterator[Check]:
    """Which interpreter, on which system."""
    found = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    yield Check("Python", found)  # an older one could not have read this far
    system = f"{platform.system()} {platform.release()}"
    if not hasattr(os, "fork"):
        yield Check("system", system, PROBLEM, "tasks are forked: use Linux, WSL or macOS")
    elif not sys.platform.startswith("linux"):
        yield Check(
            "system",
            system,
            WARNING,
            "what a task puts into a session of its own can outlive a run here: use Linux",
        )
    else:
        yield Check("system", system)


def ports() -> Iterator[Check]:
    """Whether a port can be leased, and whether the kernel then keeps it for us."""
    if _ports.system_holds_ports():
        yield Check(
            "port leases", "the kernel keeps a leased port for the one server that is meant"
        )
    else:
        yield Check(
            "port leases",
            "the kernel does not keep a leased port for its server",
            WARNING,
            "a port is let go of just before its server binds it, and a start that loses it is "
            "tried again: use --cluster-port-range with ports that nobody else takes",
        )
    try:
        with _ports.lease_port() as lease:
            yield Check("a free port", f"{lease.port} could be leased")
    except PortError as error:
        yield Check("a free port", error.message, PROBLEM, error.remedy or "end what takes them")


def loopback() -> Iterator[Check]:
    """Where servers listen, and where ``localhost`` leads."""
    ipv6 = has_ipv6_loopback()
    yield Check(
        "IPv6 loopback", "::1 is there" if ipv6 else "none; tasks listen on 127.0.0.1 alone"
    )
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo("localhost", None)}
    except OSError as error:
        found, why = set(), f" ({error.strerror})"
    else:
        why = ""
    remedy = "have /etc/hosts say `127.0.0.1 localhost`"
    if "127.0.0.1" not in found:
        names = ", ".join(sorted(found)) or "nowhere"
        yield Check("localhost", f"it leads to {names}{why}, not to 127.0.0.1", PROBLEM, remedy)
    elif not ipv6 and "::1" in found:
        found_too = "it leads to ::1 as well, where nobody can listen"
        yield Check("localhost", found_too, WARNING, "have /etc/hosts say nothing of ::1")
    else:
        yield Check("localhost", f"it leads to {', '.join(sorted(found))}")


def deaths() -> Iterator[Check]:
    """How one process learns of the end of another."""
    watch = family.watch(os.getpid())
    if watch is None:
        yield Check(
            "pidfd",
            "there is none: ends of processes are looked for a hundred times a second",
            WARNING,
            "use Linux 5.3 or newer, and let containers call pidfd_open",
        )
    else:
        os.close(watch)
        yield Check("pidfd", "the end of a process is an event")
    if not family.ADOPTS:
        return
    died, adopted = _taken()
    what = "parent death signal"
    if died:
        yield Check(what, "tasks end with the process that forked them")
    else:
        remedy = "let the container call prctl(PR_SET_PDEATHSIG)"
        yield Check(what, "the kernel does not take it (PR_SET_PDEATHSIG)", WARNING, remedy)
    if adopted:
        yield Check("orphans", "they stay in the family (PR_SET_CHILD_SUBREAPER)")
    else:
        remedy = "let the container call prctl(PR_SET_CHILD_SUBREAPER)"
        yield Check("orphans", "what tasks start can leave the family", WARNING, remedy)


def _taken() -> tuple[bool, bool]:
    """Return whether the parent death signal and the adoption of orphans can be had; undo both."""
    prctl, value = ctypes.CDLL(None).prctl, ctypes.c_int(0)

    def is_set(option: int, wanted: int) -> bool:
        return prctl(option, ctypes.byref(value)) == 0 and value.value == wanted

    adopted_before = is_set(_PR_GET_CHILD_SUBREAPER, 1)
    family.die_with_parent()
    family.adopt_orphans()
    found = is_set(_PR_GET_PDEATHSIG, signal.SIGKILL), is_set(_PR_GET_CHILD_SUBREAPER, 1)
    family.die_with_parent(False)
    if not adopted_before:
        prctl(_PR_SET_CHILD_SUBREAPER, 0)
    return found


def proc() -> Iterator[Check]:
    """Whether /proc tells of processes."""
    if not sys.platform.startswith("linux"):
        return
    own = Path(f"/proc/self/task/{os.getpid()}/children")
    if not Path("/proc/self/stat").exists():
        remedy = "mount it: without it nobody can tell a process from another with its number"
        yield Check("/proc", "it is not mounted", PROBLEM, remedy)
    elif not own.exists():
        found = "it does not list children: they are searched for among all processes"
        yield Check("/proc", found, WARNING, "use a kernel with CONFIG_PROC_CHILDREN")
    else:
        yield Check("/proc", "it tells of processes and their children")


LOOKS: tuple[Look, ...] = (python, ports, loopback, deaths, proc)
