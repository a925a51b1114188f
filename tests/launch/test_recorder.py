"""Records on the control socket of a task: whole, in order, and never in the way."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from pytest_localcluster._clock import Deadline, now
from pytest_localcluster._launch import recorder, wire
from pytest_localcluster._launch.recorder import Outgoing


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


Ends = tuple[socket.socket, socket.socket]


def test_nobody_waits_for_who_takes_nothing(ends: Ends) -> None:
    outgoing = Outgoing(ends[0])
    posted = 0
    while outgoing.post("logged", posted, b"x" * 5000, seconds=0.05):
        posted += 1
    began = now()
    for _ in range(100):
        assert not outgoing.post("logged", -1, b"x" * 5000)
    assert now() - began < recorder._PATIENCE, "only the first one waits"
    for number in range(posted):
        assert wire.receive(ends[1], Deadline(5))[1] == number
    assert outgoing.post("logged", posted), "who has begun to read again is told at once"
    assert wire.receive(ends[1], Deadline(5))[1] == posted


def test_a_message_that_was_begun_is_ended_before_the_next(ends: Ends) -> None:
    outgoing = Outgoing(ends[0])
    large = bytes(4 << 20)
    assert outgoing.post("logged", 1, large, seconds=0.05), "it was begun"
    assert not outgoing.post("logged", 2, b"", seconds=0.05)
    answered = threading.Thread(target=outgoing.send, args=("returned", 3))
    answered.start()
    assert wire.receive(ends[1], Deadline(20)) == ("logged", 1, large)
    assert wire.receive(ends[1], Deadline(20)) == ("returned", 3)
    answered.join()


def test_what_a_signal_says_while_a_message_is_sent(ends: Ends) -> None:
    outgoing = Outgoing(ends[0])
    heard = threading.Event()

    def hear(*_: object) -> None:
        assert outgoing.post("logged", 2)
        heard.set()
        threading.Thread(target=read, daemon=True).start()

    messages: list[tuple[object, ...]] = []
    done = threading.Event()

    def read() -> None:
        messages.extend(wire.receive(ends[1], Deadline(20)) for _ in range(2))
        done.set()

    before = signal.signal(signal.SIGALRM, hear)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        outgoing.send("returned", 1, bytes(4 << 20))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert heard.is_set()
    assert done.wait(20)
    assert [message[:2] for message in messages] == [("returned", 1), ("logged", 2)]


def test_a_signal_that_raises_leaves_nothing_locked(ends: Ends) -> None:
    outgoing = Outgoing(ends[0])

    class Late(Exception):
        pass

    def late(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Late):
            outgoing.send("returned", 1, bytes(4 << 20))
    finally:
        signal.signal(signal.SIGALRM, before)
    answered = threading.Thread(target=outgoing.send, args=("returned", 2))
    answered.start()
    assert [wire.receive(ends[1], Deadline(20))[1] for _ in range(2)] == [1, 2]
    answered.join()


def test_the_end_of_the_test_process_is_no_error_of_the_task(ends: Ends) -> None:
    import logging

    writer = recorder.Recorder(Outgoing(ends[0]))
    ends[1].close()
    writer.log(logging.makeLogRecord({"msg": "to nobody", "levelno": logging.INFO}))
