"""TaskLog, and showing logs as they grow."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pytest_localcluster._logs import TaskLog, follow


@pytest.fixture
def log(tmp_path: Path) -> TaskLog:
    return TaskLog(tmp_path / "ps-0.log")


def test_only_the_owner_can_read_it(log: TaskLog) -> None:
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_tail_gives_whole_lines(log: TaskLog) -> None:
    log.write("".join(f"line {i}\n" for i in range(100)) + "no end")
    assert log.tail(2) == "line 99\nno end"
    assert log.tail(0) == ""
    assert log.tail(1000) == log.text()


def test_since_a_mark(log: TaskLog) -> None:
    log.write("before é\n")
    mark = log.mark()
    log.write("after\n")
    assert log.since(mark) == "after\n"


def test_bytes_that_are_no_text_are_shown_as_such(log: TaskLog) -> None:
    log.path.write_bytes(b"a\xffb\n")
    assert log.text() == "a\N{REPLACEMENT CHARACTER}b\n"


def test_stays_readable_when_the_file_is_gone(log: TaskLog) -> None:
    log.write("x" * (1 << 20) + "the last words\n")
    mark = log.mark()
    log.remove()
    log.remove()
    assert not log.path.exists()
    assert log.mark() == mark
    assert log.tail(1).endswith("the last words\n")
    assert log.since(mark - 6) == "words\n"


def test_following_shows_what_comes_by_lines_and_the_rest_at_the_end(log: TaskLog) -> None:
    log.write("old\n")
    shown: list[str] = []
    first = threading.Event()

    def write(text: str) -> None:
        shown.append(text)
        first.set()

    follower = follow([("[ps/0]", log)], write)
    log.write("one\ntw")
    assert first.wait(10)
    log.write("o\nhalf")
    follower.close()
    follower.close()
    assert shown == ["[ps/0] one\n", "[ps/0] two\n", "[ps/0] half\n"]
