"""Links that are held, cut or slowed, and healed again."""

from __future__ import annotations

import select
import socket

import pytest

from pytest_localcluster import PortError, lease_port
from pytest_localcluster._clock import now
from pytest_localcluster._links import UNTROUBLED, Condition, Links

from .conftest import RESET, Line, in_thread, is_reset, read, serve_at, silent

HELD, CUT = Condition(held=True), Condition(cut=True)


def test_nothing_passes_a_held_link_and_all_of_it_comes_later(line: Line) -> None:
    near, far = line.pair()
    near.sendall(b"before")
    assert read(far, 6) == b"before"
    line.become(HELD)
    near.sendall(b"during")
    far.sendall(b"too")
    late = line.dial()  # it comes up, and gets nowhere
    late.sendall(b"late")
    assert silent(near, far, late, line.listener)
    line.become(UNTROUBLED)
    assert read(far, 6) == b"during"
    assert read(near, 3) == b"too"
    assert read(line.accept(), 4) == b"late"


@pytest.mark.parametrize("how", ["reset", "end"])
def test_an_end_does_not_pass_a_held_link_either(line: Line, how: str) -> None:
    near, far = line.pair()
    line.become(HELD)
    far.sendall(b"bye")
    if how == "reset":
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    far.close()
    assert silent(near)
    line.become(UNTROUBLED)
    assert read(near, 3) == b"bye"
    assert is_reset(near) if how == "reset" else near.recv(1) == b""


def test_a_cut_link_resets_what_there_is_and_refuses_what_is_new(line: Line) -> None:
    pairs = [line.pair() for _ in range(3)]
    line.become(CUT)
    assert all(is_reset(end) for pair in pairs for end in pair)
    with pytest.raises(ConnectionRefusedError):
        line.dial()
    with pytest.raises(OSError, match="refused|assign|family"):  # there may be no such address
        line.dial("::1")
    assert line.links.connections() == 0
    line.become(UNTROUBLED)
    near, far = line.pair()
    near.sendall(b"x")
    assert far.recv(1) == b"x"


def test_what_waits_before_a_held_link_is_reset_when_it_is_cut(line: Line) -> None:
    line.become(HELD)
    waiting = line.dial()
    line.become(Condition(cut=True, held=True))
    assert is_reset(waiting)
    line.become(HELD)  # one fault less: held again
    late = line.dial()
    late.sendall(b"x")
    assert silent(line.listener)
    line.become(UNTROUBLED)
    assert line.accept().recv(1) == b"x"


def test_a_port_that_was_taken_while_the_link_was_cut(line: Line) -> None:
    line.become(CUT)
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", line.port))
        stranger.listen()
        with pytest.raises(PortError, match=rf"port {line.port} of a link between tasks is taken"):
            line.become(UNTROUBLED)
        line.become(CUT)  # as it was all the time
    line.become(UNTROUBLED)
    near, far = line.pair()
    near.sendall(b"x")
    assert far.recv(1) == b"x"


def test_links_are_not_begun_at_a_port_that_is_taken() -> None:
    with (
        lease_port() as lease,
        serve_at(lease.port) as stranger,
        pytest.raises(PortError, match="is taken"),
    ):
        Links([(lease.port, stranger.getsockname()[1])])


def test_each_byte_comes_later_and_none_waits_for_another(line: Line) -> None:
    near, far = line.pair()
    line.become(Condition(delay=0.3))
    said: list[tuple[int, float]] = []
    heard: list[tuple[int, float]] = []

    def listen() -> None:
        while (data := far.recv(64)) != b"":
            heard.extend((number, now()) for number in data)

    listener = in_thread(listen)
    for number in range(20):
        said.append((number, now()))
        near.sendall(bytes([number]))
        assert not select.select([near], (), (), 0.005)[0]
    near.shutdown(socket.SHUT_WR)
    listener.join(60)
    assert [number for number, _ in heard] == [number for number, _ in said], "in order"
    assert all(there - here >= 0.3 for (_, here), (_, there) in zip(said, heard, strict=True))
    assert heard[-1][1] - said[0][1] < 20 * 0.3, "each waited for the one before it"


def test_the_end_and_the_answer_come_later_too(line: Line) -> None:
    near, far = line.pair()
    line.become(Condition(delay=0.15))
    began = now()
    near.sendall(b"x")
    near.shutdown(socket.SHUT_WR)
    assert far.recv(2) == b"x"
    assert far.recv(1) == b""
    assert now() - began >= 0.15
    far.sendall(b"y")
    assert near.recv(1) == b"y"
    assert now() - began >= 0.3


def test_a_slowed_link_is_as_wide_as_before(line: Line) -> None:
    near, far = line.pair()
    line.become(Condition(delay=0.2))
    data = bytes(32 << 20)
    sender = in_thread(lambda: near.sendall(data))
    began = now()
    assert read(far, len(data)) == data
    assert now() - began < 20, "a window of a few MiB would take as many delays"
    sender.join(20)


def test_what_is_under_way_takes_the_new_delay_in_order(line: Line) -> None:
    near, far = line.pair()
    line.become(Condition(delay=60))
    near.sendall(b"one")
    assert silent(far)
    line.become(Condition(delay=0.05))
    near.sendall(b"two")
    assert read(far, 6) == b"onetwo"
    line.become(Condition(delay=60))
    near.sendall(b"three")
    assert silent(far)
    line.become(HELD)
    line.become(Condition(delay=60, held=True))
    assert silent(far)
    line.become(UNTROUBLED)
    near.sendall(b"four")
    assert read(far, 9) == b"threefour"


def test_memory_has_a_bound_on_a_slowed_link_too(line: Line) -> None:
    near, _ = line.pair()
    line.become(Condition(delay=60))
    near.setblocking(False)
    chunk, sent = bytes(1 << 20), 0
    while select.select((), [near], (), 0.5)[1]:
        sent += near.send(chunk)
        assert sent < 256 << 20
    assert line.links._loop.waiting <= 66 << 20
    line.become(CUT)
    assert line.links._loop.waiting == 0


@pytest.mark.parametrize("condition", [UNTROUBLED, Condition(delay=0.01)])
def test_a_connection_that_ends_just_as_its_link_is_healed(
    line: Line, condition: Condition
) -> None:
    for _ in range(5):
        near, far = line.pair()
        line.become(Condition(delay=60))
        near.sendall(b"x")
        for end in (near, far):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.close()
        line.become(condition)
    near, far = line.pair()
    near.sendall(b"x")
    assert far.recv(1) == b"x"
