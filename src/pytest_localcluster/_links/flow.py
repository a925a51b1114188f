"""Runs where the relays run: the bytes of one connection, in each direction.

A connection has two sockets, its *ends*: one that a relay accepted, one that it made to the
target. Two *flows* carry bytes between them. What they promise:

- Order is kept, and the end comes last: FIN is passed on by side, so that the other direction
  lives on; a reset is passed on as a reset, after what came before it.
- Memory is bounded. What the sink does not take keeps the flow from reading; the sender then waits
  in its own kernel, as with any slow reader. On a slowed link up to ``_UNDERWAY`` bytes a flow are
  on their way; beyond that it is as slow as a long line with a window of that size.
- A held flow neither reads nor writes nor looks, so that nothing of one end is seen at the other:
  no byte, no end, no reset. The kernels keep what there is.
- Bytes keep the time of their arrival, not of their departure: a link that is healed, or slowed
  further, treats what is under way like what comes next, and nothing is overtaken.

Bytes are copied: ``splice`` was measured, and gained nothing on loopback.
"""

from __future__ import annotations

import selectors
import socket
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from .._clock import now
from .loop import BUFFER, TOTAL

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["End", "Flow"]

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_UNDERWAY = 64 << 20
_LITTLE = 16 << 10
_ENTRY = 200  # what an entry of a queue takes besides its bytes


class End:
    """One socket of a connection."""

    __slots__ = ("connection", "gives", "sock", "takes", "watched")

    gives: Flow  # what is read from here
    takes: Flow  # what is written to here

    def __init__(self, connection: Connection, sock: socket.socket) -> None:
        sock.setblocking(False)
        with suppress(OSError):  # it may be broken already, which is noticed when it is read
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self.sock = sock
        self.watched = 0

    def watch(self) -> None:
        """Have the loop tell of just what is waited for here: also an error is told otherwise."""
        if self.connection.closed:
            return
        wanted = 0
        if not self.connection.held:
            if self.gives.wants_more():
                wanted |= _READ
            if self.takes.blocked:
                wanted |= _WRITE
        self.tell_of(wanted)

    def tell_of(self, wanted: int) -> None:
        selector = self.connection.loop.selector
        if wanted == self.watched:
            return
        if not wanted:
            selector.unregister(self.sock)
        elif self.watched:
            selector.modify(self.sock, wanted, self.happened)
        else:
            selector.register(self.sock, wanted, self.happened)
        self.watched = wanted

    def happened(self, events: int) -> None:
        # What was dealt with just before may have changed what is waited for.
        if events & _WRITE & self.watched:
            self.takes.flush()
        if events & _READ & self.watched:
            self.gives.read()


class Flow:
    """One direction of a connection."""

    __slots__ = (
        "alarm",
        "blocked",
        "broken",
        "connection",
        "ended",
        "queue",
        "reset",
        "shut",
        "sink",
        "size",
        "source",
    )

    def __init__(self, source: End, sink: End) -> None:
        self.connection = source.connection
        self.source = source
        self.sink = sink
        # When it came, and what; an empty one is the end.
        self.queue: deque[tuple[float, memoryview]] = deque()
        self.size = 0
        self.blocked = False  # the sink takes no more for now
        self.ended = False  # the source gives no more
        self.reset = False  # and that was a reset
        self.shut = False  # the sink has been told
        self.broken = False  # the sink is gone: nobody is left to tell
        self.alarm: float | None = None

    @property
    def back(self) -> Flow:
        """The other direction."""
        return self.sink.gives

    def wants_more(self) -> bool:
        if self.ended or self.size >= (_UNDERWAY if self.connection.delay else 1):
            return False
        loop = self.connection.loop
        if self.size and loop.waiting >= TOTAL:
            loop.starved.add(self)
            return False
        return True

    def read(self) -> None:
        loop = self.connection.loop
        room = BUFFER if loop.waiting < TOTAL else _LITTLE
        try:
            received = self.source.sock.recv_into(loop.buffer, room)
        except BlockingIOError:
            return
        except OSError:
            self.reset = True
            received = 0
        data = loop.buffer[:received]
        if received and not self.queue and not self.connection.delay:
            try:
                sent = self.sink.sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.fail()
                return
            if sent == received:
                return
            data = data[sent:]
        self.ended = not received
        self.queue.append((now(), memoryview(bytes(data))))
        self.grow(len(data) + _ENTRY)
        self.flush()

    def grow(self, size: int) -> None:
        self.size += size
        self.connection.loop.waiting += size

    def flush(self) -> None:
        """Send what is due, as far as the sink takes it."""
        if self.connection.held or self.connection.closed:
            return
        self.blocked = False
        while self.queue:
            arrival, data = self.queue[0]
            due = arrival + self.connection.delay
            if due > now():
                self.wake_at(due)
                break
            if not data:
                self.pop(0)
                self.conclude()
                return
            try:
                sent = self.sink.sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.fail()
                return
            if sent < len(data):
                self.queue[0] = arrival, data[sent:]
                self.grow(-sent)
                self.blocked = True
                break
            self.pop(sent)
        self.source.watch()
        self.sink.watch()

    def pop(self, size: int) -> None:
        self.queue.popleft()
        self.size -= size + _ENTRY
        self.connection.loop.release(size + _ENTRY)

    def wake_at(self, due: float) -> None:
        if self.alarm is None or due < self.alarm:
            self.alarm = due
            self.connection.loop.set_alarm(due, self)

    def ring(self) -> None:
        self.alarm = None
        self.flush()

    def conclude(self) -> None:
        """Pass the source's end on."""
        if self.reset or self.back.broken:
            self.connection.reset()
            return
        try:
            self.sink.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.connection.reset()
            return
        self.shut = True
        if self.back.shut:
            self.connection.close()
        else:
            self.source.watch()
            self.sink.watch()

    def fail(self) -> None:
        """The sink takes nothing any more; what it gave before still goes to the source."""
        self.clear()
        self.ended = self.broken = True
        self.blocked = False
        back = self.back
        if back.shut:
            self.connection.reset()
            return
        self.source.watch()
        self.sink.watch()  # the end of what it gives will be passed on as a reset

    def clear(self) -> None:
        self.queue.clear()
        size, self.size = self.size, 0
        self.connection.loop.starved.discard(self)
        self.connection.loop.release(size)
