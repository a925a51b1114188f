"""What a task notes is there for others, whatever becomes of the task."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic_ns

import psutil
import pytest

from pytest_localcluster import _ring
from pytest_localcluster._ring import CAPACITY, Note, Ring, has_no_space, read_notes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "it.notes"


@pytest.fixture
def ring(path: Path) -> Ring:
    return Ring(str(path))


def test_what_is_noted_is_found(ring: Ring, path: Path) -> None:
    before = monotonic_ns()
    step = ring.begin(ring.code("step", "loss:0", ""), 7)
    ring.add(ring.code("op", "add", "/device:CPU:0"), before, before + 5, 7)
    part = ring.begin(ring.code("part", "", "/job:ps/task:0"), 7)
    ring.close(part, size=12, failed=True)
    ring.end(step)
    ring.begin(ring.code("recv", "x:0", ""), 8)
    first, op, second, open_one = read_notes(path).found
    assert first[:3] == ("step", "loss:0", "")
    assert before <= first.begin <= second.begin <= (second.end or 0) <= (first.end or 0)
    assert op == Note("op", "add", "/device:CPU:0", before, before + 5, 7, 0, False)
    assert (second.size, second.failed, first.failed) == (12, True, False)
    assert (open_one.end, open_one.step) == (None, 8)


def test_the_last_ones_are_kept_and_the_others_counted(ring: Ring, path: Path) -> None:
    code = ring.code("op", "one", "")
    early = ring.begin(code)
    for number in range(CAPACITY + 1000):
        ring.add(code, 1, 2, size=number)
    ring.end(early)  # it has been overwritten, and what took its place is left alone
    found, lost = read_notes(path)
    assert found[-1].size == CAPACITY + 999
    assert [note.size for note in found] == list(range(found[0].size, CAPACITY + 1000))
    assert CAPACITY - 100 < len(found) <= CAPACITY
    assert lost + len(found) == CAPACITY + 1001


def test_what_was_over_before_is_not_asked_for(ring: Ring, path: Path) -> None:
    code = ring.code("op", "one", "")
    ring.add(code, 10, 20)
    ring.add(code, 10, 30)
    ring.begin(code)
    assert [note.end for note in read_notes(path, since=25).found] == [30, None]


def test_names_may_be_anything(ring: Ring, path: Path) -> None:
    names = ["a\nb", "\udc80", "</script>", "x" * 5000, ""]
    for name in names:
        ring.add(ring.code("op", name, name), 1, 2)
    found = [note.name for note in read_notes(path).found]
    assert found == [*names[:3], "x" * 200, ""]


def test_too_many_names_are_one(ring: Ring, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ring, "_CODES", 3)
    for name in "abcb":
        ring.add(ring.code("op", name, ""), 1, 2)
    assert [note.name for note in read_notes(path).found] == [
        "a",
        "b",
        "(name not recorded)",
        "b",
    ]


def test_threads_do_not_disturb_each_other(ring: Ring, path: Path) -> None:
    def write(mine: int) -> None:
        code = ring.code("op", f"of {mine}", "")
        for number in range(2000):
            ring.close(ring.begin(code, mine), size=number + 1)

    threads = [threading.Thread(target=write, args=(one,)) for one in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_notes(path).found
    for one in range(1, 5):
        own = [note for note in found if note.step == one]
        assert {note.name for note in own} == {f"of {one}"}
        assert [note.size for note in own] == list(range(1, 2001))


def test_a_sigkill_loses_nothing(path: Path) -> None:
    code = (
        "import os, signal, sys; from pytest_localcluster._ring import Ring\n"
        "ring = Ring(sys.argv[1]); code = ring.code('op', 'last', '')\n"
        "for n in range(100): ring.add(code, 1, 2, n)\n"
        "ring.begin(code, 100)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    found = read_notes(path).found
    assert [note.step for note in found] == list(range(101))
    assert found[-1].end is None


def test_half_a_record_is_not_taken_for_one(ring: Ring, path: Path) -> None:
    for _ in range(CAPACITY):
        ring.add(ring.code("op", "whole", ""), 5, 6)
    # The next one takes the place of the first; its writer dies before it comes to the number.
    with path.open("r+b") as file:
        file.seek(8 + 1 * 48)
        file.write(b"\xff" * 24)
    found = read_notes(path).found
    assert {(note.name, note.begin, note.end) for note in found} == {("whole", 5, 6)}


def open_files() -> set[tuple[int, str]]:
    """Return the files that this process has open; without how far, which for stdout changes."""
    return {(file.fd, file.path) for file in psutil.Process().open_files()}


def test_a_file_that_is_there_is_nobodys_to_overwrite(path: Path) -> None:
    path.write_text("mine")
    before = open_files()
    with pytest.raises(FileExistsError):
        Ring(str(path))
    assert path.read_text() == "mine"
    assert open_files() == before


def test_a_task_that_noted_nothing(path: Path) -> None:
    assert read_notes(path).found == []
    path.write_bytes(b"")
    assert read_notes(path).found == []


def limited_ring(path: Path, limit: int, rest: str = "") -> subprocess.CompletedProcess[str]:
    """Make a ring in a process whose files can have ``limit`` bytes, as on a disk that is full."""
    code = (
        "import resource, sys; from pytest_localcluster._ring import Ring\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "ring = Ring(sys.argv[1])\n" + rest
    )
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_without_space_nothing_is_recorded(path: Path) -> None:
    done = limited_ring(path, 4096)
    assert done.returncode == 1, "SIGBUS would be -7"
    assert "OSError" in done.stderr
    assert has_no_space(path)
    assert read_notes(path).found == []


def test_without_space_for_names_records_go_on_without_them(path: Path, ring: Ring) -> None:
    whole = path.stat().st_size
    path.unlink()
    done = limited_ring(
        path,
        whole + 40,
        "ring.add(ring.code('op', 'a', ''), 1, 2)\n"
        "ring.add(ring.code('op', 'x' * 100, ''), 3, 4)\n"
        "ring.add(ring.code('op', 'b', ''), 5, 6)\n",
    )
    assert done.returncode == 0, done.stderr
    assert not has_no_space(path)
    assert [note.name for note in read_notes(path).found] == ["a", *["(name not recorded)"] * 2]
