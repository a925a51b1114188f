"""Runs in a task, from the moment it was forked, never in the test process.

The main thread brings the server up and then runs the functions that it is sent. A thread beside
it listens to the test process, so that a busy task still hears that it shall end.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import queue
import random
import signal
import socket
import sys
import threading
from functools import partial
from types import NoneType
from typing import Any, NoReturn

from pytest_localcluster import _context
from pytest_localcluster._core import (
    child_processes,
    coroutines,
    environment,
    exceptions,
    pickling,
    settings,
    sockets,
    stand_ins,
    test_files,
)
from pytest_localcluster._launch import family, plain_bind
from pytest_localcluster._launch.debugger import Breakpoints
from pytest_localcluster._launch.questions import READER, Questions
from pytest_localcluster._launch.recorder import Outgoing, Recorder
from pytest_localcluster._launch.surroundings import adopt
from pytest_localcluster._launch.wire import ORDERS, read_exactly, receive
from pytest_localcluster._program import Program

SPARE = b"idle task"
"""What a process is called that was forked ahead, and is no task yet."""

_NONE = pickle.dumps(None)

_PARTING = 0.5
"""Seconds for the last words of a task; they take none, unless they are very many."""

_Call = tuple[int, bytes, "settings.News | None"]
"""A function to run: its number, itself, and the test's settings if they are news."""


class Child:
    """One task: it serves, and its main thread runs the functions that it is sent."""

    def __init__(
        self,
        control: int,
        log: int,
        payload: bytes | bytearray,
        parent: int,
        failure: BaseException | None,
    ) -> None:
        self.control = sockets.adopt(control)
        self.log = log
        self.payload = payload
        self.parent = parent
        self.failure = failure
        self.outgoing = Outgoing(self.control)
        self.recorder = Recorder(self.outgoing)
        self.questions = Questions(self.tell, partial(receive, self.control))
        self.calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self.turns: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.listening = False
        self.turning = threading.Lock()
        self.calling = False
        self.stopping = False

    def run(self) -> None:
        try:
            if os.getpid() != os.getsid(0):
                come_apart(self.parent)
            self.take_output()
            if self.failure is not None:
                raise self.failure
            environ, directory, path, entry, news, refusal = pickle.loads(self.payload)
            adopt(environ, directory, path)
            environment.begin(environment.outer_job())  # of the clusters that this task starts
            _reseed()
            plain_bind.allow()
            self.recorder.begin(news)
            child_processes.host(self.questions.ask)
            serve, context, test_files.patterns = pickling.loads(entry)
            _context.become(context)
            self.breakpoints = Breakpoints(
                str(context.task), refusal, self.ask_for_terminal, partial(self.tell, "resumed", 0)
            )
            self.breakpoints.install()
            self.serving = serve()
            if isinstance(self.serving, Program):
                self.execute(self.serving)
        except BaseException as error:
            self.fail(error)
        del self.payload
        self.pid = os.getpid()
        self.tell("ready", self.pid)
        self.listening = True
        threading.Thread(target=self.listen, name=READER, daemon=True).start()
        while (call := self.calls.get()) is not None and self.begins_call():
            self.answer(*call)
        self.leave()

    def execute(self, program: Program) -> None:
        """Turn into a program; the test process sees it by the end of the control socket."""
        try:
            program.prepare()
            path = program.find()
            self.tell("program", 0, str(program))
            self.control.set_inheritable(False)
            _flush()
            program.execute(path)
        except OSError as error:
            self.fail(error.with_traceback(None))  # it says all: the way here is of no interest

    def fail(self, error: BaseException) -> NoReturn:
        data, text = exceptions.dump_exception(error)
        self.recorder.print()
        sys.stderr.write(text)
        self.tell("failed", 0, data, text)
        os._exit(1)

    def begins_call(self) -> bool:
        with self.turning:
            self.calling = not self.stopping
        return self.calling

    def take_output(self) -> None:
        """Write to the task's log from now on."""
        os.dup2(self.log, 1)
        os.dup2(self.log, 2)
        os.close(self.log)

    def tell(self, *message: object) -> None:
        self.outgoing.send(*message)

    def listen(self) -> None:
        """Read what the test process wants, also while the main thread is busy."""
        for message in self.questions.end_early():
            self.hear(*message)
        while True:
            try:
                message = receive(self.control)
            except (EOFError, OSError):
                os._exit(1)  # nobody is left to be a task for
            self.hear(*message)

    def hear(self, kind: str, number: int, *rest: Any) -> None:
        if kind == "call":
            self.calls.put((number, *rest))
        elif kind == "stop":
            with self.turning:  # either the main thread sees this, or we see that it is busy
                self.stopping = True
            if self.calling:
                self.leave()
            self.calls.put(None)
        elif kind == "answer":
            self.questions.take(number, *rest)
        elif kind == "terminal":
            self.turns.put(rest[0])
        else:
            self.attend(kind, number, *rest)

    def ask_for_terminal(self) -> str:
        """Wait for this task's turn at the terminal; return the path of that."""
        self.tell("breakpoint", 0)
        if self.listening:
            return self.turns.get()
        path: str = self.questions.receive_early("terminal", 0)[0]
        return path

    def attend(self, kind: str, number: int, *rest: Any) -> None:
        try:
            if kind == "reset":
                self.serving.reset()
            elif kind == "forget":
                self.serving.forget(*rest)
            else:
                settings.apply(*rest)
        except BaseException as error:
            self.tell("raised", number, self.recorder.take(), *exceptions.dump_exception(error))
        else:
            self.tell("returned", number, self.recorder.take(), _NONE)

    def answer(self, number: int, call: bytes, news: settings.News | None) -> None:
        message: tuple[object, ...]
        try:
            settings.apply(news)
            function, args, kwargs = pickling.load_call(call, _context.current_task().task)
            try:
                result = coroutines.call(function, args, kwargs)
            finally:
                self.breakpoints.end()
            data = pickling.dump_result(function, result)
            del result  # what it warns as it goes is the function's, too
            message = "returned", number, self.recorder.take(), data
        except (SystemExit, KeyboardInterrupt) as error:
            # As anywhere: these end the process, and that is how the test hears of it.
            code = error.code if isinstance(error, SystemExit) else 1
            if not isinstance(code, (int, NoneType)) or isinstance(error, KeyboardInterrupt):
                sys.stderr.write(exceptions.dump_exception(error)[1])
                code = 1
            self.calling = False
            self.leave(code or 0)
        except BaseException as error:
            message = "raised", number, self.recorder.take(), *exceptions.dump_exception(error)
        if os.getpid() != self.pid:
            self.leave()  # the function forked, and this is not the process that was asked
        _flush()  # what it printed is in the log before the test goes on
        self.calling = False  # before the test hears of it, and may ask for the end at once
        stand_ins.end_call()
        self.tell(*message)

    def leave(self, code: int = 0) -> None:
        """End now, without taking the server down politely, which only costs time."""
        if not self.calling and os.getpid() == self.pid:
            atexit._run_exitfuncs()
        self.part()
        _flush()
        os._exit(code)

    def part(self) -> None:
        """Send the last warnings, or print them if nobody takes them now."""
        kept = [] if os.getpid() != self.pid else self.recorder.take()
        if kept:
            with contextlib.suppress(OSError):
                self.outgoing.post("warned", 0, kept, seconds=_PARTING)


