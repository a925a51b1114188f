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


class Screen:
    """Collects what is shown; ``full`` is set once ``wanted`` characters have come."""

    def __init__(self, wanted: int = 1) -> None:
        self.text = ""
        self.longest = 0
        self.full = threading.Event()
        self._wanted = wanted

    def write(self, text: str) -> None:
        self.text += text
        self.longest = max(self.longest, len(text))
        if len(self.text) >= self._wanted:
            self.full.set()


def append(log: TaskLog, data: bytes) -> None:
    with log.path.open("ab") as file:
        file.write(data)


def test_following_counts_bytes_and_not_characters(log: TaskLog) -> None:
    screen = Screen(len("> a\N{REPLACEMENT CHARACTER}b\n"))
    follower = follow([(">", log)], screen.write)
    append(log, b"a\xffb\n")  # shown in three bytes more than it has here
    assert screen.full.wait(10)
    append(log, b"the whole line\n")
    follower.close()
    assert screen.text == "> a\N{REPLACEMENT CHARACTER}b\n> the whole line\n"


def test_following_joins_a_character_that_was_written_in_two_parts(log: TaskLog) -> None:
    screen = Screen(len("> one\n"))
    follower = follow([(">", log)], screen.write)
    data = "Grüße\n".encode()
    append(log, b"one\n" + data[:3])  # within the ü
    assert screen.full.wait(10)
    append(log, data[3:])
    follower.close()
    assert screen.text == "> one\n> Grüße\n"


def test_following_shows_all_of_a_long_log_in_pieces(log: TaskLog) -> None:
    screen = Screen()
    follower = follow([(">", log)], screen.write)
    lines = [f"line {n}" for n in range(500_000)]
    append(log, ("\n".join(lines) + "\n").encode())
    follower.close()
    assert screen.text == "".join(f"> {line}\n" for line in lines)
    assert screen.longest < 1 << 18


def test_a_line_without_an_end_is_shown_in_parts(log: TaskLog) -> None:
    screen = Screen()
    follower = follow([(">", log)], screen.write)
    append(log, b"x" * 1_000_000)
    follower.close()
    assert screen.text.count("x") == 1_000_000
    assert max(map(len, screen.text.splitlines())) < 70_000


def test_an_output_that_takes_nothing_is_given_up_with_a_count(
    log: TaskLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_localcluster._logs._STALLED", 0.05)
    begun, goes_on, screen = threading.Event(), threading.Event(), Screen()

    def write(text: str) -> None:
        begun.set()
        goes_on.wait()
        screen.write(text)

    follower = follow([(">", log)], write)
    append(log, b"x\n" * 100_000)
    assert begun.wait(10)
    follower.close()
    goes_on.set()
    follower._thread.join()
    last = screen.text.splitlines()[-1]
    left_out = int(last.split()[1].lstrip("("))
    assert left_out == 200_000 - 2 * screen.text.count("> x\n")
    assert left_out > 0
    assert "bytes left out: nothing could be written for" in last


def test_what_was_removed_before_it_was_shown_is_counted(log: TaskLog) -> None:
    screen = Screen(len("> one\n"))
    follower = follow([(">", log)], screen.write)
    append(log, b"one\n")
    assert screen.full.wait(10)
    follower.pause()
    append(log, b"x" * (3 << 20) + b"\nend\n")
    log.remove()
    follower.close()
    assert screen.text.splitlines()[1].startswith(f"> ({(2 << 20) + 5} bytes left out: the log was")
    assert screen.text.endswith("> end\n")


def test_a_log_that_was_emptied_is_shown_from_its_new_beginning(log: TaskLog) -> None:
    screen = Screen(len("> one, and more of it\n"))
    follower = follow([(">", log)], screen.write)
    append(log, b"one, and more of it\n")
    assert screen.full.wait(10)
    log.path.write_bytes(b"two\n")
    follower.close()
    assert screen.text == "> one, and more of it\n> two\n"
