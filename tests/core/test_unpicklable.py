"""The names of what cannot go into a task or come back, and the way out."""

from __future__ import annotations

import contextvars
import functools
import itertools
import os
import queue
import re
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from pytest_localcluster import LocalCluster, Session, constant, function, lease_port
from pytest_localcluster._clock import now
from pytest_localcluster._core import pickling, unpicklable
from pytest_localcluster.errors import TransferError

LOCK = threading.Lock()


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=1, ps=0) as cluster:
        yield cluster


def locked() -> bool:
    return LOCK.locked()


def helper() -> bool:
    return locked()


def by_default(value: object = LOCK) -> object:
    return value


def by_keyword(*, value: object = LOCK) -> object:
    return value


class Service:
    def __init__(self) -> None:
        self.connections = {"a": [threading.Lock()]}

    def method(self) -> None:
        """Take the service along."""


class Static:
    @staticmethod
    def locked() -> bool:
        return LOCK.locked()


class Slotted:
    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Sparing:
    """Leaves out one of its locks itself."""

    def __init__(self) -> None:
        self.own = threading.Lock()
        self.parts = [threading.Lock()]

    def __getstate__(self) -> Any:
        return {"parts": self.parts}


class Caller:
    def __init__(self) -> None:
        self.queue: queue.Queue[int] = queue.Queue()

    def __call__(self) -> None:
        """Take the queue along."""


class Refuses:
    def __reduce__(self) -> Any:
        raise ValueError("not me")


def nested_closure() -> Callable[[], object]:
    lock = threading.Lock()

    def inner() -> object:
        return lock

    return lambda: [inner()]


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


NAMES: list[tuple[str, Callable[..., object], tuple[object, ...]]] = [
    ("global LOCK is a _thread.lock", locked, ()),
    ("global locked() -> global LOCK is a _thread.lock", helper, ()),
    ("closure variable inner() -> closure variable lock is a _thread.lock", nested_closure(), ()),
    ("default argument value is a _thread.lock", by_default, ()),
    ("default argument value is a _thread.lock", by_keyword, ()),
    ("global Static.locked() -> global LOCK is a _thread.lock", lambda: Static.locked(), ()),
    ("self.connections['a'][0] is a _thread.lock", Service().method, ()),
    ("args[1]['conn'].connections['a'][0] is a _thread.lock", print, (1, {"conn": Service()})),
    ("args[0].lock is a _thread.lock", print, (Slotted(),)),
    ("args[0].parts[0] is a _thread.lock", print, (Sparing(),)),
    ("args[0][1][0] is a _thread.lock", print, ((1, [LOCK]),)),
    ("partial.args[0] is a _thread.lock", functools.partial(print, LOCK), ()),
    ("partial.keywords['end'] is a _thread.lock", functools.partial(print, end=LOCK), ()),
    ("function.queue is a queue.Queue", Caller(), ()),
    ("args[0] is a threading.Event", print, (threading.Event(),)),
    ("args[0] is a generator", print, ((n for n in (1, 2)),)),
    ("args[0] is a weakref.ReferenceType", print, (weakref.ref(Service),)),
    ("args[0] is a _contextvars.ContextVar", print, (contextvars.ContextVar[int]("v"),)),
    ("args[0] is a list (PicklingError: ", print, (nested(9999),)),
    ("[0] is a _thread.lock", print, (np.array([LOCK], dtype=object),)),
    ("args[0]['x'] is a tests.core.test_unpicklable.Refuses", print, ({"x": Refuses()},)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fn", "args"), NAMES)
def test_it_is_named_by_its_path(
    name: str, fn: Callable[..., object], args: tuple[object, ...]
) -> None:
    with pytest.raises(TransferError) as caught:
        pickling.dump_call(fn, args, {}, "/job:ps/task:0")
    assert name in str(caught.value)
    assert " cannot be sent to /job:ps/task:0: " in str(caught.value)
    assert "\n  To fix this: " in str(caught.value)
    assert caught.value.path in name or caught.value.path.endswith(name.partition(" is ")[0])


def test_it_is_what_pickle_raises() -> None:
    for kind in (TypeError, pickling.pickle.PicklingError):  # type: ignore[attr-defined]
        with pytest.raises(kind, match="cannot pickle '_thread.lock' object"):
            pickling.dump_call(print, (), {"end": LOCK}, "x")


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (lambda: socket.socket(), "connect in the function, and pass the address"),
        (lambda: open(os.devnull, "w"), "open the file in the function"),  # noqa: PTH123, SIM115
        (lambda: grpc.insecure_channel("localhost:1"), "dial in the function"),
        (lambda: (n for n in (1, 2)), "pass list(...) of it"),
        (lambda: lease_port(), "pass its port or address"),
        (lambda: type("A", (), {"__reduce__": Refuses.__reduce__})(), "make it in the function"),
    ],
)
def test_the_way_out_is_of_its_kind(value: Callable[[], Any], remedy: str) -> None:
    held = value()
    try:
        with pytest.raises(TransferError, match=f"To fix this: {re.escape(remedy)}"):
            pickling.dump_call(print, (held,), {}, "x")
    finally:
        getattr(held, "close", getattr(held, "release", lambda: None))()


