"""Exceptions that come from a task: their types, data and chains, whatever they are made of."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import traceback
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import grpc
import pytest

from pytest_localcluster import ClusterError, LocalCluster, Server, current_task
from pytest_localcluster._core import exceptions
from pytest_localcluster.errors import RemoteTraceback


@pytest.fixture(scope="module")
def worker() -> Iterator[Server]:
    with LocalCluster(workers=1, ps=0) as cluster:
        yield cluster.workers[0]


class Unreachable(ConnectionError):
    def __init__(self, host: str, *, attempts: int) -> None:
        super().__init__(111, "refused", host)
        self.attempts = attempts


class Holder(RuntimeError):
    """Holds what stays in its process."""

    level = "class"

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()
        self.level = threading.Lock()  # type: ignore[assignment]
        self.number = 5
        self._parts = {"sockets": [threading.Lock()]}
        self.closed = False

    def code(self) -> int:
        return self.number

    def parts(self) -> int:
        return len(self._parts)

    def locked(self) -> bool:
        return self.lock.locked()

    def close(self) -> None:
        self.closed = True

    @property
    def busy(self) -> bool:
        return self.lock.locked()

    @property
    def held(self) -> object:
        return self.lock


class Refuses(Exception):
    def __reduce__(self) -> Any:
        raise ValueError("never")


class Leaves(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit(3)


class Lies(Exception):
    def __reduce__(self) -> Any:
        return ValueError, ("another one",)


def fail(*_: object) -> None:
    raise RuntimeError("at load")


class Fails(Exception):
    def __reduce__(self) -> Any:
        return fail, ()


class FailsLate(Exception):
    def __setstate__(self, state: object) -> None:
        raise RuntimeError("at load")


class Renewed(Exception):
    """Makes its lock anew where it is unpickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        return Renewed, self.args


class Slotted(Exception):
    __slots__ = ("port",)

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port

    def __str__(self) -> str:
        return f"port {self.port}"


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class Placed(Exception):
    def __str__(self) -> str:
        return f"in {current_task().task}"


class Final(Exception):
    def __init__(self) -> None:
        super().__init__("final")
        self.lock = threading.Lock()

    def __init_subclass__(cls) -> None:
        raise TypeError("no subclass")


class Batch(ExceptionGroup[Exception]):
    code: int

    def __new__(cls, errors: list[Exception], code: int) -> Self:
        self = super().__new__(cls, f"{len(errors)} failed", errors)
        self.code = code
        return self


