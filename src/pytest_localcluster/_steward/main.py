"""Runs in the steward, never in a test process: who its workers are, and its end.

The main thread waits: for workers that connect, for the end of their processes, and for what the
threads that read their requests tell it. So it alone knows who is left, and when nobody is.
"""

from __future__ import annotations

import os
import queue
import selectors
import socket
import threading
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn

from .. import _rendezvous
from .._clock import Alarm, Deadline
from .._core import answers, stand_ins
from .._launch import process as processes
from .._launch import shelter
from .._launch.line import Line
from .keeper import Keeper
from .messages import dump_failure

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from .._core.answers import Send
    from .._core.stand_ins import Answer, Question

__all__ = ["Steward"]

_HELLO = 10.0
"""Seconds in which a worker that has connected, or is about to, says who it is."""

_HURRY = 0.4
"""Seconds that tasks have to end by themselves when no worker waits for that."""


class Steward:
    """The steward's loop.

    Args:
        listener: the socket at which workers connect.
        starter: a descriptor of the first worker's process; None if there can be none.
    """

    def __init__(self, listener: int, starter: int | None) -> None:
        self.keeper = Keeper()
        self._listener = socket.socket(fileno=listener)
        self._listener.listen(128)  # again: from now on the kernel names us to who connects
        self._selector = selectors.DefaultSelector()
        self._workers: set[_Worker] = set()
        self._news: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._wakeup, self._alarm = socket.socketpair()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._hear)
        self._expected = starter  # to connect
        self._came = False  # whoever was expected, or somebody else
        self._called = ""  # the origin of the worker that has called a task last
        self._questions: dict[int, tuple[_Worker, Send]] = {}  # that workers are to answer
        self._numbers = count()
        answers.route(self._route)
        stand_ins.expect_operations()
        if starter is not None:
            self._selector.register(starter, selectors.EVENT_READ, self._forget_starter)

    def serve(self) -> NoReturn:
        """Serve until no worker is left."""
        first = Deadline(_HELLO)
        while self._workers or not (self._came or first.expired()):
            for key, _ in self._selector.select(None if self._workers else first.remaining()):
                key.data()
        self._end()

    def soon(self, news: Callable[[], object]) -> None:
        """Have the main thread call that."""
        self._news.put(news)
        with suppress(OSError):
            self._alarm.send(b".")

    def _hear(self) -> None:
        self._wakeup.recv(4096)
        with suppress(queue.Empty):
            while True:
                self._news.get_nowait()()

    def _accept(self) -> None:
        sock = _rendezvous.accept(self._listener)
        if sock is not None:
            self._workers.add(_Worker(self, sock))

    def _forget_starter(self) -> None:
        """Expect the starter no more: it has connected, or it is dead."""
        self._came = True
        if self._expected is not None:
            self._selector.unregister(self._expected)
            os.close(self._expected)
            self._expected = None

    def _route(self, question: Question, send: Send) -> None:
        """Have the worker that a test module is from answer a question about it."""
        origin = question.origin or self._called
        worker = next((one for one in list(self._workers) if one.origin == origin), None)
        number = next(self._numbers)
        if worker is not None:
            self._questions[number] = worker, send
            try:
                worker.line.send(number, "asks", tuple(question))
                return
            except OSError:
                self._questions.pop(number, None)
        send(None)

    def answered(self, number: int, answer: Answer | None) -> None:
        """Pass a worker's answer on to the task that asked."""
        waiting = self._questions.pop(number, None)
        if waiting is not None:
            waiting[1](answer)

    def called(self, worker: _Worker) -> None:
        """Note which worker has called a task last."""
        self._called = worker.origin

    def connected(self, worker: _Worker, watch: int | None) -> None:
        """Learn which process a worker is."""
        self._forget_starter()
        if worker not in self._workers:
            if watch is not None:
                os.close(watch)
        elif watch is not None:
            worker.watch = watch
            self._selector.register(watch, selectors.EVENT_READ, partial(self.lost, worker))

    def lost(self, worker: _Worker) -> None:
        """Learn that a worker has ended, or has closed its connection."""
        if worker in self._workers:
            self._workers.remove(worker)
            for number in [n for n, (asked, _) in list(self._questions.items()) if asked is worker]:
                self.answered(number, None)
            worker.line.hang_up()
            if worker.watch is not None:
                self._selector.unregister(worker.watch)
                os.close(worker.watch)

    def leaves(self, worker: _Worker, number: int) -> None:
        """Let a worker go; if it is the last one, end the clusters before it does."""
        if self._workers == {worker}:
            self._listener.close()  # whoever comes now finds another steward
            self._stop(None)
            worker.answer(number, "returned", None)
            os._exit(0)
        worker.answer(number, "returned", None)
        self.lost(worker)  # now: the next one to leave may do so before this one hangs up

    def _end(self) -> NoReturn:
        # Whatever takes too long to end by itself: if we are dead, the guard kills it.
        with Alarm(2 * _HURRY, lambda: os._exit(1)):
            self._listener.close()
            self._stop(_HURRY)
        os._exit(0)

    def _stop(self, seconds: float | None) -> None:
        self.keeper.stop(seconds)
        shelter.shutdown()
        processes.shutdown()


class _Worker:
    """One worker: the thread that reads what it asks."""

    def __init__(self, steward: Steward, sock: socket.socket) -> None:
        self.line = Line(sock, "a worker", lambda _: None)
        self.watch: int | None = None  # of its process
        self.origin = ""
        self._steward = steward
        threading.Thread(target=self._listen, args=(sock,), daemon=True).start()

    def _listen(self, sock: socket.socket) -> None:
        try:
            origin, fds = _rendezvous.receive(sock, Deadline(_HELLO))
            self.origin = bytes(origin).decode()
            self._steward.soon(partial(self._steward.connected, self, fds[0] if fds else None))
            while True:
                self._attend(*self.line.receive())
        except (EOFError, OSError):
            pass
        finally:
            self._steward.soon(partial(self._steward.lost, self))
            self.line.close(Deadline(_HELLO))

    def _attend(self, number: int, kind: str, *args: Any) -> None:
        keeper = self._steward.keeper
        if kind == "leave":
            self._steward.soon(partial(self._steward.leaves, self, number))
        elif kind == "answer":
            self._steward.answered(number, *args)
        elif kind == "call":  # here, since calls are in order
            self._steward.called(self)
            try:
                future: Future[Any] = keeper.call(*args)
            except Exception as error:
                self.answer(number, "raised", dump_failure(error))
            else:
                future.add_done_callback(partial(self._called, number))
        else:
            ask = getattr(keeper, kind)
            threading.Thread(target=self._do, args=(number, ask, args), daemon=True).start()

    def _called(self, number: int, future: Future[Any]) -> None:
        error = future.exception()
        if error is None:
            self.answer(number, "returned", future.result())
        else:
            self.answer(number, "raised", dump_failure(error))

    def _do(self, number: int, ask: Callable[..., object], args: tuple[Any, ...]) -> None:
        try:
            result = ask(*args)
        except BaseException as error:
            self.answer(number, "raised", dump_failure(error))
        else:
            self.answer(number, "returned", result)

    def answer(self, number: int, how: str, what: object) -> None:
        """Tell the worker what has come of a request."""
        with suppress(OSError):  # it is gone, which is told elsewhere
            self.line.send(number, how, what)
