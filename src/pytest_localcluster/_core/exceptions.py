"""Exceptions on their way from a task to the test process.

An exception travels as a table of plain records, one for each exception that it leads to: itself,
causes, contexts, members of groups, and those among arguments and attributes. A record holds each
part pickled by itself, so that one which cannot be pickled, or not be read, takes nothing else
along. The exception's class runs no code to make it again, unless a part is missing or C code keeps
state of its own: then its ``__reduce__`` is tried.

The copy is an instance of the very class if nothing is missing. Otherwise its class is derived from
that one, or from the nearest bases that the test process can import: with the same name, the same
``str``, and an AttributeError with the reason for each attribute that is missing.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import threading
import traceback
import types
from types import (
    BuiltinFunctionType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    NoneType,
)
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ..errors import RemoteTraceback
from . import accessors, pickling, unpicklable
from .pickling import HERE, dumps_back

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["dump_exception", "load_exception", "reduce_exception"]

_MOST = 500
"""Exceptions in one table; a loop that retries without end may chain any number of them."""

_LONGEST_REPR = 10_000


def dump_exception(error: BaseException) -> tuple[bytes, str]:
    """Return ``error`` as it travels, and its traceback as text."""
    try:
        data = _dump([error])
    except BaseException:  # no user code may take the report of a failure down with it
        data = b""
    return data, _traceback_of(error)


def load_exception(data: bytes, text: str) -> BaseException | None:
    """Return the exception of :func:`dump_exception`; None if there is none in ``data``.

    Its cause and context are what they were. The remote traceback, unless ``text`` is empty, is
    the ``__cause__`` of the last in the chain of causes: of the exception itself if it had none.
    """
    try:
        error = _load(data, 0)
    except Exception:
        return None
    if text:
        _attach(error, RemoteTraceback(text))
    return error


def unknown_exception(text: str) -> BaseException:
    """Return an exception for one of which the traceback is all there is."""
    last = text.rstrip().rpartition("\n")[2]
    name, _, message = last.partition(": ")
    module, _, qualname = name.rpartition(".")
    kind = types.new_class(qualname or "Exception", (_Incomplete, Exception))
    kind.__module__ = module or "builtins"
    error: BaseException = kind(message)
    error.__cause__ = RemoteTraceback(text)
    return error


def reduce_exception(error: BaseException) -> Any:
    """Return how an exception goes that is a part of a result; NotImplemented leaves it to pickle.

    It is left to pickle while the exception itself is being dumped, which its class may lead to.
    """
    busy: set[int] = _state.__dict__.setdefault("busy", set())
    if id(error) in busy or _is_simple(error):
        return NotImplemented
    return _load, (_dump([error]), 0)


def _is_simple(error: BaseException) -> bool:
    """Return whether pickle does well by itself, and faster: a task may warn a thousand times."""
    kind: Any = type(error)
    own = kind.__init__, kind.__reduce__, kind.__reduce_ex__, kind.__setstate__
    return (
        not any(isinstance(method, FunctionType) for method in (*own, kind.__new__))
        and error.__cause__ is error.__context__ is None
        and not isinstance(error, BaseExceptionGroup)
        and all(type(part) in _SIMPLE for part in (*_args(error), *vars(error).values()))
    )


_SIMPLE = frozenset({bool, bytes, float, int, str, NoneType})


_state = threading.local()


def _traceback_of(error: BaseException) -> str:
    frames = last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is not None and last.tb_frame.f_code.co_filename == pickling.__file__:
        return ""  # an error in pickling: the message has it all
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(HERE):
        frames = frames.tb_next  # our own frames say nothing to the user
    try:
        text = traceback.format_exception(type(error), error, frames or error.__traceback__)
        return "".join(text)
    except BaseException as failure:
        return f"{type(error).__qualname__}: (no traceback: {type(failure).__qualname__})\n"


def _attach(error: BaseException, remote: RemoteTraceback) -> None:
    """Make ``remote`` the last of the causes."""
    seen: set[int] = set()
    last = error
    while (cause := last.__cause__) is not None and not isinstance(cause, RemoteTraceback):
        seen.add(id(last))
        if id(cause) in seen:  # a circle: no end to put it at
            remote.__cause__, last = error.__cause__, error
            break
        last = cause
    # Where there is a RemoteTraceback, of a cluster in the task, the new one has its text, too.
    suppress = last.__suppress_context__
    last.__cause__ = remote
    last.__suppress_context__ = suppress


class _Kind(NamedTuple):
    """A class: what it is called, itself pickled, and its bases by number."""

    module: str
    qualname: str
    data: bytes
    bases: tuple[int, ...]


class _Record(NamedTuple):
    """One exception.

    Attributes:
        kinds: its class, and all that this derives from; its own first.
        whole: pickled by its class's own means; empty if its parts suffice.
        args: each pickled, or None; and its repr if it could not be.
        members: attributes that the interpreter or ``__slots__`` keep, each pickled.
        attributes: those in its ``__dict__``, each pickled.
        recorded: values of properties and accessors: whether it is called, and the value pickled.
        absent: why attributes could not be pickled.
        text: its ``str``; None if that raises.
        repr: its ``repr`` if its class has one of its own.
        cause: its number in the table.
        context: likewise.
        suppress: its ``__suppress_context__``.
        group: message and members, by number, if it is a group.
        raised: file, function, first line of that, and line where it was raised, if known.
    """

    kinds: tuple[_Kind, ...]
    whole: bytes
    args: tuple[tuple[bytes | None, str], ...]
    members: dict[str, bytes]
    attributes: dict[str, bytes]
    recorded: dict[str, tuple[bool, bytes]]
    absent: dict[str, str]
    text: str | None
    repr: str | None
    cause: int | None
    context: int | None
    suppress: bool
    group: tuple[str, tuple[int, ...]] | None
    raised: tuple[str, str, int, int] | None


def _dump(roots: list[BaseException]) -> bytes:
    busy: set[int] = _state.__dict__.setdefault("busy", set())
    dump = _Dump(roots, busy)
    try:
        records = [tuple(map(_plain, dump.record(error))) for error in dump.table]
    finally:
        busy -= dump.begun
    return pickle.dumps(records, pickle.HIGHEST_PROTOCOL)


def _plain(value: Any) -> Any:
    """Return a field of a record without classes of ours, which another version may not have."""
    return (
        tuple(map(tuple, value))
        if value and isinstance(value, tuple) and isinstance(value[0], _Kind)
        else value
    )


class _Dump:
    """The table of exceptions, which grows while records are made of those in it."""

    def __init__(self, roots: list[BaseException], busy: set[int]) -> None:
        self.table = list(roots)
        self.numbers = {id(error): number for number, error in enumerate(roots)}
        self.busy = busy
        self.begun: set[int] = set()
        self._begin(*roots)

    def _begin(self, *errors: BaseException) -> None:
        new = set(map(id, errors)) - self.busy
        self.begun |= new
        self.busy |= new

    def number(self, error: BaseException | None) -> int | None:
        """Return the place in the table; None for none, and where it is full."""
        if error is None:
            return None
        number = self.numbers.get(id(error))
        if number is None and len(self.table) < _MOST:
            number = self.numbers[id(error)] = len(self.table)
            self.table.append(error)
            self._begin(error)
        return number

    def pickle(self, value: object) -> bytes:
        """Pickle a value, and see that it can be read."""
        data = dumps_back(value, self.reference)
        _read(data, self.table.__getitem__)
        return data

    def reference(self, value: object) -> int | None:
        return self.number(value) if isinstance(value, BaseException) else None

    def record(self, error: BaseException) -> _Record:
        kind = type(error)
        absent: dict[str, str] = {}
        args = tuple(self._argument(arg) for arg in _args(error))
        members = self._all(dict(_members(error)), absent)
        attributes = self._all(dict(vars(error)), absent)
        incomplete = bool(absent) or any(data is None for data, _ in args)
        recorded = {}
        for name, called, value in accessors.values(error, everything=incomplete):
            with contextlib.suppress(BaseException):
                recorded[name] = called, self.pickle(value)
        text = _told(str, error)
        own_repr = kind.__repr__ is not BaseException.__repr__
        return _Record(
            kinds=tuple(_kinds(kind)),
            whole=self._whole(error, text) if incomplete or _is_foreign(kind) else b"",
            args=args,
            members=members,
            attributes=attributes,
            recorded=recorded,
            absent=absent,
            text=text,
            repr=(_told(repr, error) or "")[:_LONGEST_REPR] if own_repr else None,
            cause=self.number(error.__cause__),
            context=self.number(error.__context__),
            suppress=error.__suppress_context__,
            group=self._group(error),
            raised=_raised(error),
        )

    def _argument(self, value: object) -> tuple[bytes | None, str]:
        try:
            return self.pickle(value), ""
        except BaseException:
            return None, (_told(repr, value) or object.__repr__(value))[:_LONGEST_REPR]

    def _all(self, values: dict[str, Any], absent: dict[str, str]) -> dict[str, bytes]:
        found = {}
        for name, value in values.items():
            try:
                found[name] = self.pickle(value)
            except BaseException as error:
                absent[name] = unpicklable.reason(name, value, error, self.pickle)
        return found

    def _group(self, error: BaseException) -> tuple[str, tuple[int, ...]] | None:
        if not isinstance(error, BaseExceptionGroup):
            return None
        numbers = [self.number(member) for member in error.exceptions]
        known = tuple(number for number in numbers if number is not None)
        return (str(error.message), known) if known else None

    def _whole(self, error: BaseException, text: str | None) -> bytes:
        """Pickle an exception as its class says; return nothing if that does not give the same."""
        try:
            data = dumps_back(
                error, lambda value: None if value is error else self.reference(value)
            )
            again = _read(data, self.table.__getitem__)
            return data if type(again) is type(error) and _told(str, again) == text else b""
        except BaseException:
            return b""


def _told(how: Any, value: object) -> str | None:
    try:
        return str(how(value))
    except BaseException:
        return None


def _args(error: BaseException) -> tuple[Any, ...]:
    """Return what ``args`` are, whatever a property of that name says."""
    args: tuple[Any, ...] = BaseException.args.__get__(error)  # type: ignore[attr-defined]
    return args


def _members(error: BaseException) -> Iterator[tuple[str, Any]]:
    """Yield attributes that are in no ``__dict__``: the interpreter's, as errno, and slots."""
    for base in type(error).__mro__:
        if base in (BaseException, BaseExceptionGroup, object):
            continue
        for name, place in list(vars(base).items()):
            fits = isinstance(place, MemberDescriptorType) or (
                isinstance(place, GetSetDescriptorType) and base.__module__ == "builtins"
            )
            # Python keeps the object that lacks an attribute for its hints; pickle drops it, too.
            if not fits or name.startswith("__") or (base is AttributeError and name == "obj"):
                continue
            with contextlib.suppress(AttributeError):  # it has no value
                yield name, place.__get__(error, type(error))


