"""Runs in the steward, never in a test process: its first moments.

It is forked once more, so that it is nobody's child: neither does the worker that starts it have to
wait for its end, nor can it be taken for what a test has left behind.
"""

from __future__ import annotations

import os
import signal

from .._launch import family
from .._launch.booted import import_as_the_user

__all__ = ["main"]


def main(listener: int, starter: int | None) -> None:
    """Be the steward that listens at ``listener``; return to nobody.

    Args:
        listener: the socket at which workers connect.
        starter: a descriptor of the process of the worker that starts it, if there can be one: it
            counts as a worker until it has connected.
    """
    up, told = os.pipe()
    if family.fork():
        os.close(told)
        os._exit(0 if os.read(up, 1) else 1)
    os.close(up)
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    for fd in (listener, starter):
        if fd is not None:
            os.set_inheritable(fd, False)
    from .main import Steward

    import_as_the_user()

    steward = Steward(listener, starter)
    os.write(told, b"+")
    os.close(told)
    steward.serve()
