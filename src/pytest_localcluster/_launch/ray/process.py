"""The test process's handle of a task on a node: the one of a child process, over a relay.

Between the handle and the actor on the node two threads pass on bytes: what the handle sends, and
what the task says, prints and comes to. An actor that cannot be reached for a while is asked again;
one that is gone has taken its task along.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, cast

from ..._clock import Deadline, Thread
from ..._core import sockets
from ...errors import StopError, UnsupportedError
from ..fate import Fate, Unseen
from ..handle import ChildProcess
from .relay import CONTROL, ENDED, HANGUP, OUTPUT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ..._core.settings import Settings
    from ..._logs import TaskLog
    from .. import Entry
    from ..process import ProcessLauncher
    from .berth import RayBerth

__all__ = ["NoTerminal", "RemoteProcess"]

_CHUNK = 1 << 20

_PAUSE = 0.2
"""Seconds until an actor is asked again that could not be reached."""


class NoTerminal:
    """The terminal of tasks on other machines: there is none."""

    refusal = "the task runs on another machine than the terminal is at"

    def ask(self, who: object, grant: Callable[[str], None]) -> None:
        """Do nothing: nobody who knows of the refusal asks."""

    def leave(self, who: object, how: str) -> None:
        """Do nothing."""

    def gone(self, who: object) -> None:
        """Do nothing."""


def _unseen() -> Unseen:
    return Unseen("ended with its actor or node, exit status unknown")


class _RemoteFate(Fate):
    """What becomes of a process whose pid says nothing here."""

    def lives(self) -> bool:
        return self.pid is not None and self.wait(Deadline(0)) is None


class RemoteProcess(ChildProcess):
    """One task in a process on a node of Ray's."""

    elsewhere = True

    def __init__(
        self, berth: RayBerth, number: int, entry: Entry, log: TaskLog, settings: Settings
    ) -> None:
        ours, self._theirs = sockets.new_socketpair()
        status, self._status = os.pipe()
        entry = replace(entry, terminal=NoTerminal())
        forks = cast("ProcessLauncher", berth)  # as much of it as a handle needs
        super().__init__(forks, number, entry, log, ours, status, settings, _unseen)
        self._berth = berth
        self._file = log.open()
        self._fate = _RemoteFate(status, self._held.give_back, _unseen)
        self._told_of_memory = ""
        self._leaving = threading.Event()
        name = self._name
        self._threads_of_relay = [
            Thread(target=self._pass_to_task, name=f"orders to {name}", daemon=True),
            Thread(target=self._pass_to_test, name=f"news of {name}", daemon=True),
        ]
        for thread in self._threads_of_relay:
            thread.start()
            self._hold_thread(thread)

    def _pass_to_task(self) -> None:
        """Send what this handle says; at the end of that, hang up."""
        with contextlib.suppress(OSError):
            for index in count():
                data = self._theirs.recv(_CHUNK)
                if not data:
                    break
                if not self._ask("send", self._number, index, data):
                    return
        self._berth.tell("hang_up", self._number)

    def _pass_to_test(self) -> None:
        """Take what the task says, prints and comes to, up to its end, or that of its actor."""
        seen, over = 0, False
        try:
            while not over:
                answer = self._ask("news", self._number, seen)
                if answer is None:
                    break
                (parts,) = answer
                for kind, content in parts:
                    self._take(kind, content)
                seen += len(parts)
                over = bool(parts) and parts[-1][0] == ENDED
        finally:
            if over:
                self._berth.tell("forget", self._number)
            with contextlib.suppress(OSError):
                self._theirs.shutdown(socket.SHUT_RDWR)
            os.close(self._file)
            os.close(self._status)

    def _take(self, kind: str, content: Any) -> None:
        if kind == OUTPUT:
            os.write(self._file, content)
        elif kind == CONTROL:
            with contextlib.suppress(OSError):  # this handle is closed
                self._theirs.sendall(content)
        elif kind == HANGUP:
            with contextlib.suppress(OSError):
                self._theirs.shutdown(socket.SHUT_WR)
        else:
            record = content
            if kind == ENDED:
                record, self._told_of_memory = content
            with contextlib.suppress(OSError):
                os.write(self._status, record)

    def _ask(self, method: str, *args: object) -> tuple[Any] | None:
        """Return the actor's answer, however long that takes; None if there will be none."""
        while True:
            try:
                return (self._berth.wait_for(method, *args, until=self._leaving),)
            except TimeoutError:
                if self._leaving.wait(_PAUSE):
                    return None
            except Exception as error:
                if not self._leaving.is_set():
                    last = str(error).strip().rpartition("\n")[2]
                    self._log.write(f"{self._name} is lost with its Ray actor: {last}\n")
                return None

    def out_of_memory(self) -> str:
        return self._told_of_memory

    def keep(self, leases: Sequence[int]) -> Path:
        """Refuse it."""
        raise UnsupportedError(
            f"{self._name} cannot be kept: it runs below a Ray actor, which ends with pytest",
            task=self._name,
            pid=self.pid,
            remedy="use launcher='process'",
        )

    def close(self, deadline: Deadline) -> None:
        super().close(deadline)
        ended = self.exitcode is not None
        self._leaving.set()
        for thread in self._threads_of_relay:
            if thread is not threading.current_thread():
                thread.join(deadline.remaining())
        self._theirs.close()
        if not ended:
            raise StopError(
                f"{self._name} could not be ended: its node has not answered",
                task=self._name,
                address=self._berth.address,
                pid=self.pid,
                survivors=(self._name,),
                remedy="see that the node is up, and its network; the task ends as soon as that is "
                "so, or Ray gives the node up",
            )