def _kinds(kind: type) -> Iterator[_Kind]:
    order = [base for base in kind.__mro__ if base is not object]
    numbers = {base: number for number, base in enumerate(order)}
    for base in order:
        try:
            data = dumps_back(base)
        except BaseException:
            data = b""
        bases = tuple(numbers[each] for each in base.__bases__ if each in numbers)
        yield _Kind(base.__module__, base.__qualname__, data, bases)


def _is_foreign(kind: type) -> bool:
    """Return whether its instances may have state that only C code sees."""
    return any(
        isinstance(vars(base).get("__new__"), BuiltinFunctionType) and base.__module__ != "builtins"
        for base in kind.__mro__
    )


def _raised(error: BaseException) -> tuple[str, str, int, int] | None:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or last.tb_lineno is None:
        return None
    code = last.tb_frame.f_code
    return code.co_filename, code.co_name, code.co_firstlineno, last.tb_lineno


class _Reader(pickle.Unpickler):
    """Reads a part, with exceptions of the table where the part refers to them."""

    def __init__(self, data: bytes, find: Any) -> None:
        super().__init__(io.BytesIO(data))
        self._find = find

    def persistent_load(self, number: Any) -> Any:
        return self._find(number)


def _read(data: bytes, find: Any) -> Any:
    return _Reader(data, find).load()


