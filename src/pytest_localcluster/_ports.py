"""PortLease: a port that nobody else on this machine gets until it is given back.

A lease is a socket that holds the port. It is bound exclusively (without SO_REUSEADDR, so the
bind fails if anybody has the port in any way), and only then SO_REUSEADDR is set on it; it never
listens. From there on the kernel refuses the port to every ``bind(0)``, every outgoing
connection, every plain bind and every second lease, in any process. Yet a server that sets
SO_REUSEADDR itself, as gRPC and nearly all do, may bind and listen on it, stop, and come back.
There is no lock file and no moment in which the port is free, and death gives it back.

Left open: a stranger that names exactly this port and sets SO_REUSEADDR can listen first. The
server's own bind then fails, and the cluster is started once more with other ports.

A server that does not set SO_REUSEADDR is refused like everybody else. For it the lease moves aside
(:meth:`PortLease.hand_over`): to an IPv6 address that no machine has, which conflicts with a bind
to ``::`` and with no other address. The kernel still gives the port to no outgoing connection, and
every other lease, which binds ``::``, is still refused; open is the port to those that bind it by
name, or bind port 0, at an IPv4 address or ``::1``. Only a server that binds ``::`` itself needs
the port to be free. Both moves leave no moment in between, and are made for no server that can do
without.

Where a system does not treat SO_REUSEADDR like that, the lease lets go of the port just before
the server binds it, and the same retry covers the gap.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import functools
import os
import re
import socket
import threading
import weakref
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Self

from . import _held
from ._core.forks import inherited, owner_only
from ._core.listeners import holder_of
from ._core.sockets import need_sockets
from .errors import PortError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["Binding", "PortLease", "configure", "lease_port", "lease_ports", "system_holds_ports"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

_TRIES = 64
_lock = threading.Lock()  # portpicker's tables and our cursor are not safe across threads
_range: _Range | None = None


class Binding(enum.IntEnum):
    """How a server binds its port; each value needs more room at the port than the one before."""

    REUSE = 0
    """With SO_REUSEADDR, at any address."""

    PLAIN = 1
    """Without, at an IPv4 address, ``0.0.0.0`` included, or at ``::1``."""

    WILDCARD = 2
    """Without, at ``::``, or anything else."""


class PortLease:
    """A port held for whoever has this lease; a context manager.

    A server that sets SO_REUSEADDR binds the port as it is. For one that does not there is
    :meth:`bound_socket`, and :meth:`handed_over` if it will take no socket.

    Attributes:
        port: the port number.
        address: ``localhost:port``.
    """

    def __init__(self, port: int, holder: socket.socket, *, picked: bool) -> None:
        self.port = port
        self.address: str = f"localhost:{port}"
        self._holder: socket.socket | None = holder
        self._binding = Binding.REUSE  # what the holder leaves room for
        self._picked = picked
        self._released = False
        self._owner = os.getpid()
        owner = _held.owner()
        dropped = None if owner is not None else partial(_is_dropped, weakref.ref(self))
        self._held = _held.hold(
            f"the lease of port {port}",
            alive=dropped,
            remedy="release() it, use it in a with statement, or take the fixture lease_port",
        )

    @property
    def held(self) -> bool:
        """Whether the kernel keeps the port for us at this moment, at every address."""
        return self._holder is not None and self._binding is Binding.REUSE

    @property
    def descriptors(self) -> list[int]:
        """The descriptor that holds the port, if one does."""
        return [] if self._holder is None else [self._holder.fileno()]

    @owner_only
    def bound_socket(self, host: str = "127.0.0.1") -> socket.socket:
        """Return a new TCP socket that is bound to the port, ready for ``listen()``.

        The port stays held meanwhile and afterwards. With :mod:`socketserver`, say::

            server = TCPServer((host, lease.port), Handler, bind_and_activate=False)
            server.socket.close()
            server.socket = lease.bound_socket()
            server.server_activate()

        Args:
            host: the address to bind, of IPv4 or IPv6.

        Raises:
            PortError: the port was released, or somebody listens on it.
            OSError: this machine has no such address.
        """
        if self._released:
            raise PortError(
                f"port {self.port} was released", remedy="take the socket before release()"
            )
        if not system_holds_ports():
            self.hand_over()
        bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, self.port))
        except OSError as error:
            bound.close()
            if error.errno != errno.EADDRINUSE:
                raise
            raise self._taken("is in use") from None
        return bound

    @owner_only
    @contextlib.contextmanager
    def handed_over(self, *, wildcard: bool = False) -> Iterator[Self]:
        """Let a program bind the port that does not set SO_REUSEADDR, in a ``with`` block.

        Start the program in the block, and leave the block when it listens. In the block a stranger
        that names this port, or that binds port 0 of an IPv4 address and happens to be given it,
        can have it before the program. Outgoing connections and other leases do not get it. After
        the block it is held again, at every address as soon as the program has ended and
        :meth:`take_back` is called.

        Args:
            wildcard: whether the program binds ``::``, for which the port is not held at all in the
                block; otherwise it binds an IPv4 address or ``::1``.
        """
        self.hand_over(Binding.WILDCARD if wildcard else Binding.PLAIN)
        try:
            yield self
        finally:
            if not self._released:
                with contextlib.suppress(PortError):  # the program has it, as it should
                    self.take_back()

    @owner_only
    def hand_over(self, binding: Binding = Binding.REUSE) -> None:
        """Make way for the server: call it just before the server binds the port.

        Where the system lets a server bind a leased port this does nothing for one that sets
        SO_REUSEADDR.

        Args:
            binding: how the server binds.
        """
        if not system_holds_ports():
            binding = Binding.WILDCARD
        if self._holder is None or binding <= self._binding:
            return
        aside = _hold_aside(self.port) if binding is Binding.PLAIN else None
        self._holder.close()
        self._holder, self._binding = aside, binding

    @owner_only
    def take_back(self) -> None:
        """Hold the port again after :meth:`hand_over`, when the server is gone.

        Raises:
            PortError: somebody else has it, or connections of the server linger there.
        """
        if self._released or self.held:
            return
        # What is held aside is kept until the port is held again: there is no moment in between.
        holder = _hold(self.port, beside=self._holder is not None)
        if holder is None:
            raise self._taken("was taken while its server was down")
        if self._holder is not None:
            self._holder.close()
        self._holder, self._binding = holder, Binding.REUSE

    def _taken(self, how: str) -> PortError:
        return PortError(
            f"port {self.port} {how}",
            status=holder_of(self.port) or None,
            remedy="take another port: a cluster that is started again has fresh ones",
        )

    @owner_only
    def release(self) -> None:
        """Give the port back. Idempotent."""
        if self._released:
            return
        self._released = True
        self._held.give_back()
        if self._holder is not None:
            self._holder.close()
            self._holder = None
        if self._picked:
            _return_port(self.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        if not inherited(self):
            self.release()

    def __repr__(self) -> str:
        state = "released" if self._released else "held" if self.held else "handed over"
        return f"<PortLease {self.address}: {state}>"


def _is_dropped(lease: weakref.ref[PortLease]) -> bool:
    # Whoever still has it may mean to; a lease that nobody can release any more is lost.
    return lease() is None


def lease_port() -> PortLease:
    """Lease a free port.

    Returns:
        The lease; the port is yours until ``release()``, the end of its ``with`` block, or the
        end of this process.

    Raises:
        PortError: no port is free.
        ImportError: portpicker cannot be imported.
    """
    with _lock, need_sockets("a leased port"):
        picked = _range is None
        for port in _range.candidates() if _range is not None else _picks():
            holder = _hold(port)
            if holder is not None:
                if _range is not None:
                    _range.cursor = port + 1
                return PortLease(port, holder, picked=picked)
            if picked:
                _return_port(port)
    if _range is not None:
        raise PortError(
            f"none of the {len(_range)} ports of {_range} is free",
            remedy="give --cluster-port-range more ports, or end what holds them",
        )
    raise PortError(f"{_TRIES} ports were picked, and each was taken before it could be held")


def lease_ports(count: int) -> list[PortLease]:
    """Lease ``count`` free ports, all or none."""
    leases: list[PortLease] = []
    try:
        leases.extend(lease_port() for _ in range(count))  # one by one, so all are known
    except BaseException:
        for lease in leases:
            lease.release()
        raise
    return leases


def configure(ports: tuple[int, int] | None) -> None:
    """Lease ports from ``(low, high)``, both included; None goes back to portpicker.

    Each worker of a pytest-xdist run starts at a stripe of its own, so that they do not try the
    same ports one after the other; what keeps them apart is the lease.
    """
    global _range
    with _lock:
        _range = None if ports is None else _Range(*ports)


class _Range:
    """The ports from ``low`` to ``high``, tried in turn."""

    def __init__(self, low: int, high: int) -> None:
        if not 0 < low <= high < 65536:
            raise PortError(
                f"{low}-{high} is no range of ports", remedy="write LOW-HIGH, within 1-65535"
            )
        self.low, self.high = low, high
        self.cursor = low + _stripe(len(self))

    def candidates(self) -> Iterator[int]:
        start = self.cursor if self.low <= self.cursor <= self.high else self.low
        return iter(chain(range(start, self.high + 1), range(self.low, start)))

    def __len__(self) -> int:
        return self.high - self.low + 1

    def __str__(self) -> str:
        return f"{self.low}-{self.high}"


def _stripe(size: int) -> int:
    """Return how far into a range of ``size`` ports this xdist worker begins."""
    name = re.fullmatch(r"gw(\d+)", os.environ.get("PYTEST_XDIST_WORKER", ""))
    count = os.environ.get("PYTEST_XDIST_WORKER_COUNT", "")
    if name is None or not count.isdigit() or count == "0":
        return 0
    # A crashed worker's successor has a number beyond the count.
    return size * (int(name[1]) % int(count)) // int(count)


def _picks() -> Iterator[int]:
    import portpicker  # here, since only who needs a port needs it

    for _ in range(_TRIES):
        try:
            yield portpicker.pick_unused_port()
        except portpicker.NoFreePortFoundError:
            try:
                socket.socket().close()
            except OSError as error:
                _check_descriptors(error)
            raise PortError(
                "portpicker found no free port", remedy="end what holds the ports"
            ) from None


def _return_port(port: int) -> None:
    import portpicker

    portpicker.return_port(port)


def _hold(port: int, *, beside: bool = False) -> socket.socket | None:
    """Bind ``port`` on every address, so that nobody else can; None if somebody has it.

    ``beside`` our own socket that holds it aside it can be had while that is there.
    """
    for family, host in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
        try:
            holder = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            _check_descriptors(error)
            continue  # no IPv6 here
        try:
            if family == socket.AF_INET6:
                holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            if beside:
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((host, port))
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError as error:
            holder.close()
            if family == socket.AF_INET6 and error.errno in _NO_SUCH_ADDRESS:
                continue  # IPv6 is compiled in, but switched off
            return None
        return holder
    return None


_ASIDE = "fd6c:6f63:616c:636c::1"
"""An address of a private network that nobody has: it spells ``localcl``."""

_IPV6_FREEBIND = 78  # of Linux; the socket module does not have it


def _hold_aside(port: int) -> socket.socket | None:
    """Hold ``port`` beside our own socket at an address that only a bind to ``::`` conflicts with.

    None where the system has no IPv6, or does not let go of what it has not.
    """
    try:
        holder = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError as error:
        _check_descriptors(error)
        return None
    try:
        holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        holder.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((_ASIDE, port))
    except OSError:
        holder.close()
        return None
    return holder


def _check_descriptors(error: OSError) -> None:
    """Raise PortError if there was no socket because no more files may be open."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise PortError(
            f"no port can be held: {error.strerror}",
            remedy="raise `ulimit -n`, or ask for fewer tasks: each lease takes a descriptor, "
            "and links=True a lease for every ordered pair of tasks",
        ) from None


_NO_SUCH_ADDRESS = frozenset((errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENOPROTOOPT))


def system_holds_ports() -> bool:
    """Tell whether this system lets a server, and only a server, bind a port that we hold."""
    try:
        return _tried_to_hold()
    except PortError:  # there is none to try it with, which says nothing of the next time
        return False


@functools.cache
def _tried_to_hold() -> bool:
    holder = _hold(0)
    if holder is None:
        raise PortError("no port is free")
    port = holder.getsockname()[1]
    with holder, socket.socket() as stranger, socket.socket() as server:
        with contextlib.suppress(OSError):
            stranger.bind(("127.0.0.1", port))
            return False
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
            server.listen()
        except OSError:
            return False
    return True
