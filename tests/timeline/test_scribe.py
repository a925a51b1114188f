"""The scribe of a native task: it writes what it is left word of, and sleeps meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic_ns

import pytest

from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._ring import FOREVER, Note, Ring, complete_until, read_notes
from pytest_localcluster._runtimes.native.parts import Operation
from pytest_localcluster._runtimes.native.scribe import Scribe

Running = dict[int, tuple[int, Operation]]


@pytest.fixture
def operation() -> Operation:
    return Operation("add", "/device:CPU:0", lambda values: values, False, (), 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ring"


@pytest.fixture
def running() -> Running:
    return {}


@pytest.fixture
def scribe(path: Path, running: Running) -> Iterator[Scribe]:
    scribe = Scribe(Ring(str(path)), running, "scribe of a test")
    yield scribe
    scribe.stop()


def asleep(path: Path) -> bool:
    """Wait until the scribe sleeps; tell whether it does."""
    return poll(lambda: complete_until(path) == FOREVER, Deadline(20))


def has_operations(path: Path, count: int) -> bool:
    """Wait until so many are written down."""
    return poll(lambda: len(noted(path, "op")) == count, Deadline(20))


def noted(path: Path, kind: str) -> list[Note]:
    return [note for note in read_notes(path).found if note.kind == kind]


def test_it_sleeps_until_something_begins(scribe: Scribe, path: Path, operation: Operation) -> None:
    for step_id in range(1, 4):
        assert asleep(path)
        number = scribe.begin(scribe.ring.code("step", "", ""), step_id)
        assert complete_until(path) < FOREVER
        now = monotonic_ns()
        scribe.note((now, now, operation, step_id, False))
        assert has_operations(path, step_id)
        assert complete_until(path) < FOREVER  # while the step is under way
        scribe.close(number, failed=False)


def test_it_is_awake_while_something_runs(
    scribe: Scribe, path: Path, running: Running, operation: Operation
) -> None:
    """Also if that is of a step which has ended without it."""
    number = scribe.begin(scribe.ring.code("step", "", ""), 1)
    running[0] = 1, operation
    scribe.close(number, failed=True)
    assert poll(lambda: noted(path, "runs"), Deadline(20))
    assert complete_until(path) < FOREVER
    running.clear()
    assert asleep(path)
    (note,) = noted(path, "runs")
    assert note.end is not None


def test_nothing_is_lost_between_waking_and_sleeping(
    scribe: Scribe, path: Path, operation: Operation
) -> None:
    count, threads = 300, 4

    def work() -> None:
        for _ in range(count):
            number = scribe.begin(0, 1)
            scribe.note((1, 1, operation, 1, False))
            scribe.close(number, failed=False)
            scribe._bell.put(False)  # it looks now, and may fall asleep

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert asleep(path)
    assert len(noted(path, "op")) == count * threads