def _load(data: bytes, number: int) -> BaseException:
    """Return an exception of a table."""
    records = [
        _Record(tuple(_Kind(*kind) for kind in kinds), *rest) for kinds, *rest in pickle.loads(data)
    ]
    first = _Load(data, records, {})
    # Missing parts and other texts show once all are made.
    errors = first.errors()
    if first.wrong:
        errors = _Load(data, records, first.wrong).errors()
    return errors[number]


class _Load:
    """Makes the exceptions of a table.

    Args:
        data: the table.
        records: its records.
        derived: the numbers of exceptions that need a derived class, each with what is missing.
    """

    def __init__(
        self, data: bytes, records: list[_Record], derived: dict[int, dict[str, str]]
    ) -> None:
        self.data = data
        self.records = records
        self.derived = derived
        self.wrong: dict[int, dict[str, str]] = {}
        self.made: dict[int, BaseException] = {}

    def errors(self) -> list[BaseException]:
        numbers = range(len(self.records))
        for number in reversed(numbers):  # members of groups come after these, usually
            self.make(number)
        for number in numbers:
            self.fill(number)
        for number in numbers:
            self.chain(number)
        for number, record in enumerate(self.records):
            if number not in self.derived and (
                record.text is not None and _told(str, self.made[number]) != record.text
            ):
                self.wrong.setdefault(number, {})
        return [self.made[number] for number in numbers]

    def make(self, number: int) -> BaseException:
        """Return the exception without its parts, but with the members of a group."""
        if number in self.made:
            return self.made[number]
        record = self.records[number]
        error: BaseException | None = None
        if record.whole:
            with contextlib.suppress(Exception):
                again = _read(record.whole, self.make)
                if isinstance(again, BaseException) and _is_named(type(again), record):
                    error = again
        if error is None:
            group: tuple[Any, ...] = ()
            if record.group is not None:
                message, members = record.group
                group = message, [self.make(member) for member in members]
            error = self._blank(number, record, group)
        self.made[number] = error
        return error

    def _blank(self, number: int, record: _Record, group: tuple[Any, ...]) -> BaseException:
        known: list[Any] = [_class_from(kind) for kind in record.kinds]
        missing = {**record.absent, **self.derived.get(number, {})}
        whole = all(data is not None for data, _ in record.args) and number not in self.derived
        if known[0] is not None and not missing and whole:
            with contextlib.suppress(Exception):
                return _new(known[0], group)
        for bases in _bases(record.kinds, known):
            with contextlib.suppress(Exception):
                kind: Any = types.new_class(
                    record.kinds[0].qualname.rpartition(".")[2], (_Incomplete, *bases)
                )
                kind.__module__, kind.__qualname__ = record.kinds[0][:2]
                kind.__doc__ = bases[0].__doc__
                kind._localcluster = _Origin(self.data, number, record.text, record.repr, missing)
                return _new(kind, group)
        raise TypeError(f"{record.kinds[0].qualname} has no base that is an exception")

    def fill(self, number: int) -> None:
        error, record = self.made[number], self.records[number]
        kind: Any = type(error)
        notes = vars(error).get("__notes__")
        wanted = {**record.members, **record.attributes}
        if not (record.whole and not isinstance(error, _Incomplete) and _is_named(kind, record)):
            error.args = tuple(
                _Missing(text) if data is None else self._part(number, data, text)
                for data, text in record.args
            )
        elif notes is None:  # its class has put it together again, and may have left these out
            wanted = {name: data for name, data in wanted.items() if name == "__notes__"}
        else:
            wanted = {}
        for name, data in wanted.items():
            try:
                value = _read(data, self.made.__getitem__)
            except Exception as failure:
                self._lacks(number, name, failure)
                continue
            _put(error, name, value)
        if isinstance(error, _Incomplete):
            self._fill_class(kind, record)
            kind._localcluster_state = dict(vars(error))

    def _part(self, number: int, data: bytes, text: str) -> object:
        try:
            return _read(data, self.made.__getitem__)
        except Exception as failure:
            self.wrong.setdefault(number, {})
            return _Missing(
                text or f"<an argument that cannot be read here: {_in_a_line(failure)}>"
            )

    def _lacks(self, number: int, name: str, failure: Exception) -> None:
        reason = f"{name} cannot be read in the test process: {_in_a_line(failure)}"
        self.wrong.setdefault(number, {})[name] = reason

    def _fill_class(self, kind: Any, record: _Record) -> None:
        for name, (called, data) in record.recorded.items():
            with contextlib.suppress(Exception):
                setattr(kind, name, _Recorded(_read(data, self.made.__getitem__), called))
        for name, why in kind._localcluster.absent.items():
            setattr(kind, name, _Absent(name, why))

    def chain(self, number: int) -> None:
        error, record = self.made[number], self.records[number]
        for name, other in (("__cause__", record.cause), ("__context__", record.context)):
            if other is not None:
                setattr(error, name, self.made[other])
        error.__suppress_context__ = record.suppress
        if number and record.raised is not None and self.records[0].group is None:
            _locate(error, *record.raised)


