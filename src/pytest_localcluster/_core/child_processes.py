"""Stand-ins in the processes that a task starts: they ask the task, over a socket of its own.

A forked process has the task's stand-ins, and asks for what has not arrived. One that
:mod:`multiprocessing` spawns, or has its own forkserver fork, is given the names of the stand-ins
with the data that it prepares itself with.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
from typing import TYPE_CHECKING, Any

from . import import_hooks, stand_ins, test_files
from .stand_ins import Answer, Question, StandIn

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection, Listener

__all__ = ["host", "join"]

_PATIENCE = 30.0
"""Seconds for an answer."""

_FAMILY = "AF_UNIX" if sys.platform.startswith("linux") else "AF_INET"
_BACKLOG = 64

_address: Any = None
_key = b""
_lock = threading.Lock()
_handles_forks = False


def host(asker: Callable[[Question], Answer | None]) -> None:
    """Let this process, a task, have stand-ins; its children as well."""
    global _handles_forks
    stand_ins.host(asker)
    import_hooks.install()
    import_hooks.after_import("multiprocessing.spawn", _prepare_children)
    if not _handles_forks:
        _handles_forks = True
        os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


def join(address: Any, key: bytes, patterns: tuple[str, ...], homes: list[tuple[Any, ...]]) -> None:
    """Let this process, a child of a task, have stand-ins."""
    global _address, _key
    _address, _key, test_files.patterns = address, key, patterns
    host(_ask_task)
    for home in homes:
        stand_ins.arrange(home)


def _before_fork() -> None:
    if stand_ins.everything_present():
        _listen()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    if stand_ins.hosts():
        stand_ins.host(_ask_task)


def _listen() -> None:
    """Begin to answer children, if nobody does."""
    global _address, _key
    with _lock:
        if _address is not None:
            return
        from multiprocessing.connection import Listener

        name = f"\0pytest-localcluster-{os.getpid()}-{secrets.token_hex(8)}"
        place: Any = name if _FAMILY == "AF_UNIX" else ("127.0.0.1", 0)
        listener = Listener(place, _FAMILY, backlog=_BACKLOG)
        _key, _address = secrets.token_bytes(32), listener.address
        threading.Thread(target=_accept, args=(listener,), name="children", daemon=True).start()


def _accept(listener: Listener) -> None:
    while True:
        connection = listener.accept()
        # Not here: one that stalls would keep the others waiting.
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: Connection) -> None:
    from multiprocessing.connection import answer_challenge, deliver_challenge

    with connection:
        try:
            deliver_challenge(connection, _key)
            answer_challenge(connection, _key)
            connection.send(_answer_to(Question(*connection.recv())))
        except Exception:  # it is gone, or no child of this task
            return


def _answer_to(question: Question) -> Answer | None:
    from . import answers

    if question.kind == "attribute":
        return answers.answer(question)
    here = stand_ins.present(question.module)
    if question.kind == "module" and here is not None:
        return "module", tuple(here.home)
    return stand_ins.ask(question)


def _ask_task(question: Question) -> Answer | None:
    if _address is None:
        return None
    from multiprocessing.connection import Client

    try:
        with Client(_address, _FAMILY, authkey=_key) as connection:
            connection.send(tuple(question))
            if not connection.poll(_PATIENCE):
                return None
            answer: Answer | None = connection.recv()
            return answer
    except (OSError, EOFError):
        return None


def _prepare_children(spawn: Any) -> None:
    """Have multiprocessing's children join, which prepare themselves with a dict of data."""
    plain = spawn.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, Any]:
        data: dict[str, Any] = plain(name)
        if stand_ins.everything_present():
            if isinstance(sys.modules["__main__"], StandIn):  # else they would execute its file
                data.pop("init_main_from_path", None)
                data.pop("init_main_from_name", None)
            data["pytest_localcluster"] = _Joining()
        return data

    spawn.get_preparation_data = get_preparation_data


class _Joining:
    """Stands for a call of :func:`join` in the process that unpickles it."""

    def __reduce__(self) -> Any:
        _listen()
        homes = [tuple(module.home) for module in stand_ins.everything_present()]
        code = (
            f"import sys; sys.path[:] = {sys.path!r}\n"  # else this package may not be found there
            f"from {__name__} import join\n"
            f"join({_address!r}, {_key!r}, {test_files.patterns!r}, {homes!r})"
        )
        return exec, (code, {})