class Call(grpc.RpcError):  # type: ignore[misc]  # grpc has no types
    """As stubs in tests make them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked = 0

    def code(self) -> grpc.StatusCode:
        with self.lock:
            return grpc.StatusCode.NOT_FOUND

    def cancel(self) -> None:
        self.asked += 1


def raised(worker: Server, make: Callable[[], object]) -> Any:
    """Return what ``run`` raises for a function that raises what ``make`` returns, or raises."""

    def function() -> None:
        error = make()
        raise error  # type: ignore[misc]  # it is an exception

    with pytest.raises(BaseException) as caught:  # noqa: PT011  # the tests look at it
        worker.run(function)
    assert not isinstance(caught.value, ClusterError)
    return caught.value


WHOLE: list[Callable[[], object]] = [
    lambda: Unreachable("ps0", attempts=3),
    lambda: Refuses("x"),
    lambda: Leaves("x"),
    lambda: Lies("x"),
    lambda: Fails("x"),
    lambda: FailsLate("x"),
    lambda: Renewed("x"),
    lambda: Slotted(8080),
    lambda: urllib.error.HTTPError("http://x", 404, "gone", {"a": "b"}, None),  # type: ignore[arg-type]
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    lambda: json.loads("{"),
    lambda: compile("a b", "file", "exec"),
    lambda: subprocess.CalledProcessError(3, ["ls"], b"out", b"err"),
    lambda: OSError(2, "no such file", "x"),
    lambda: BlockingIOError(11, "later", 5),
    lambda: ImportError("no", name="x", path="y"),
    lambda: StopIteration(5),
    lambda: KeyError("k"),
    lambda: asyncio.CancelledError("c"),
    lambda: GeneratorExit(),
    lambda: asyncio.IncompleteReadError(b"a", 5),
    lambda: ValueError("x" * 5_000_000),
]


@pytest.mark.parametrize("make", WHOLE)
def test_what_is_plain_data_is_as_it_was(worker: Server, make: Callable[[], Any]) -> None:
    try:
        here = make()
    except Exception as error:
        here = error
    there = raised(worker, make)
    assert type(there) is type(here)
    assert str(there) == str(here)
    assert there.args == here.args
    assert isinstance(there.__cause__, RemoteTraceback)
    for name in dir(here):
        value = getattr(here, name, None)
        if isinstance(value, (int, str, bytes, list, dict, type(None))) and name[0] != "_":
            assert getattr(there, name, None) == value, name


def test_what_does_not_come_along_says_why(worker: Server) -> None:
    error = raised(worker, lambda: Holder("busy"))
    assert isinstance(error, Holder)
    assert (type(error).__module__, type(error).__qualname__) == (__name__, "Holder")
    assert str(error) == "busy"
    assert error.args == ("busy",)
    assert error.number == 5
    with pytest.raises(
        AttributeError, match=r"'lock' did not come along from the task: error.lock is a _thread"
    ):
        _ = error.lock
    with pytest.raises(AttributeError, match=r"error._parts\['sockets'\]\[0\] is a _thread.lock"):
        _ = error._parts
    with pytest.raises(AttributeError, match="'level' did not"):
        _ = error.level  # and not that of the class
    with pytest.raises(AttributeError, match="'lock' did not come along"):
        _ = error.held  # a property that needs it
    assert not hasattr(error, "nothing")


def test_accessors_that_only_read_are_read_in_the_task(worker: Server) -> None:
    error = raised(worker, lambda: Holder("busy"))
    assert error.code() == 5
    assert error.parts() == 1
    assert error.busy is False
    assert error.closed is False, "close() is no accessor"
    with pytest.raises(AttributeError, match="'lock' did not"):
        error.locked()  # which calls something, and works on what is here


def test_it_can_be_copied_pickled_changed_and_raised_again(worker: Server) -> None:
    error = raised(worker, lambda: Holder("busy"))
    error.lock = "mine"
    error.add_note("later")
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert isinstance(again, Holder)
        assert (str(again), vars(again)["lock"], again.number) == ("busy", "mine", 5)
        assert again.__notes__ == ["later"]
        with pytest.raises(AttributeError, match="'_parts' did not"):
            _ = again._parts
    twice = exceptions.load_exception(*exceptions.dump_exception(error))
    assert isinstance(twice, Holder)
    assert twice.code() == 5


@pytest.mark.parametrize("make", [Final, lambda: KeyError(threading.Lock()), Unprintable, Placed])
def test_odd_ones_match(worker: Server, make: Callable[[], Any]) -> None:
    error = raised(worker, make)
    assert isinstance(error, type(make()))
    if make is Placed:
        assert str(error) == "in /job:worker/task:0"
    elif make is Final:
        assert str(error) == "final"
    elif make is not Unprintable:
        assert str(error).startswith("<unlocked _thread.lock object")
        assert repr(error.args).startswith("(<unlocked _thread.lock object")


class TestGRPC:
    def test_a_call_that_failed(self, worker: Server) -> None:
        def call() -> None:
            address = current_task().cluster_spec.task_address("worker", 0)
            with grpc.insecure_channel(address) as channel:
                channel.unary_unary("/no/such")(b"")

        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED") as caught:
            worker.run(call)
        error = caught.value
        assert isinstance(error, grpc.Call)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "token" in error.details()
        assert list(error.trailing_metadata()) == list(error.initial_metadata()) == []
        assert error.debug_error_string()
        assert error.exception() is error
        with pytest.raises(AttributeError, match=r"'_state' did not .*: error._state is a grpc"):
            _ = error._state

    def test_a_stream_that_failed(self, worker: Server) -> None:
        def call() -> None:
            address = current_task().cluster_spec.task_address("worker", 0)
            with grpc.insecure_channel(address) as channel:
                list(channel.unary_stream("/no/such")(b""))

        with pytest.raises(grpc.RpcError) as caught:
            worker.run(call)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

    def test_one_of_the_tests_own(self, worker: Server) -> None:
        error = raised(worker, Call)
        assert isinstance(error, grpc.RpcError)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert error.asked == 0


class TestGroups:
    def test_with_a_new_of_its_own(self, worker: Server) -> None:
        error = raised(worker, lambda: Batch([Holder("a"), KeyError("b")], 7))
        assert type(error) is Batch
        assert (error.message, error.code) == ("2 failed", 7)
        first, second = error.exceptions
        assert isinstance(first, Holder)
        assert type(second) is KeyError
        assert error.args[0] == [first, second], "the same objects wherever they are"

    def test_nested_and_caught_by_star(self, worker: Server) -> None:
        def fail() -> None:
            raise ExceptionGroup("a", [OSError(2, "no", "f"), ExceptionGroup("b", [Holder("c")])])

        caught: list[object] = []
        try:
            worker.run(fail)
        except* Holder as group:
            caught.append(group.exceptions[0])
        except* OSError as group:
            caught.append(group.exceptions[0])
        assert len(caught) == 2

    def test_of_base_exceptions(self, worker: Server) -> None:
        error = raised(worker, lambda: BaseExceptionGroup("a", [KeyboardInterrupt(), KeyError()]))
        assert type(error) is BaseExceptionGroup
        assert [type(member) for member in error.exceptions] == [KeyboardInterrupt, KeyError]


class TestChains:
    def test_a_cause_is_the_cause(self, worker: Server) -> None:
        def fail() -> None:
            try:
                raise Holder("first")
            except Holder as error:
                error.add_note("a note")
                raise LookupError("second") from error

        with pytest.raises(LookupError, match="^second$") as caught:
            worker.run(fail)
        cause = caught.value.__cause__
        assert isinstance(cause, Holder)
        assert caught.value.__context__ is cause
        assert cause.__notes__ == ["a note"]
        assert isinstance(cause.__cause__, RemoteTraceback)
        assert 'raise LookupError("second") from error' in str(cause.__cause__)
        (frame,) = traceback.extract_tb(cause.__traceback__)
        assert (frame.filename, frame.name) == (__file__, "fail")
        assert frame.line == 'raise Holder("first")'

    def test_a_context_is_the_context(self, worker: Server) -> None:
        def fail(quietly: bool) -> None:
            try:
                raise KeyError("first")
            except KeyError:
                if quietly:
                    raise LookupError("second") from None
                raise LookupError("second")  # noqa: B904  # without a cause, for the test

        for quietly in (False, True):
            with pytest.raises(LookupError) as caught:
                worker.run(fail, quietly)
            assert type(caught.value.__context__) is KeyError
            assert caught.value.__suppress_context__ is quietly
            assert isinstance(caught.value.__cause__, RemoteTraceback)

    def test_circles(self, worker: Server) -> None:
        def fail() -> None:
            first, second = ValueError("first"), KeyError("second")
            first.__cause__, second.__cause__ = second, first
            first.args = ("first", first)
            first.me = second.it = first  # type: ignore[attr-defined]
            raise first

        with pytest.raises(ValueError, match="first") as caught:
            worker.run(fail)
        error: Any = caught.value
        assert error.args[1] is error.me is error
        remote = error.__cause__
        assert isinstance(remote, RemoteTraceback)
        assert isinstance(remote.__cause__, KeyError)
        assert remote.__cause__.__cause__ is error

    def test_a_very_long_one_is_cut(self, worker: Server) -> None:
        def fail() -> None:
            last: BaseException | None = None
            for number in range(2000):
                error = ValueError(number)
                error.__cause__, last = last, error
            assert last is not None
            raise last

        with pytest.raises(ValueError, match="^1999$") as caught:
            worker.run(fail)
        error: BaseException | None = caught.value
        numbers = []
        while isinstance(error, ValueError):
            numbers.append(error.args[0])
            error = error.__cause__
        assert numbers == list(range(1999, 1999 - len(numbers), -1))
        assert len(numbers) >= 100
        assert isinstance(error, RemoteTraceback)

    def test_too_deep_a_recursion(self, worker: Server) -> None:
        def recurse() -> None:
            recurse()

        with pytest.raises(RecursionError):
            worker.run(recurse)


class TestClasses:
    def test_of_a_function_in_the_task(self, worker: Server) -> None:
        def make() -> Exception:
            class Here(LookupError):
                def code(self) -> int:
                    return 4

            return Here("inside")

        error: Any = raised(worker, make)
        assert LookupError in type(error).__mro__
        assert (type(error).__name__, str(error), error.code()) == ("Here", "inside", 4)

    def test_that_cannot_be_pickled(self, worker: Server) -> None:
        def make() -> Exception:
            lock = threading.Lock()

            class Here(Unreachable):
                def locked(self) -> bool:
                    return lock.locked()

            return Here("ps0", attempts=2)

        error = raised(worker, make)
        assert isinstance(error, Unreachable)
        assert type(error).__name__ == "Here"
        assert (error.errno, error.attempts, str(error)) == (111, 2, "[Errno 111] refused: 'ps0'")

    def test_that_only_the_task_can_import(self, worker: Server, tmp_path: Path) -> None:
        (tmp_path / "module_of_the_task.py").write_text(
            "class Base(KeyError):\n"
            "    pass\n"
            "class Own(Base):\n"
            "    def __init__(self, text, value):\n"
            "        super().__init__(text)\n"
            "        self.value, self.other = value, Base('part')\n"
            "    def code(self):\n"
            "        return self.value\n"
            "    def __str__(self):\n"
            "        return f'{self.value}!'\n"
        )

        def make() -> Exception:
            sys.path.insert(0, str(tmp_path))
            from module_of_the_task import Own  # type: ignore[import-not-found]

            error: Exception = Own("text", 8)
            return error

        error: Any = raised(worker, make)
        assert KeyError in type(error).__mro__
        assert (type(error).__module__, type(error).__qualname__) == ("module_of_the_task", "Own")
        assert (str(error), error.args, error.value, error.code()) == ("8!", ("text",), 8, 8)
        assert KeyError in type(error.other).__mro__
        assert type(error.other).__name__ == "Base"


def test_results_that_are_exceptions(worker: Server) -> None:
    other: Any
    holder, other, same = worker.run(lambda: [(h := Holder("a")), Unreachable("b", attempts=1), h])
    assert isinstance(holder, Holder)
    assert holder is same
    assert holder.__cause__ is None
    assert (type(other), other.attempts) == (Unreachable, 1)


def test_outcomes_of_pytest(worker: Server) -> None:
    for outcome in (pytest.fail, pytest.skip, pytest.xfail):
        with pytest.raises(outcome.Exception, match="there") as caught:
            worker.run(outcome, "there")
        assert type(caught.value) is outcome.Exception


def test_an_assertion_has_pytests_words(worker: Server) -> None:
    def check() -> None:
        assert [1, 2] == [1, 3], "the rows"

    with pytest.raises(AssertionError, match=r"the rows\n.*\[1, 2\] == \[1, 3\]"):
        worker.run(check)


def test_what_is_no_table_is_none() -> None:
    for data in (b"", b"rubbish", pickle.dumps(3), pickle.dumps([]), pickle.dumps([(1, 2)])):
        assert exceptions.load_exception(data, "text") is None
    error = exceptions.unknown_exception("Traceback\n  x\nmodule.Own: it is over\n")
    assert (type(error).__module__, type(error).__name__) == ("module", "Own")
    assert str(error) == "it is over"


def test_a_socket_a_file_and_a_module(worker: Server) -> None:
    def make() -> Exception:
        error: Any = RuntimeError("x")
        error.sock, error.file = socket.socket(), open(os.devnull, "w")  # noqa: SIM115, PTH123
        error.module, error.rows = os, (number for number in range(3))
        return error  # type: ignore[no-any-return]

    error = raised(worker, make)
    assert error.module is os
    for name, kind in (("sock", "socket.socket"), ("file", "_io.Text"), ("rows", "generator")):
        with pytest.raises(AttributeError, match=f"error.{name} is a {kind}"):
            getattr(error, name)