def _class_from(kind: _Kind) -> type | None:
    """Return the class that a record names; None if this process cannot import it."""
    if not kind.data:
        return None
    try:
        found = pickle.loads(kind.data)
    except BaseException:  # whatever the import of its module comes to
        return None
    return found if isinstance(found, type) else None


def _is_named(kind: type, record: _Record) -> bool:
    return (kind.__module__, kind.__qualname__) == record.kinds[0][:2]


def _bases(kinds: tuple[_Kind, ...], known: list[Any]) -> Iterator[tuple[type, ...]]:
    """Yield the bases of a derived class, from the best choice to the least."""

    def nearest(number: int) -> Iterator[Any]:
        if known[number] is not None:
            yield known[number]
            return
        for base in kinds[number].bases:
            yield from nearest(base)

    found = list(dict.fromkeys(nearest(0)))
    found = [
        kind
        for kind in found
        if not any(other is not kind and issubclass(other, kind) for other in found)
    ]
    errors = [kind for kind in found if issubclass(kind, BaseException)]
    if errors:
        yield tuple(found)
        yield tuple(errors)
    for kind in known:
        if isinstance(kind, type) and issubclass(kind, BaseException):
            yield (kind,)


def _new(kind: Any, group: tuple[Any, ...]) -> BaseException:
    """Make an instance by the interpreter's own means; nothing of the user's runs."""
    if not issubclass(kind, BaseException):
        raise TypeError(f"{kind!r} is no exception")
    for base in kind.__mro__:
        new = vars(base).get("__new__")
        if isinstance(new, BuiltinFunctionType):
            error: BaseException = new(kind, *group)
            return error
    raise TypeError(f"{kind!r} is no exception")


