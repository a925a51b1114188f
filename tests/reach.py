"""Whether somebody is there: what tests of several kinds ask of an address."""

from __future__ import annotations

import socket


def listens(address: str) -> bool:
    """Tell whether somebody accepts connections at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 5).close()
    except ConnectionRefusedError:
        return False
    return True
