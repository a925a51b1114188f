"""Runs in a task: its questions about test modules, which the test process answers.

They go over the control socket. From the moment the task serves a thread of its own reads that; a
question that comes before waits for its answer itself, and keeps what else arrives for that thread.
"""

from __future__ import annotations

import queue
import threading
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_localcluster._core.stand_ins import Answer, Question

__all__ = ["Questions"]

_PATIENCE = 30.0
"""Seconds for an answer."""

READER = "control"
"""The name of the thread that reads the control socket."""


class Questions:
    """The questions of one task.

    Args:
        tell: sends a message to the test process.
        receive: returns the next message from there.
    """

    def __init__(self, tell: Callable[..., None], receive: Callable[[], Any]) -> None:
        self._tell = tell
        self._receive = receive
        self._numbers = count(1)
        self._answers: dict[int, queue.SimpleQueue[Answer | None]] = {}
        self._reading = threading.Lock()
        self._early: list[Any] | None = []  # None once the thread reads
        self._reader: int | None = None  # its identifier

    def ask(self, question: Question) -> Answer | None:
        """Return the answer of the test process; None if there is none."""
        if threading.get_ident() == self._reader:
            return None  # it would wait for itself
        number = next(self._numbers)
        answer = self._answers[number] = queue.SimpleQueue()
        try:
            self._tell("asks", 0, number, tuple(question))
            if self._early is not None:
                self.receive_early("answer", number)
            return answer.get(timeout=_PATIENCE)
        except (OSError, EOFError, queue.Empty):
            return None
        finally:
            self._answers.pop(number, None)

    def take(self, number: int, answer: Answer | None) -> None:
        """Hand an answer to the thread that asked."""
        waiting = self._answers.get(number)
        if waiting is not None:
            waiting.put(answer)

    def receive_early(self, kind: str, number: int) -> list[Any]:
        """Return the rest of such a message; before the task serves, if it is not there yet."""
        with self._reading:
            while self._early is not None:
                if kind == "answer" and not self._answers[number].empty():
                    break  # another thread has read it
                message = self._receive()
                if message[0] == "answer":
                    self.take(*message[1:])
                elif message[0] == kind:
                    return list(message[2:])
                else:
                    self._early.append(message)
        return []

    def end_early(self) -> list[Any]:
        """Return what has arrived, in order: from now on the calling thread reads."""
        self._reader = threading.get_ident()
        with self._reading:
            early, self._early = self._early, None
            return early or []