def _put(error: BaseException, name: str, value: object) -> None:
    """Set an attribute where the class has it here: a slot may have been none in the task."""
    for base in type(error).__mro__:
        place = vars(base).get(name)
        if isinstance(place, (MemberDescriptorType, GetSetDescriptorType)):
            with contextlib.suppress(AttributeError, TypeError):  # as one that has no value yet
                if place.__get__(error, type(error)) is value:
                    return
            with contextlib.suppress(AttributeError, TypeError):  # as what cannot be set
                place.__set__(error, value)
            return
    vars(error)[name] = value


def _locate(error: BaseException, file: str, name: str, first: int, line: int) -> None:
    """Give a cause or context the line where it was raised as its traceback."""
    with contextlib.suppress(Exception):
        code = compile("\n" * max(0, line - first) + "raise error", file, "exec")
        code = code.replace(co_name=name, co_firstlineno=first)
        cause, context, suppress = error.__cause__, error.__context__, error.__suppress_context__
        try:
            exec(code, {"error": error, "__name__": name})
        except BaseException as raised:
            if raised is error and raised.__traceback__ is not None:
                raised.__traceback__ = raised.__traceback__.tb_next
        error.__cause__, error.__context__ = cause, context
        error.__suppress_context__ = suppress


def _in_a_line(error: BaseException) -> str:
    text = _told(str, error) or ""
    return f"{type(error).__qualname__}: {text}".partition("\n")[0]


