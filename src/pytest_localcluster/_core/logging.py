"""Log records of tasks: levels go in, records come back and are handled by the loggers here.

A task logs by the levels that the loggers of the test process had when it was last told them. A
record that passes them is sent at once, so that nothing is lost with a task that dies. Here it goes
to the logger of its name, and with that to ``caplog`` and to whatever handlers there are.

A record carries the name of its task as ``record.task`` and ``record.processName``. Formatters show
it before the message, while ``record.getMessage()`` and ``record.message`` are the message alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

from .pickling import dumps_back, loads

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "Levels",
    "Record",
    "apply",
    "dump",
    "mark",
    "pause",
    "receive",
    "resume",
    "subscribe",
    "unsubscribe",
]

Record = dict[str, Any]
"""The attributes of a record on its way; those in ``_EXTRA`` are pickled one by one."""

_EXTRA = "pytest_localcluster_extra"
_TASK = "pytest_localcluster_task"
_DISABLE = None
"""Stands for ``logging.disable()`` among the names of loggers."""

_PLAIN = frozenset({str, int, float, bool, type(None)})
_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_LEFT = frozenset({"msg", "args", "exc_info", "exc_text", "relativeCreated", "message", "asctime"})


# -- levels


class Levels:
    """The levels of this process's loggers, as one task knows them."""

    def __init__(self) -> None:
        self._version = 0
        self._known: Mapping[str | None, int] = {}

    def news(self) -> dict[str | None, int] | None:
        """Return the levels that the task does not know, by logger; None if there are none."""
        version, levels = _current()
        if version == self._version:
            return None
        new = {**dict.fromkeys(self._known, logging.NOTSET), **levels}
        news = {name: level for name, level in new.items() if self._known.get(name, 0) != level}
        self._version, self._known = version, levels
        return news or None


_MARK = "pytest_localcluster"
_snapshot: tuple[int, dict[str | None, int]] = (0, {})


def _current() -> tuple[int, dict[str | None, int]]:
    """Return all levels that are set, and a number that changes with them."""
    # Each change of a level has logging empty this cache: so a look costs next to nothing.
    cache: dict[Any, Any] = getattr(logging.root, "_cache", {})
    if _MARK in cache:
        return _snapshot
    with _looking:  # another thread must not store what it saw before a later change
        return _look(cache)


_looking = threading.Lock()


def _look(cache: dict[Any, Any]) -> tuple[int, dict[str | None, int]]:
    global _snapshot
    cache[_MARK] = True
    manager = logging.root.manager
    loggers = list(manager.loggerDict.items())
    levels: dict[str | None, int] = {
        name: logger.level
        for name, logger in loggers
        if isinstance(logger, logging.Logger) and logger.level
    }
    levels[logging.root.name] = logging.root.level
    levels[_DISABLE] = manager.disable
    version, known = _snapshot
    if levels != known:
        _snapshot = version + 1, levels
    return _snapshot


_Changed = Callable[[], "Future[None] | None"]
_subscribers: set[_Changed] = set()

_PATIENCE = 0.1
"""Seconds that a change of a level waits for tasks to go by it: a suspended one does not answer."""


def subscribe(changed: _Changed) -> None:
    """Have a function called at each change of a level; it may return a future to wait for."""
    _subscribers.add(changed)
    # The only thing that each change calls. It is the manager's own again with the last task.
    logging.root.manager.__dict__["_clear_cache"] = _level_changed


def unsubscribe(changed: _Changed) -> None:
    """Take back what :func:`subscribe` did. Idempotent."""
    _subscribers.discard(changed)
    if not _subscribers:
        logging.root.manager.__dict__.pop("_clear_cache", None)


def _level_changed() -> None:
    manager: Any = logging.Manager
    manager._clear_cache(logging.root.manager)
    if _inbox.open:  # else pytest changes it between two phases of a test
        futures = [future for changed in list(_subscribers) if (future := changed()) is not None]
        if futures:
            wait(futures, _PATIENCE)


