"""``doctor``: how much the machine gives, and where files go."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .checks import OK, PROBLEM, WARNING, Check, Look, number_in

__all__ = ["LOOKS"]

_MIB = 1 << 20
_CGROUPS = Path("/sys/fs/cgroup")
_SLOW = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "afs", "lustre")
"""File systems on which a log is slow, or not what others see."""


def limits() -> Iterator[Check]:
    """How many files and processes there may be."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield Check(
        "open files",
        f"a process may have {_count(soft)} (ulimit -n)",
        _graded(soft, few=1024, too_few=128),
        "raise `ulimit -n`: a task takes four in the test process, a link one",
    )
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    yield Check(
        "processes of a user",
        f"at most {_count(soft)} (ulimit -u)",
        _graded(soft, few=512, too_few=64),
        "raise `ulimit -u`: threads count, and each task has some ten",
    )
    for group in _own_groups("pids"):
        most, now = number_in(group / "pids.max"), number_in(group / "pids.current")
        if most is not None and now is not None:
            yield Check(
                "processes of the container",
                f"{now} of at most {most}",
                _graded(most - now, few=256, too_few=32),
                "raise its pids limit (--pids-limit): threads count, and each task has some ten",
            )


def memory() -> Iterator[Check]:
    """How much memory is left, and how much the container may take."""
    remedy = "give the tests more memory: a task takes 5 MiB, one of TensorFlow 50"
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("MemAvailable:"):
            left = int(line.split()[1]) * 1024
            state = _graded(left, few=512 * _MIB, too_few=64 * _MIB)
            yield Check("memory", f"{left // _MIB} MiB are left", state, remedy)
    for group in _own_groups("memory"):
        for most_file, now_file in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            most, now = number_in(group / most_file), number_in(group / now_file)
            if most is None or now is None or most >= 1 << 60:
                continue
            # What is used includes the cache of files, which makes way.
            found = f"{now // _MIB} of at most {most // _MIB} MiB are used, caches included"
            state = _graded(most, few=512 * _MIB, too_few=64 * _MIB)
            yield Check("memory of the container", found, state, remedy)


def files() -> Iterator[Check]:
    """Where temporary files go, and on what."""
    folder = Path(tempfile.gettempdir())
    remedy = "set TMPDIR to a local folder that you may write to"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        found = f"{folder}: no file can be written there: {error.strerror}"
        yield Check("temporary files", found, PROBLEM, remedy)
        return
    kind, left = _kind_of(folder), shutil.disk_usage(folder).free
    found = f"{folder}, {kind or 'of an unknown kind'}, {left // _MIB} MiB left"
    if kind in _SLOW:
        yield Check("temporary files", found, WARNING, f"{remedy}: logs over a network are slow")
    else:
        state = _graded(left, few=256 * _MIB, too_few=_MIB)
        yield Check("temporary files", found, state, f"{remedy}, with more room")


def ephemeral_ports() -> Iterator[Check]:
    """From where the kernel takes ports that nobody asked for by number."""
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    except OSError:
        return
    low, high = map(int, text.split())
    yield Check(
        "ephemeral ports",
        f"{low}-{high}",
        _graded(high - low + 1, few=4096, too_few=64),
        "widen net.ipv4.ip_local_port_range (sysctl)",
    )


def _graded(left: int, *, few: int, too_few: int) -> str:
    if left == resource.RLIM_INFINITY or left >= few:
        return OK
    return WARNING if left >= too_few else PROBLEM


def _count(limit: int) -> str:
    return "as many as it likes" if limit == resource.RLIM_INFINITY else str(limit)


def _own_groups(controller: str) -> Iterator[Path]:
    """Yield the cgroups of this process that may limit something, each once."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    seen: set[Path] = set()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = _CGROUPS / controller if controllers else _CGROUPS
        # In a container the path may be one that only the host knows; then the root is ours.
        for group in (base / path.lstrip("/"), base):
            if group not in seen and group.is_dir():
                seen.add(group)
                yield group
                break


def _kind_of(folder: Path) -> str:
    """Return the kind of file system that a folder is on; "" if nobody tells."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    best, kind = -1, ""
    real = os.path.realpath(folder)
    for mount in mounts:
        _, point, found, *_ = mount.split()
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:
            best, kind = len(point), found
    return kind


LOOKS: tuple[Look, ...] = (limits, memory, files, ephemeral_ports)