class _Origin(NamedTuple):
    """The record of an incomplete exception, and the reasons for missing attributes."""

    data: bytes
    number: int
    text: str | None
    repr: str | None
    absent: dict[str, str]


class _Incomplete:
    """The first base of the classes of exceptions that are not complete."""

    __slots__ = ()
    _localcluster = _Origin(b"", 0, None, None, {})
    _localcluster_state: ClassVar[dict[str, object]] = {}

    def __init_subclass__(cls, **_: object) -> None:
        """Keep the hooks of the bases from running: this is no subclass of the user's."""

    def __del__(self) -> None:
        """Keep those of the bases from running: they clean up parts that are missing."""

    def __str__(self) -> str:
        text = type(self)._localcluster.text
        return super().__str__() if text is None else text

    def __repr__(self) -> str:
        text = type(self)._localcluster.repr
        if text:
            return text
        return BaseException.__repr__(self)  # type: ignore[arg-type]  # it is one

    def __getattr__(self, name: str) -> Any:
        why = type(self)._localcluster.absent.get(name)
        if why is not None:
            raise _no_attribute(name, why)
        for base in type(self).__mro__:
            getter = vars(base).get(name)
            if isinstance(getter, property) and getter.fget is not None:
                return getter.fget(self)  # it failed, and says again what it misses
        try:
            found = super().__getattr__  # type: ignore[misc]  # of a base of the user's
        except AttributeError:
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=self) from None
        try:
            return found(name)
        except AttributeError:
            raise
        except Exception as error:  # it may need what is missing
            raise AttributeError(f"{name}: {_in_a_line(error)}") from error

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        data, number, *_ = type(self)._localcluster
        if not data:
            return unknown_exception, (str(self),)
        came = type(self)._localcluster_state
        state = {name: each for name, each in vars(self).items() if came.get(name) is not each}
        if "__notes__" in vars(self):
            state["__notes__"] = list(vars(self)["__notes__"])
        return _load, (data, number), state


def _no_attribute(name: str, why: str) -> AttributeError:
    return AttributeError(f"{name!r} did not come along from the task: {why}")


class _Recorded:
    """An attribute whose value was read in the task, or a method that was called there."""

    def __init__(self, value: object, called: bool) -> None:
        self.value = value
        self.called = called

    def __get__(self, error: object, kind: type) -> Any:
        if error is None:
            return self
        value = self.value
        return (lambda: value) if self.called else value


class _Absent:
    """An attribute that did not come along."""

    def __init__(self, name: str, why: str) -> None:
        self.name = name
        self.why = why

    def __get__(self, error: object, kind: type) -> Any:
        if error is None:
            return self
        raise _no_attribute(self.name, self.why)


class _Missing:
    """Stands in ``args`` for an object that could not be pickled, with the same repr."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text
