"""Takes ports all the while and gives them back, as other software does: a process of its own.

It binds what the kernel gives it, or what it names, but never with SO_REUSEADDR: a port that a
cluster has leased must then be out of its reach, and its own must not be given to a cluster.
"""

from __future__ import annotations

import random
import socket
import struct
from contextlib import ExitStack, suppress

from pytest_localcluster._clock import Deadline, now, poll

from .witness import Settings

__all__ = ["PORTS"]

BATCH = 60
PAUSE = 0.1
PORTS = range(15_000, 25_000)
"""Where portpicker looks first."""

_RESET = struct.pack("ii", 1, 0)  # at its close: thousands of ports would wait for late packets


def main() -> None:
    settings = Settings.from_environ()
    chance = random.Random(f"{settings.seed}/{settings.run}")
    over = False
    while not over:  # once at least
        hold_some(settings, chance)
        over = poll(lambda: now() >= settings.end, Deadline(PAUSE))


def hold_some(settings: Settings, chance: random.Random) -> None:
    """Listen on some ports and dial them; write down which were held at the same time."""
    with ExitStack() as held:
        listeners, dialled = [], []
        for number in range(BATCH):
            listener = held.enter_context(socket.socket())
            with suppress(OSError):  # somebody has it
                listener.bind(("127.0.0.1", chance.choice(PORTS) if number % 2 else 0))
                listener.listen()
                listeners.append(listener)
        up = now()
        for listener in listeners[::3]:
            caller = held.enter_context(socket.create_connection(listener.getsockname(), 20))
            dialled.append(caller)
            listener.settimeout(20)
            own = caller.getsockname()
            # Clients of a cluster that has just had this port may still dial it: that is their way.
            while (accepted := listener.accept())[1] != own:
                accepted[0].close()
            answering = held.enter_context(accepted[0])
            for one in (caller, answering):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        poll(lambda: now() >= settings.end, Deadline(PAUSE))
        ports = {one.getsockname()[1] for one in (*listeners, *dialled)}  # callers may share one
        settings.write("stranger", up=up, until=now(), ports=sorted(ports))


if __name__ == "__main__":
    main()