def come_apart(parent: int) -> None:
    """Become a process of its own, apart from the past of the forkserver ``parent``."""
    os.setsid()
    family.adopt_orphans()
    family.die_with_parent()
    if os.getppid() != parent:
        os._exit(1)  # the forkserver went before the kernel knew to tell us
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    atexit._clear()  # what the imports registered is the forkserver's, not this task's
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(  # type: ignore[union-attr]
            encoding="utf-8",  # as logs are read, whatever PYTHONIOENCODING or the locale says
            errors="backslashreplace",
            line_buffering=True,
        )


def wait_for_orders(orders: socket.socket, parent: int, failure: BaseException | None) -> None:
    """Be a process that was forked ahead, until it is made a task; or end with the forkserver."""
    come_apart(parent)
    own_name = family.rename(SPARE)
    _reseed()
    dict(os.environ)  # has the kernel copy its pages now, and not when there is no time
    header, fds, _, _ = socket.recv_fds(orders, ORDERS.size, 2)
    if not header:
        os._exit(0)
    (length,) = ORDERS.unpack(header)
    payload = read_exactly(orders, length)
    orders.close()
    family.rename(own_name)
    control, log = fds
    Child(control, log, payload, parent, failure).run()


_reseeded = 0
"""The pid of the process that did it last."""


def _reseed() -> None:
    """Draw numbers of one's own: those of forked siblings would be equal."""
    global _reseeded
    if _reseeded == os.getpid():
        return
    _reseeded = os.getpid()
    random.seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    if "torch" in sys.modules:
        sys.modules["torch"].seed()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
