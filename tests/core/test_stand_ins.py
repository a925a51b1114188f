"""The classes and functions of a test module are at home in a task: whatever refers to them works.

This module is the test module of its own tests. In a task nothing of it is ever executed: the log
of its executions, a file, has one line.
"""

from __future__ import annotations

import abc
import collections
import concurrent.futures
import copy
import copyreg
import dataclasses
import enum
import functools
import importlib
import inspect
import json
import multiprocessing
import os
import pickle
import sys
import threading
import typing
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, NewType, ParamSpec, TypeVar
from unittest import mock

import pytest

from pytest_localcluster import LocalCluster

LOADED_IN = os.getpid()
"""The process that has executed this file: a task that does so again has another one."""

LOCK = threading.Lock()  # cannot be pickled, and is in nobody's way
OFFSET = 10
LIMITS: dict[str, int] = {"most": 3}

T = TypeVar("T")
P = ParamSpec("P")
UserId = NewType("UserId", int)


class Missing:
    """A sentinel, which pickles by its name."""

    def __reduce__(self) -> str:
        return "MISSING"


MISSING = Missing()


class Metric:
    """A plain class."""

    unit = "s"

    def __init__(self, value: float = 0.0) -> None:
        self.value = value

    def scaled(self) -> float:
        return self.value * OFFSET

    @staticmethod
    def zero() -> Metric:
        return Metric()

    @classmethod
    def of(cls, value: float) -> Metric:
        return cls(value)

    class Inner:
        """A class in a class."""


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Bits(enum.Flag):
    A = 1
    B = 2


class Sample(NamedTuple):
    x: float
    tags: tuple[str, ...] = ()


Pair = collections.namedtuple("Pair", "a b")  # noqa: PYI024  # the other kind is there, too


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    to: Point | None = None


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self) -> float: ...


class Square(Shape):
    def __init__(self, side: float) -> None:
        self.side = side

    def area(self) -> float:
        return self.side**2


class Registered(type):
    """A metaclass that lists its classes."""

    classes: typing.ClassVar[list[str]] = []

    def __new__(mcs, name: str, bases: Any, namespace: Any) -> Any:
        mcs.classes.append(name)
        return super().__new__(mcs, name, bases, namespace)


class Plugin(metaclass=Registered):
    """A class of that metaclass."""


class Box(Generic[T]):
    def __init__(self, content: T) -> None:
        self.content = content


class Slots:
    """A class whose instances have no ``__dict__``."""

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: int) -> None:
        self.value = value


@dataclasses.dataclass(slots=True)
class Slotted:
    value: int


class Row(NamedTuple, Generic[T]):
    value: T


class Counter:
    """A class with an attribute that a test changes."""

    number = 1

    def get(self) -> int:
        return self.number


class Reduced:
    """A class that copyreg knows how to pickle."""

    def __init__(self, value: int) -> None:
        self.value = value
        self.lock = threading.Lock()


def reduce_it(obj: Reduced) -> tuple[type[Reduced], tuple[int]]:
    return Reduced, (obj.value,)


copyreg.pickle(Reduced, reduce_it)


class Complaint(Exception):
    """An exception of the test module."""


def square(x: int) -> int:
    return x * x


def add_offset(x: int) -> int:
    return x + OFFSET


def annotated(point: Point, limit: Colour | None = None) -> Box[int]:
    return Box(point.x)


@functools.lru_cache(maxsize=8)
def cached(x: int) -> int:
    return x + OFFSET


def twice(function: Callable[[int], int]) -> Callable[[int], int]:
    @functools.wraps(function)
    def wrapper(x: int) -> int:
        return function(function(x))

    return wrapper


@twice
def decorated(x: int) -> int:
    return x + 1


def __getattr__(name: str) -> Any:
    if name == "made_up":
        return Point(7)
    raise AttributeError(name)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """One cluster for all: tests of one module share it."""
    with LocalCluster(workers=2, ps=0) as running:
        yield running


def one(cluster: LocalCluster) -> Callable[..., Any]:
    return cluster.workers[0].run


