"""What a task notes of what it does, for a timeline: a ring of records in a file.

The file is mapped into memory, so that noting something is a few stores: no call of the kernel,
which would give the interpreter's lock away, and nothing that is lost when the task is killed. What
the ring is too small for takes the place of the oldest.

A record is six words: begin, end, step, code, size, number. Times are of the monotonic clock, in
nanoseconds, which is one for all processes of a machine. The end is 0 as long as it has not come.
The code stands for a kind, a name and a place, which follow the ring, a line of JSON for each. The
number is written last: a record that is only half there has that of the one before, a lap ago.
Before the ring is a word that says until when all is written.

The space on the disk is allocated before the file is mapped: a store into a page that the file
system cannot back would end the task with SIGBUS. Without that space nothing is recorded.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import mmap
import os
import struct
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ._clock import now_ns

__all__ = [
    "CAPACITY",
    "FOREVER",
    "Note",
    "Notes",
    "Ring",
    "complete_until",
    "has_no_space",
    "read_notes",
]

CAPACITY = 1 << 14
"""How many records a ring holds."""

FOREVER = (1 << 64) - 1
"""A moment that does not come."""

FAILED = 1 << 32
"""The bit of a code that says that what was noted has failed."""

_WORDS = 6
_RECORD = struct.Struct(f"={_WORDS}Q")
_SIZE = _RECORD.size
_HEAD = struct.Struct("=Q")
_BYTES = _HEAD.size + CAPACITY * _SIZE
_pack = _RECORD.pack_into
_CODES = 20_000
_LONGEST = 200
_NO_SPACE = 1
"""The size, in bytes, of a file for which no space could be allocated."""

_TORN = 64
"""How many of the oldest records may be just about to be overwritten: one by each thread."""


class Note(NamedTuple):
    """One thing that a task did.

    Attributes:
        kind: such as ``op``.
        name: of what was done.
        place: the device where, or the task with which, it was.
        begin: when, in nanoseconds of the monotonic clock.
        end: when it was done; None if that was never noted.
        step: of which step it was; 0 of none.
        size: bytes, or how many, whatever the kind has.
        failed: whether it failed.
    """

    kind: str
    name: str
    place: str
    begin: int
    end: int | None
    step: int
    size: int
    failed: bool


class Notes(NamedTuple):
    """What was found in a ring.

    Attributes:
        found: in the order in which they began to be noted.
        lost: how many older ones have been overwritten, at most; some may be of earlier tests.
    """

    found: list[Note]
    lost: int


class Ring:
    """The writing end; any thread of a process may use it.

    Args:
        path: the file, which must not be there yet.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            _allocate(self._file)
            self._map = mmap.mmap(self._file, _BYTES)
            whole = memoryview(self._map).cast("Q")
            self._until, self._words = whole[:1], whole[1:]
        except BaseException:
            os.close(self._file)
            raise
        self._next = itertools.count(1).__next__
        self._codes: dict[tuple[str, str, str], int] = {}
        self._coding = threading.Lock()
        self._no_space = False  # for further names
        self.code("", "(name not recorded)", "")

    def __del__(self) -> None:
        if hasattr(self, "_next"):
            os.close(self._file)

    def code(self, kind: str, name: str, place: str) -> int:
        """Return what stands for these in records."""
        key = kind, name, place
        code = self._codes.get(key)
        if code is None:
            with self._coding:
                code = self._codes.get(key)
                if code is None:
                    if len(self._codes) >= _CODES or self._no_space:
                        return 0
                    line = json.dumps([kind, name[:_LONGEST], place[:_LONGEST]]).encode() + b"\n"
                    written = 0
                    with contextlib.suppress(OSError):
                        written = os.write(self._file, line)
                    if written < len(line):  # what came after half a line could not be read
                        self._no_space = True
                        return 0
                    code = self._codes[key] = len(self._codes)
        return code

    def begin(self, code: int, step: int = 0, size: int = 0) -> int:
        """Note that something begins; return its number, for :meth:`end`."""
        number = self._next()
        at = _HEAD.size + (number & CAPACITY - 1) * _SIZE
        _pack(self._map, at, now_ns(), 0, step, code, size, number)
        return number

    def end(self, number: int) -> None:
        """Note that it has ended, unless it was overwritten already."""
        words, at = self._words, (number & CAPACITY - 1) * _WORDS
        if words[at + 5] == number:
            words[at + 1] = now_ns()

    def close(self, number: int, *, size: int = 0, failed: bool = False) -> None:
        """Do the same, and say how large it turned out to be, or that it failed."""
        words, at = self._words, (number & CAPACITY - 1) * _WORDS
        if words[at + 5] == number:
            words[at + 1] = now_ns()
            if size:
                words[at + 4] = size
            if failed:
                words[at + 3] |= FAILED

    def add(self, code: int, begin: int, end: int, step: int = 0, size: int = 0) -> None:
        """Note something that is over."""
        number = self._next()
        at = _HEAD.size + (number & CAPACITY - 1) * _SIZE
        _pack(self._map, at, begin, end, step, code, size, number)

    def add_all(self, notes: Iterable[tuple[int, int, int, int, bool]]) -> None:
        """Note things that are over: begin, end, step, code, and whether it failed."""
        next_number, words = self._next, self._map
        for begin, end, step, code, failed in notes:
            number = next_number()
            at = _HEAD.size + (number & CAPACITY - 1) * _SIZE
            _pack(words, at, begin, end, step, code | FAILED if failed else code, 0, number)

    def is_complete(self, until: int) -> None:
        """Say that all is noted that was done until that moment; FOREVER while nothing is done."""
        self._until[0] = until


def _allocate(file: int) -> None:
    """Give the file its size and its space on the disk.

    Raises:
        OSError: there is no space; the file is then one for :func:`has_no_space`.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, _BYTES)
        else:  # macOS
            written = os.write(file, bytes(_BYTES))
            if written < _BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        os.ftruncate(file, _NO_SPACE)  # a hole, which takes no space
        raise


def has_no_space(path: Path) -> bool:
    """Return True if a task could not record anything for want of space on the disk."""
    try:
        return path.stat().st_size == _NO_SPACE
    except OSError:
        return False


def complete_until(path: Path) -> int:
    """Return until when a task has noted all that it did; 0 if it does not note anything."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
    except FileNotFoundError:
        return 0
    return int(_HEAD.unpack(head)[0]) if len(head) == _HEAD.size else 0


def read_notes(path: Path, since: int = 0) -> Notes:
    """Return what a task has noted that ended, or may have, after the moment ``since``.

    The task may be writing, or may have been killed at any moment.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:  # it never came so far, or its runtime notes nothing
        return Notes([], 0)
    codes = [_names(line) for line in data[_BYTES:].split(b"\n")[:-1]]
    records = [record for record in _RECORD.iter_unpack(data[_HEAD.size : _BYTES]) if record[5]]
    last = max((record[5] for record in records), default=0)
    oldest = max(0, last + _TORN - CAPACITY)
    whole = sorted((r for r in records if r[5] > oldest), key=lambda record: record[5])
    found = []
    for begin, end, step, code, size, _ in whole:
        if end and end < since:
            continue
        number = code & (FAILED - 1)
        kind, name, place = codes[number] if number < len(codes) else codes[0]
        failed = bool(code & FAILED)
        found.append(Note(kind, name, place, begin, end or None, step, size, failed))
    return Notes(found, oldest if whole and whole[0][0] > since else 0)


def _names(line: bytes) -> tuple[str, str, str]:
    kind, name, place = json.loads(line)
    return kind, name, place
