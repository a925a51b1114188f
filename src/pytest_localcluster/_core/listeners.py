"""Finds the process that has a port, and reads from a program's output that an address is in use.

The kernel's tables are those of Linux; elsewhere nothing is found, and the messages say less.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

__all__ = ["holder_of", "in_use", "others_at", "ports_in_use"]

_IN_USE = re.compile(
    r"addr(?:ess)?[ _]?(?:is )?already[ _]in[ _]?use|EADDRINUSE|AddrInUse"
    r"|port\b.{0,40}\b(?:is )?(?:already )?in use|" + re.escape(os.strerror(errno.EADDRINUSE)),
    re.IGNORECASE,
)
_WORDS = ("in use", "inuse", "in_use", os.strerror(errno.EADDRINUSE).lower())
_PORT = re.compile(r"(?:\bport[ =:'\"]{1,3}|(?:^|[\s\w\]*:.(/]):)(\d{2,5})(?!\d)", re.IGNORECASE)
# A time of day and a line of source end in digits behind a colon, too.
_NO_PORT = re.compile(
    r"(?<![\d.])\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d+)?\b|[\w/-]+\.[a-z]{1,4}:\d+\b", re.IGNORECASE
)

_LISTEN, _TIME_WAIT = "0A", "06"
_LINGERING = {_TIME_WAIT, "04", "05"}  # and FIN_WAIT1, FIN_WAIT2
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


def in_use(text: str) -> list[str]:
    """Return the lines of a program's output that say that an address is in use."""
    if not _may_say(text):
        return []
    return [line for line in text.splitlines() if _may_say(line) and _IN_USE.search(line)]


def _may_say(text: str) -> bool:
    # Much faster than the expression, and a program may print a lot before it serves.
    text = text.lower()
    return any(word in text for word in _WORDS)


def ports_in_use(lines: Iterable[str]) -> list[int]:
    """Return the ports that such lines name."""
    found = (int(port) for line in lines for port in _PORT.findall(_NO_PORT.sub(" ", line)))
    return [port for port in dict.fromkeys(found) if port < 1 << 16]


def holder_of(port: int, but: Collection[int] = (), *, lingering: bool = True) -> str:
    """Return what has a port of this machine: ``pid 812 (nginx) listens there``.

    Args:
        port: the port.
        but: pids that do not count.
        lingering: whether closed connections count, which refuse the port to programs that do
            not set SO_REUSEADDR.

    Returns:
        The holder; "" if none is found, as for a socket that is bound and does not listen.
    """
    entries = [entry for entry in _entries() if entry[0] == port]
    inodes = {inode for _, state, inode in entries if state == _LISTEN}
    if inodes:
        pids = list(_pids_with(inodes))
        names = [_name(pid) for pid in pids if pid not in but]
        if pids and not names:
            return ""
        return f"{' and '.join(names) or 'a process of another user'} listens there"
    if lingering and any(state in _LINGERING for _, state, _ in entries):
        return (
            "connections of a program that has ended linger there, for a minute at most, and keep "
            "it from programs that do not set SO_REUSEADDR"
        )
    return ""


def others_at(address: str) -> str:
    """Return what another process has of ``host:port``, to go behind a message: ``": pid ..."``."""
    who = holder_of(int(address.rpartition(":")[2]), [os.getpid()], lingering=False)
    return f": {who}" if who else ""


def _entries() -> Iterator[tuple[int, str, str]]:
    """Yield the local port, the state and the inode of each TCP socket of this machine."""
    for table in _TABLES:
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            yield int(fields[1].rpartition(":")[2], 16), fields[3], fields[9]


def _pids_with(inodes: Collection[str]) -> Iterator[int]:
    links = {f"socket:[{inode}]" for inode in inodes}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and any(link in links for link in _descriptors(entry)):
            yield int(entry.name)


def _descriptors(process: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):  # another user's, or it has just ended
        for fd in (process / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                yield str(fd.readlink())


def _name(pid: int) -> str:
    if pid == os.getpid():
        return f"this process (pid {pid})"
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        name = ""
    return f"pid {pid} ({name})" if name else f"pid {pid}"