def test_what_is_large_is_looked_through_in_bounded_time() -> None:
    def slow(value: object) -> object:
        looked.append(value)
        threading.Event().wait(0.2)
        raise TypeError("no")

    looked: list[object] = []
    began = now()
    error = unpicklable.explain("x", [("args[0]", [[[[[[[[[[]]]]]]]]]])], TypeError("no"), slow)
    assert now() - began < 5
    assert "args[0]" in str(error)
    assert len(looked) < 10


def test_looking_raises_nothing() -> None:
    class Worse:
        def __reduce_ex__(self, _: object) -> Any:
            raise RuntimeError("again")

        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    for value in (Worse(), {"a": Worse()}, {Worse()}, {Worse(): 1}):
        with pytest.raises(TransferError, match=r"args\[0\]|RuntimeError"):
            pickling.dump_call(print, (value,), {}, "x")


def test_what_belongs_to_pytest_stays(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
) -> None:
    stays = request, monkeypatch, capsys, caplog, recwarn, tmp_path_factory, request.node
    for value in (*stays, request.config):
        with pytest.raises(
            TransferError,
            match=r"closure variable value is a _pytest\..*, which belongs to pytest, and stays",
        ):
            pickling.dump_call(lambda: value, (), {}, "x")  # noqa: B023
    pickling.dump_call(lambda: (tmp_path, pytest.approx(1)), (), {}, "x")


def iter_of_two() -> Any:
    return (n for n in (1, 2))


def test_results_are_named_likewise(cluster: LocalCluster) -> None:
    class Result:
        def __init__(self) -> None:
            self.x = [open(os.devnull, "w")]  # noqa: SIM115, PTH123

    with pytest.raises(
        TransferError, match=r"Result returned what .*: returned.x\[0\] is a _io.TextIOWrapper"
    ) as caught:
        cluster.run(Result)
    assert caught.value.__cause__ is None, "where in the task it was raised is no news"
    with pytest.raises(TransferError, match=r"returned\[0\] is a generator"):
        cluster.run(lambda: [iter_of_two()])


def test_operations_are_named_likewise(cluster: LocalCluster) -> None:
    with pytest.raises(
        TransferError, match="^function locked cannot be sent to a task: global LOCK is a _thread"
    ):
        function(locked)()
    with pytest.raises(
        TransferError, match=r"^an argument of print cannot be sent to a task: args\[1\]\['a'\] is"
    ):
        function(print)(1, {"a": LOCK})
    x = constant(1.0)
    with pytest.raises(TransferError, match="closure variable x is a .*Tensor .*as an argument"):
        cluster.run(lambda: x)
    with Session(cluster.workers[0].target) as session:
        assert session.run(x) == 1.0


def test_a_module_that_is_only_here(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_where_the_test_is.py").write_text("def f():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_where_the_test_is  # type: ignore[import-not-found]

    with pytest.raises(ModuleNotFoundError) as caught:
        cluster.workers[0].run(only_where_the_test_is.f)
    (note,) = caught.value.__notes__
    assert note.startswith("only_where_the_test_is was imported in the test process, ")
    assert "and cannot be in /job:worker/task:0\n  To fix this: restart() the task" in note
    cluster.workers[0].restart()
    assert cluster.workers[0].run(only_where_the_test_is.f) == 1


def test_a_module_that_is_only_there(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "only_where_the_task_is.py").write_text("class A:\n    pass\n")

    def make() -> object:
        import sys

        sys.path.insert(0, str(tmp_path))
        import only_where_the_task_is  # type: ignore[import-not-found]

        return only_where_the_task_is.A()

    with pytest.raises(ModuleNotFoundError) as caught:
        cluster.workers[0].run(make)
    (note,) = caught.value.__notes__
    assert note.startswith("only_where_the_task_is was imported in /job:worker/task:0, ")


def test_what_pickles_goes_on_to(cluster: LocalCluster) -> None:
    goes = [re.compile("x"), itertools.chain, functools.partial(int, base=2), np.random.default_rng]
    assert cluster.run(lambda: [type(value).__name__ for value in goes])


def test_the_red_test_shows_its_own_line(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\naddopts = -p no:asyncio -p no:xdist")
    pytester.makepyfile(
        """
        import threading
        LOCK = threading.Lock()
        def test_lock(local_cluster):
            local_cluster.run(lambda: LOCK)
        """
    )
    result = pytester.runpytest_subprocess(timeout=100)
    result.stdout.fnmatch_lines(
        [
            ">*local_cluster.run(lambda: LOCK)",
            "E *TransferError: *cannot be sent to /job:worker/task:0: global LOCK is a _thread*",
            "E *To fix this: make it in the function*",
        ]
    )
    shown = result.stdout.str()
    assert "_core/pickling.py" not in shown
    assert "cloudpickle" not in shown
    assert "direct cause" not in shown
    assert "During handling" not in shown
