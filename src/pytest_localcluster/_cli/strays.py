"""``doctor``: what earlier runs have left, and what runs on.

A guard, the forkserver below it and the tasks that it forks have one command line, with the number
of the process that they are for. If that is no more, and they are, nobody ends them. A program that
a task became has its own command line, but the task's environment.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .. import _held
from .._clusterfile import read_cluster_file
from .._context import TOKEN_VARIABLE
from .._launch import family
from .._launch.guard import kept_folder, read_note
from ..errors import SpecError
from .checks import WARNING, Check, Look

__all__ = ["LOOKS"]

_MARK = b"pytest_localcluster._launch.guard"
_FOLDER = "pytest-localcluster-"


class _Process(NamedTuple):
    """One of ours.

    Attributes:
        pid: its number.
        parent: its parent's.
        owner: the process that it is for; 0 if its command line does not have that.
        folder: the folder that a guard removes; "" for other processes.
    """

    pid: int
    parent: int
    owner: int
    folder: str


def strays() -> Iterator[Check]:
    """Find processes whose test process is gone, and folders that nobody will remove."""
    if not Path("/proc/self/stat").exists():
        yield Check("stray tasks", "nobody can tell without /proc", WARNING, "look with ps")
        return
    # A folder's name is known before it is made: who is not there now was there before it.
    there = sorted(Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"))
    ours = {
        process.pid: process for process in map(_look_at, family.processes()) if process is not None
    }
    owners = {process.owner for process in ours.values()}
    left = [process for process in ours.values() if _is_stray(process, ours, owners)]
    if left:
        pids = " ".join(str(process.pid) for process in sorted(left))
        found = f"{len(left)} processes of test processes that are gone: {pids}"
        yield Check("stray tasks", found, WARNING, f"kill -9 {pids}")
    else:
        yield Check("stray tasks", "none")
    known = {process.folder for process in ours.values()}
    folders = [
        str(path)
        for path in there
        if path.is_dir() and os.access(path, os.R_OK) and not _is_known(str(path), known)
    ]
    if folders:
        names = " ".join(folders)
        found = f"{len(folders)} folders of logs of runs that are gone: {names}"
        yield Check("stray files", found, WARNING, f"rm -r {names}")
    else:
        yield Check("stray files", "none")


def _is_known(path: str, known: set[str]) -> bool:
    return any(folder and path.startswith(folder) for folder in known)


def running() -> Iterator[Check]:
    """Name the clusters that run without a test."""
    found = []
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{_FOLDER}*/**/cluster.json")):
        try:
            file = read_cluster_file(path)
        except SpecError:
            continue
        if file.is_in_use():
            found.append(f"{path} ({len(file.spec.tasks)} tasks)")
    if found:
        text = "to end one: python -m pytest_localcluster down FILE"
        yield Check("clusters without a test", f"{', '.join(found)}; {text}")
    else:
        yield Check("clusters without a test", "none")


def _look_at(pid: int) -> _Process | None:
    """Return what a process of ours says of itself; None if it is none, or not ours to look at."""
    folder = Path(f"/proc/{pid}")
    try:
        arguments = (folder / "cmdline").read_bytes().split(b"\0")
        if not _held.identity(pid):
            return None
        parent = family.parent(pid)
        if any(_MARK in argument for argument in arguments[:6]):
            return _Process(pid, parent, int(arguments[-2]), read_note(pid))
        # Only who was executed as a task has both; a client that joined has no task.
        environ = (folder / "environ").read_bytes()
        if f"{TOKEN_VARIABLE}=".encode() in environ and _is_task(environ):
            return _Process(pid, parent, 0, "")
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
    return None


def _is_task(environ: bytes) -> bool:
    for variable in environ.split(b"\0"):
        name, _, value = variable.partition(b"=")
        if name == b"TF_CONFIG":
            return b'"task"' in value
    return False


def _is_stray(process: _Process, ours: dict[int, _Process], owners: set[int]) -> bool:
    """Tell whether nobody is left who would end a process."""
    if process.owner:
        return not _is_older(process.owner, process.pid) and not _is_kept(process)
    ancestor = process.parent
    while ancestor > 1:
        if ancestor in ours and ours[ancestor].owner:
            return _is_stray(ours[ancestor], ours, owners)
        if ancestor in owners:
            return False  # a test started it, with what cluster.environ() gave
        ancestor = family.parent(ancestor)
    return True


def _is_kept(process: _Process) -> bool:
    """Tell whether a process belongs to a cluster that a failed test has left, as it should."""
    pid = process.pid
    while pid > 1:
        folder = read_note(pid)
        if folder and Path(kept_folder(folder, pid)).exists():
            return True  # that is the guard, which removes the folder in the end
        pid = family.parent(pid)
    return False


def _is_older(pid: int, other: int) -> bool:
    """Tell whether a process lives that can have started another one."""
    born, younger = _held.identity(pid), _held.identity(other)
    return bool(born) and bool(younger) and int(born) <= int(younger)


LOOKS: tuple[Look, ...] = (strays, running)