def apply(levels: Mapping[str | None, int]) -> None:
    """Give loggers of this process these levels."""
    for name, level in levels.items():
        if name is _DISABLE:
            logging.disable(level)
        else:
            logging.getLogger(name).setLevel(level)


# -- records, in a task


def dump(record: logging.LogRecord) -> Record:
    """Return a record as it travels: with text in place of what may not be pickled."""
    fields = {
        name: value if type(value) in _PLAIN else str(value)
        for name, value in record.__dict__.items()
        if name in _OWN and name not in _LEFT
    }
    message = _message(record)
    args: Any = record.args
    values = args.values() if isinstance(args, dict) else args or ()
    if type(record.msg) is str and all(type(value) in _PLAIN for value in values):
        fields.update(msg=record.msg, args=args)
    else:
        fields.update(msg=message, args=None)
    fields["exc_text"] = record.exc_text
    if record.exc_info and not record.exc_text:
        fields["exc_text"] = logging.Formatter().formatException(record.exc_info)
    extra = {}
    for name, value in record.__dict__.items():
        if name not in _OWN:
            with contextlib.suppress(Exception):  # what cannot travel stays
                extra[name] = dumps_back(value)
    if extra:
        fields[_EXTRA] = extra
    return fields


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # as logging itself does: a bad record never harms its caller
        text = f"{record.msg!r} cannot be formatted with {record.args!r}: {error!r}"
        record.msg, record.args = text, None
        return text


# -- records, in the test process


class _OfTask(logging.LogRecord):
    """A record whose message formatters show behind the name of its task."""

    @property
    def task(self) -> str:
        """The name of the task; the caller's own attribute of that name goes before it."""
        return str(self.__dict__.get("task", self.__dict__[_TASK]))

    @task.setter
    def task(self, name: str) -> None:
        self.__dict__["task"] = name  # by a filter of the user's

    @property
    def message(self) -> str:
        return self.getMessage()

    @message.setter
    def message(self, text: str) -> None:
        # Formatters set the attribute, and take the text from the dict.
        self.__dict__["message"] = f"[{self.__dict__[_TASK]}] {text}"


_kinds: dict[type[logging.LogRecord], type[logging.LogRecord]] = {logging.LogRecord: _OfTask}


def mark(record: logging.LogRecord, task: str) -> None:
    """Make a record one of a task."""
    kind = type(record)
    if not issubclass(kind, _OfTask):
        if kind not in _kinds:  # of a factory of the user's
            _kinds[kind] = type(kind.__name__, (_OfTask, kind), {})
        record.__class__ = _kinds[kind]
    record.processName = record.__dict__.setdefault(_TASK, task)


class _Inbox:
    """Records that wait to be handled; any thread may bring some.

    They are handled at once, by the thread that brings them, but for a pause: between two phases of
    a test, when nothing of pytest's listens, they wait.
    """

    def __init__(self) -> None:
        self._records: deque[tuple[str, Record]] = deque()
        self.open = True
        self.forked()

    def forked(self) -> None:
        """Have a new lock, and no tasks: another thread may have held the old one."""
        self._handling = threading.RLock()
        _subscribers.clear()

    def receive(self, task: str, records: Iterable[Record]) -> None:
        self._records.extend((task, record) for record in records)
        if self.open:
            self._handle()

    def pause(self) -> None:
        with self._handling:
            self.open = False

    def resume(self) -> None:
        self.open = True
        self._handle()

    def _handle(self) -> None:
        with self._handling:
            while self.open and self._records:
                _handle(*self._records.popleft())


def _handle(task: str, fields: Record) -> None:
    try:
        record = logging.makeLogRecord(fields)
        for name, data in record.__dict__.pop(_EXTRA, {}).items():
            with contextlib.suppress(Exception):  # its class is not to be had here
                record.__dict__[name] = loads(data)
        mark(record, task)
        logging.getLogger(record.name).handle(record)
    except BaseException:  # of a handler: nothing of the test's stands above us
        if logging.raiseExceptions:
            traceback.print_exc(file=sys.stderr)


_inbox = _Inbox()
receive = _inbox.receive
pause = _inbox.pause
resume = _inbox.resume

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_inbox.forked)
