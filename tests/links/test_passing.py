"""What passes a link as long as nothing is wrong with it: bytes, ends, resets, in order."""

from __future__ import annotations

import errno
import hashlib
import select
import socket

import pytest

from pytest_localcluster._clock import Deadline, poll

from .conftest import RESET, Line, in_thread, is_reset, read, serve_at


def test_bytes_pass_both_ways_and_ends_by_side(line: Line) -> None:
    near, far = line.pair()
    near.sendall(b"question")
    assert read(far, 8) == b"question"
    near.shutdown(socket.SHUT_WR)
    assert far.recv(1) == b""
    far.sendall(b"answer")  # the other direction lives on
    assert read(near, 6) == b"answer"
    far.close()
    assert near.recv(1) == b""
    assert poll(lambda: line.links.connections() == 0, Deadline(20))


def test_a_reset_is_passed_on_after_what_came_before_it(line: Line) -> None:
    for ours, theirs in ((0, 1), (1, 0)) * 20:
        ends = line.pair()
        ends[ours].sendall(b"last words")
        ends[ours].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        ends[ours].close()
        assert read(ends[theirs], 10) == b"last words"
        assert is_reset(ends[theirs])
    assert poll(lambda: line.links.connections() == 0, Deadline(20))


def test_who_goes_without_reading_resets_the_sender(line: Line) -> None:
    near, far = line.pair()
    far.shutdown(socket.SHUT_WR)
    assert near.recv(1) == b""
    far.close()

    def refused() -> bool:
        try:
            near.send(b"anybody there?")
        except (ConnectionResetError, BrokenPipeError):
            return True
        return False

    assert poll(refused, Deadline(20))
    assert poll(lambda: line.links.connections() == 0, Deadline(20))


def test_what_nobody_accepts_is_reset(line: Line) -> None:
    line.listener.close()
    with pytest.raises(ConnectionResetError):  # it may be so quick that it is not even up
        line.dial().recv(1)
    line.listener = line.undo.enter_context(serve_at(line.target))
    near, far = line.pair()  # a restarted task is found at once
    near.sendall(b"x")
    assert far.recv(1) == b"x"


@pytest.mark.parametrize("listens", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("dials", ["127.0.0.1", "::1"])
def test_either_loopback_address_leads_to_either(line: Line, listens: str, dials: str) -> None:
    line.listener.close()
    try:
        line.listener = line.undo.enter_context(serve_at(line.target, listens))
        near = line.dial(dials)
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise
        pytest.skip("no IPv6 here")
    near.sendall(b"x")
    assert line.accept().recv(1) == b"x"


def test_a_slow_reader_slows_the_sender_and_nobody_else(line: Line) -> None:
    near, far = line.pair()
    other_near, other_far = line.pair()
    near.setblocking(False)
    sent, digest, chunk = 0, hashlib.sha256(), bytes(range(256)) * 4096

    def full() -> bool:
        nonlocal sent
        while select.select((), [near], (), 0.2)[1]:
            count = near.send(chunk[sent % 256 :])
            digest.update(chunk[sent % 256 :][:count])
            sent += count
        return True

    assert full()
    assert sent < 256 << 20, "somebody has it all in memory"
    other_near.sendall(b"still quick")
    assert read(other_far, 11) == b"still quick"
    near.shutdown(socket.SHUT_WR)
    received = hashlib.sha256()
    while data := far.recv(1 << 20):
        received.update(data)
    assert received.digest() == digest.digest()


def test_many_bytes_both_ways_at_once_come_in_order(line: Line) -> None:
    near, far = line.pair()
    there, back = bytes(range(251)) * 120_000, bytes(range(241)) * 120_000
    threads = [in_thread(lambda: near.sendall(there)), in_thread(lambda: far.sendall(back))]
    got: dict[str, bytes] = {}
    threads.append(in_thread(lambda: got.update(near=read(near, len(back)))))
    threads.append(in_thread(lambda: got.update(far=read(far, len(there)))))
    for thread in threads:
        thread.join(60)
    assert got["near"] == back
    assert got["far"] == there
