"""Runs in the forkserver and in the tasks that it forks, never in the test process.

The forkserver is a clean interpreter that imports what tasks will need once, and then forks a
task for each request. It is the tasks' parent: it alone signals and reaps them, so that no
signal ever meets a process that has taken over the number of a dead one.

Who dies with whom: when the test process goes, however it went, the forkserver sees it (a pidfd
where there are such, the end of the socket everywhere) and kills the process group of every
task; when the forkserver goes, the kernel kills the tasks (parent death signal, Linux); a task
whose control socket ends, ends. So nobody has to come by and clean up.

This module imports little: everything here is paid by the first start.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import importlib
import os
import pickle
import queue
import random
import selectors
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator
from typing import Any

from pytest_localcluster import _context, _pickling

HEADER = struct.Struct("!BQ")
"""A request to the forkserver: what is asked, and the length of the pickle that follows."""

LAUNCH, SIGNAL = 0, 1
STATUS = struct.Struct("!i")
"""What a task's status pipe carries: its pid once it is forked, then its exit code."""

LENGTH = struct.Struct("!Q")
DUMP_SIGNAL = signal.SIGRTMIN + 9 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2
"""Makes a task write the stacks of all its threads to its log, whatever it is doing."""

_GROUP_SIGNALS = frozenset({signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT})
_PR_SET_PDEATHSIG = 1
_prctl: Callable[..., int] | None = (
    ctypes.CDLL(None).prctl if sys.platform.startswith("linux") else None
)


def send(sock: socket.socket, message: object) -> None:
    """Send one message over a control socket."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    sock.sendall(LENGTH.pack(len(data)) + data)


def receive(sock: socket.socket) -> Any:
    """Read one message from a control socket; EOFError at its end."""
    (length,) = LENGTH.unpack(read_exactly(sock, LENGTH.size))
    return pickle.loads(read_exactly(sock, length))


def read_exactly(sock: socket.socket, size: int) -> bytearray:
    """Read ``size`` bytes; EOFError if the other end is gone before that."""
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        count = sock.recv_into(view[filled:])
        if count == 0:
            raise EOFError
        filled += count
    return data


def main(control: int, owner: int, preload: list[str]) -> None:
    """Be the forkserver of the process ``owner``, which talks over the socket ``control``."""
    faulthandler.enable()
    faulthandler.register(DUMP_SIGNAL, all_threads=True)
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    _Forkserver(socket.socket(fileno=control), owner, _preload(preload)).serve()


def _preload(modules: list[str]) -> BaseException | None:
    for module in modules:
        print(f"importing {module}", flush=True)
        try:
            importlib.import_module(module)
        except BaseException as error:
            traceback.print_exc()
            error.add_note(f"while the launcher imported {module!r} ahead for its tasks")
            return error
    return None


class _Forkserver:
    """The loop of the forkserver: requests, the deaths of tasks, the death of the owner."""

    def __init__(self, control: socket.socket, owner: int, failure: BaseException | None) -> None:
        self.control = control
        self.owner = owner
        self.failure = failure
        self.pids: dict[int, int] = {}  # by the number that the owner gave the task
        self.tasks: dict[int, tuple[int, int]] = {}  # pid -> its number and status pipe

    def serve(self) -> None:
        selector = selectors.DefaultSelector()
        wakeup, alarm = socket.socketpair()
        for end in (wakeup, alarm):
            end.setblocking(False)
        signal.set_wakeup_fd(alarm.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        selector.register(self.control, selectors.EVENT_READ, self.answer)
        selector.register(wakeup, selectors.EVENT_READ, lambda: self.reap(wakeup))
        watch = _watch(self.owner)
        if watch is not None:
            selector.register(watch, selectors.EVENT_READ, self.end)
        if os.getppid() != self.owner:  # it went before we could watch it
            self.end()
        self.ours = [selector, wakeup, alarm, self.control, *([watch] if watch is not None else [])]
        while True:
            for key, _ in selector.select():
                key.data()

    def answer(self) -> None:
        try:
            header, fds, _, _ = socket.recv_fds(self.control, HEADER.size, 3)
            if not header:
                raise EOFError
            kind, length = HEADER.unpack(header)
            request = read_exactly(self.control, length)
        except (EOFError, OSError):
            self.end()
            return
        if kind == LAUNCH:
            number, payload = pickle.loads(request)
            self.launch(number, payload, *fds)
        else:
            self.signal(*pickle.loads(request))

    def launch(self, number: int, payload: bytes, control: int, log: int, status: int) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                parent = os.getppid()
                signal.set_wakeup_fd(-1)
                for item in self.ours:
                    os.close(item) if isinstance(item, int) else item.close()
                for _, other in self.tasks.values():
                    os.close(other)
                os.close(status)
                _Task(socket.socket(fileno=control), log, payload, parent, self.failure).run()
            finally:
                os._exit(1)
        self.pids[number] = pid
        self.tasks[pid] = number, status
        with contextlib.suppress(BrokenPipeError):
            os.write(status, STATUS.pack(pid))
        os.close(control)
        os.close(log)

    def signal(self, number: int, signum: int) -> None:
        pid = self.pids.get(number)
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if signum in _GROUP_SIGNALS:
                with contextlib.suppress(ProcessLookupError):  # not the leader of a group yet
                    os.killpg(pid, signum)
            if signum not in _GROUP_SIGNALS or signum == signal.SIGKILL:
                os.kill(pid, signum)

    def reap(self, wakeup: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while wakeup.recv(4096):
                pass
        for pid, code in _reaped(self.tasks):
            number, status = self.tasks.pop(pid)
            del self.pids[number]
            with contextlib.suppress(BrokenPipeError):
                os.write(status, STATUS.pack(code))
            os.close(status)

    def end(self) -> None:
        """Take all tasks along, with the groups that they lead."""
        for pid in self.tasks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _kill_group(pid)
        for pid in self.tasks:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        os._exit(0)


def _watch(pid: int) -> int | None:
    """Return a descriptor that becomes readable when ``pid`` ends; None where there is no such."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _reaped(tasks: Collection[int]) -> Iterator[tuple[int, int]]:
    """Bury the tasks that have ended, with the groups that they lead; yield pids and exit codes."""
    for pid in list(tasks):
        if hasattr(os, "waitid"):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            _kill_group(pid)  # while it is a zombie, nobody else can have its number
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            yield pid, os.waitstatus_to_exitcode(status)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