def again(obj: Any) -> Any:
    return pickle.loads(pickle.dumps(obj))


def module() -> Any:
    """Return this module, as whoever runs this function finds it."""
    return sys.modules[__name__]


REFERRED = {
    "class": Metric,
    "function": square,
    "instance": Metric(2.0),
    "inner class": Metric.Inner,
    "static method": Metric.zero,
    "class method": Metric.of,
    "bound method": Metric(1.0).scaled,
    "enum": Colour,
    "member": Colour.RED,
    "flags": Bits.A | Bits.B,
    "named tuple": Sample(1.0, ("a",)),
    "namedtuple": Pair(1, 2),
    "dataclass": Point(1, Point(2)),
    "abstract class": Shape,
    "subclass": Square(2.0),
    "metaclass": Registered,
    "class of it": Plugin,
    "generic": Box[int],
    "box": Box(3),
    "exception": Complaint("no"),
    "cached": cached,
    "decorated": decorated,
    "partial": functools.partial(add_offset, 1),
    "new type": UserId,
    "type variable": T,
    "parameters": P,
    "sentinel": MISSING,
    "copyreg": Reduced(3),
    "method": Counter.get,
    "slots": Slots(1),
    "dataclass with slots": Slotted(1),
    "generic named tuple": Row(1),
}


@pytest.mark.parametrize("obj", REFERRED.values(), ids=REFERRED)
def test_a_task_pickles_it_by_reference(cluster: LocalCluster, obj: Any) -> None:
    one(cluster)(lambda: again(obj))
    assert type(one(cluster)(again, obj)) is type(obj)


SAME = ["class", "function", "inner class", "static method", "enum", "member", "abstract class"]
SAME += ["metaclass", "class of it", "cached", "decorated", "new type", "type variable", "sentinel"]


@pytest.mark.parametrize("name", [*SAME, "parameters"])
def test_it_comes_back_as_itself(cluster: LocalCluster, name: str) -> None:
    obj = REFERRED[name]
    assert one(cluster)(lambda x: x, obj) is obj
    assert one(cluster)(lambda: again(obj)) is obj