class _Task:
    """One task: it serves, and its main thread runs the functions that it is sent."""

    def __init__(
        self,
        control: socket.socket,
        log: int,
        payload: bytes,
        parent: int,
        failure: BaseException | None,
    ) -> None:
        self.control = control
        self.log = log
        self.payload = payload
        self.parent = parent
        self.failure = failure
        self.sending = threading.Lock()
        self.calls: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self.calling = False

    def run(self) -> None:
        try:
            self.settle_in()
            if self.failure is not None:
                raise self.failure
            environ, directory, path, entry = pickle.loads(self.payload)
            _adopt(environ, directory, path)
            serve, context = _pickling.loads(entry)
            _context.become(context)
            self.serving = serve()
        except BaseException as error:
            data, text = _pickling.dump_exception(error)
            print(text, file=sys.stderr, flush=True)
            self.tell("failed", 0, data, text)
            os._exit(1)
        del self.payload
        self.tell("ready", os.getpid())
        threading.Thread(target=self.listen, name="control", daemon=True).start()
        while (call := self.calls.get()) is not None:
            self.calling = True
            self.answer(*call)
            self.calling = False
        self.leave()

    def settle_in(self) -> None:
        """Become a process of its own, apart from the forkserver's past."""
        os.setsid()
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self.parent:
            os._exit(1)  # the forkserver went before the kernel knew to tell us
        os.dup2(self.log, 1)
        os.dup2(self.log, 2)
        os.close(self.log)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        atexit._clear()  # what the imports registered is the forkserver's, not this task's

    def tell(self, *message: object) -> None:
        with self.sending:
            send(self.control, message)

    def listen(self) -> None:
        """Read what the test process wants, also while the main thread is busy."""
        while True:
            try:
                kind, number, *rest = receive(self.control)
            except (EOFError, OSError):
                os._exit(1)  # nobody is left to be a task for
            if kind == "call":
                self.calls.put((number, rest[0]))
            elif kind == "stop":
                if self.calling:
                    self.leave()
                self.calls.put(None)
            else:
                self.attend(kind, number, *rest)

    def attend(self, kind: str, number: int, *rest: Any) -> None:
        try:
            if kind == "reset":
                self.serving.reset()
            else:
                self.serving.forget(*rest)
        except BaseException as error:
            self.tell("raised", number, *_pickling.dump_exception(error))
        else:
            self.tell("returned", number, _NONE)

    def answer(self, number: int, call: bytes) -> None:
        message: tuple[object, ...]
        try:
            function, args, kwargs = _pickling.loads(call)
            result = function(*args, **kwargs)
            message = "returned", number, _pickling.dumps_back(result)
        except (SystemExit, KeyboardInterrupt) as error:
            # As anywhere: these end the process, and that is how the test hears of it.
            code = error.code if isinstance(error, SystemExit) else 1
            if code is not None and not isinstance(code, int):
                print(code, file=sys.stderr)
                code = 1
            self.calling = False
            self.leave(code or 0)
        except BaseException as error:
            message = "raised", number, *_pickling.dump_exception(error)
        _flush()  # what it printed is in the log before the test goes on
        self.tell(*message)

    def leave(self, code: int = 0) -> None:
        """End now, without taking the server down politely, which only costs time."""
        if not self.calling:
            atexit._run_exitfuncs()
        _flush()
        os._exit(code)


_NONE = pickle.dumps(None)


def _adopt(environ: dict[str, str], directory: str | None, path: list[str]) -> None:
    """Take over the test process's environment, directory and path of the moment of the launch."""
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    for name, value in environ.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    if directory is not None:
        os.chdir(directory)
    sys.path[:] = path
    # Forked siblings would draw equal numbers.
    random.seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    if "torch" in sys.modules:
        sys.modules["torch"].seed()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