@pytest.mark.parametrize("number", [2, 3])
def test_a_changed_class_is_seen_by_the_next_call(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(Counter, "number", number)
    assert one(cluster)(lambda: module().Counter().get()) == number
    assert one(cluster)(lambda: Counter().get()) == number


def test_a_method_pickles_after_its_class_has_arrived(cluster: LocalCluster) -> None:
    method = Counter.get
    one(cluster)(lambda: Counter)
    assert one(cluster)(lambda: again(method)) is method


def test_a_patched_class_stays_patched(cluster: LocalCluster) -> None:
    def patched() -> int:
        with mock.patch(f"{__name__}.Counter.get", return_value=7):
            assert module().uses_counter() == 7  # fetched, with its class, under the patch
        return int(module().uses_counter())

    assert one(cluster)(patched) == 1


def uses_counter() -> int:
    return Counter().get()


def test_a_local_function_and_class_come_back_as_themselves(cluster: LocalCluster) -> None:
    class Local:
        pass

    def local() -> int:
        return 1

    back = one(cluster)(lambda *args: args, local, Local, [local])
    assert back[0] is local
    assert back[1] is Local
    assert back[2][0] is local


def test_a_function_that_is_gone_comes_back_as_a_copy(cluster: LocalCluster) -> None:
    def make() -> Any:
        return cluster.workers[0].submit(lambda f: f, lambda x: x + OFFSET)

    assert make().result()(1) == 11


def test_the_module_stands_for_what_was_sent(cluster: LocalCluster) -> None:
    def look() -> None:
        home = sys.modules[Metric.__module__]
        assert home is importlib.import_module(__name__) is module()
        assert home.Metric is Metric
        assert home.square(3) == 9
        assert home.__file__ == square.__code__.co_filename
        assert os.getpid() != home.LOADED_IN
        assert home.made_up == Point(7)
        assert not hasattr(home, "nothing")

    one(cluster)(look)


def test_what_cannot_be_pickled_says_so_when_it_is_asked_for(cluster: LocalCluster) -> None:
    def look() -> Any:
        return module().LOCK

    with pytest.raises(AttributeError, match=r"'LOCK' in this task: it cannot be pickled: TypeErr"):
        one(cluster)(look)


def test_a_class_is_the_same_class_in_every_call(cluster: LocalCluster) -> None:
    def keep() -> None:
        json.kept = Metric, Colour.RED, MISSING, UserId, T  # type: ignore[attr-defined]

    def compare() -> None:
        kept: Any = json.kept  # type: ignore[attr-defined]
        assert kept[0] is Metric
        assert isinstance(Metric(), kept[0])
        assert kept[1] is Colour.RED
        assert kept[2] is module().MISSING
        assert kept[3] is UserId
        assert kept[4] is T

    one(cluster)(keep)
    one(cluster)(compare)


def test_an_arrival_makes_no_class_twice(cluster: LocalCluster) -> None:
    def count() -> tuple[int, list[str]]:
        return len(Shape.__subclasses__()), Registered.classes

    one(cluster)(lambda: Square(1.0))
    assert one(cluster)(lambda: (Square, count())[1])[0] == 1
    assert one(cluster)(lambda: (Plugin, count())[1])[1].count("Plugin") <= 2


def test_a_changed_global_is_seen_by_the_next_call(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched() -> Any:
        return module().OFFSET, module().add_offset(1), module().LIMITS

    assert one(cluster)(fetched) == (10, 11, {"most": 3})
    monkeypatch.setattr(module(), "OFFSET", 20)
    monkeypatch.setitem(LIMITS, "most", 4)
    assert one(cluster)(fetched) == (20, 21, {"most": 4})
    assert one(cluster)(lambda: (OFFSET, LIMITS["most"])) == (20, 4)
    assert one(cluster)(add_offset, 1) == 21


def test_what_a_call_changes_is_not_seen_by_the_next(cluster: LocalCluster) -> None:
    def change() -> int:
        global OFFSET
        OFFSET = 99
        module().LIMITS["most"] = 99
        return module().add_offset(1)  # type: ignore[no-any-return]

    assert one(cluster)(change) == 100
    assert one(cluster)(add_offset, 1) == 11
    assert one(cluster)(lambda: module().LIMITS["most"]) == 3
    assert OFFSET == 10


def test_a_thread_keeps_the_globals_of_its_call(cluster: LocalCluster) -> None:
    def begin() -> None:
        go, seen = threading.Event(), []

        def wait() -> None:
            go.wait()
            seen.append(add_offset(1))

        thread = threading.Thread(target=wait)
        thread.start()
        json.begun = go, seen, thread  # type: ignore[attr-defined]

    def end() -> list[int]:
        go, seen, thread = json.begun  # type: ignore[attr-defined]
        go.set()
        thread.join()
        return [*seen, add_offset(1)]

    one(cluster)(begin)
    with mock.patch(f"{__name__}.OFFSET", 20):
        assert one(cluster)(end) == [11, 21]


def test_a_function_kept_from_an_earlier_call_pickles(cluster: LocalCluster) -> None:
    def keep(function: Any) -> None:
        json.kept_function = function  # type: ignore[attr-defined]

    one(cluster)(keep, add_offset)
    assert one(cluster)(lambda: again(json.kept_function)(1)) == 11  # type: ignore[attr-defined]


def test_mock_patches_by_name(cluster: LocalCluster) -> None:
    def patched() -> tuple[int, int, int]:
        with mock.patch(f"{__name__}.OFFSET", 5), mock.patch(f"{__name__}.square", return_value=6):
            inside = add_offset(1), square(2)
        with mock.patch(f"{__name__}.cached") as replaced:  # nothing but a name uses it
            assert module().cached is replaced
        return *inside, add_offset(1)

    assert one(cluster)(patched) == (6, 6, 11)


def test_hints_of_functions_and_classes(cluster: LocalCluster) -> None:
    def look() -> None:
        assert typing.get_type_hints(annotated) == {
            "point": Point,
            "limit": Colour | None,
            "return": Box[int],
        }
        assert typing.get_type_hints(Point)["to"] == Point | None
        assert dataclasses.fields(Point)[0].name == "x"
        assert dataclasses.replace(Point(1), x=2) == Point(2)

    one(cluster)(look)


def test_source_and_copies(cluster: LocalCluster) -> None:
    def look() -> None:
        assert inspect.getsource(square).startswith("def square")
        assert inspect.getsource(Colour).startswith("class Colour")
        assert inspect.getmodule(square) is module()
        assert copy.deepcopy(square) is square
        assert copy.deepcopy(Point(1, Point(2))) == Point(1, Point(2))
        assert "square" in dir(module())

    one(cluster)(look)


def test_a_class_that_is_defined_anew(cluster: LocalCluster) -> None:
    def make(value: int) -> Any:
        class Made:
            number = value

        Made.__qualname__ = "Made"
        return Made

    for number in (1, 2):
        module().Made = make(number)
        try:
            assert one(cluster)(lambda: again(module().Made).number) == number
        finally:
            del module().Made


def test_tasks_send_functions_to_each_other_by_name(cluster: LocalCluster) -> None:
    data = pickle.dumps((Square(3.0), add_offset))  # by name, and no call has brought them
    assert cluster.run(lambda: _use(pickle.loads(data))) == [(9.0, 11)] * 2


def _use(parts: tuple[Square, Callable[[int], int]]) -> tuple[float, int]:
    shape, function = parts
    return shape.area(), function(1)


# Children


class Work:
    """Something that a child gets and returns."""

    def __init__(self, value: int) -> None:
        self.value = value


def work(given: Work) -> Work:
    assert os.getpid() != module().LOADED_IN
    assert type(given) is Work is module().Work
    return Work(square(given.value) + OFFSET)


def in_pool(method: str) -> list[int]:
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        return [done.value for done in pool.map(work, map(Work, range(3)))]


def in_executor(method: str) -> list[int]:
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        return [done.value for done in pool.map(work, map(Work, range(3)))]


def in_grandchild(method: str) -> list[int]:
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(in_pool, method).result()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("how", [in_pool, in_executor, in_grandchild])
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_children_find_it(cluster: LocalCluster, how: Any, method: str) -> None:
    assert one(cluster)(how, method) == [10, 11, 14]


def test_a_fork_asks_for_what_has_not_arrived(cluster: LocalCluster) -> None:
    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            os._exit(module().add_offset(5))
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert one(cluster)(fork) == 15


def test_children_see_what_the_task_has_patched(cluster: LocalCluster) -> None:
    def patched() -> Any:
        with mock.patch(f"{__name__}.OFFSET", 1):
            return in_pool("fork")

    assert one(cluster)(patched) == [1, 2, 5]


# The test process


def test_the_classes_here_are_not_touched(cluster: LocalCluster) -> None:
    before = dict(vars(Metric)), dict(vars(Colour)), sys.modules[__name__]
    one(cluster)(lambda: (Metric(), Colour.RED))
    assert (dict(vars(Metric)), dict(vars(Colour)), sys.modules[__name__]) == before


def test_closures_share_what_they_share_here(cluster: LocalCluster) -> None:
    count = 0

    def increase() -> None:
        nonlocal count
        count += 1

    def get() -> int:
        return count

    def both() -> int:
        increase()
        return get()

    assert one(cluster)(both) == 1
    assert count == 0


# Objects that cannot go, and need not


class Held:
    """A class of which a method uses what cannot be pickled."""

    def held(self) -> Any:
        return LOCK


def hinted(held: Held) -> str:
    return "done"


def test_an_annotation_is_no_reason_to_fail(cluster: LocalCluster) -> None:
    assert one(cluster)(hinted, None) == "done"
    with pytest.raises(TypeError, match="cannot pickle '_thread.lock'"):
        one(cluster)(lambda: Held)


THIS = sys.modules[__name__]


def test_a_test_module_as_an_object(cluster: LocalCluster) -> None:
    assert one(cluster)(lambda: THIS.square(2)) == 4
    assert one(cluster)(lambda: THIS) is THIS
