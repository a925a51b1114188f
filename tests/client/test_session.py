"""A session's life: what it returns, what it refuses, how it ends, what it outlives."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest

from pytest_localcluster import (
    Session,
    SpecError,
    constant,
    device,
    errors,
    function,
    placeholder,
)

from .conftest import Tasks

Point = namedtuple("Point", "x y")  # noqa: PYI024  # as users write them


def test_fetches_come_back_in_their_structure(session: Session) -> None:
    a, b = constant(1), constant(2.5)
    fetches = {"l": [a, (b, a)], "p": Point(a, {"deep": b}), "none": a.op}
    assert session.run(fetches) == {"l": [1, (2.5, 1)], "p": Point(1, {"deep": 2.5}), "none": None}
    ordered = session.run(OrderedDict(z=a, y=b))
    assert type(ordered) is OrderedDict
    assert list(ordered.items()) == [("z", 1), ("y", 2.5)]
    assert session.run([]) == []
    assert session.run(()) == ()
    assert type(session.run(a)) is np.int64


@pytest.mark.parametrize(
    ("fetches", "message"),
    [
        (None, "fetches is None, which cannot be fetched: leave it out"),
        ([constant(1), {"a": None}], r"fetches\[1\]\['a'\] is None"),
        ("loss", "fetches is the string 'loss': fetch the Tensor or operation itself"),
        ((3,), r"fetches\[0\] is 3, which cannot be fetched: fetch Tensors, variables and"),
    ],
)
def test_what_cannot_be_fetched_is_named(session: Session, fetches: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        session.run(fetches)


@pytest.mark.parametrize(
    "target", ["", "local", "localhost", "grpc://", "grpc://localhost:", "grpc://:1", "a:b", "h:0"]
)
def test_a_target_that_cannot_be_dialled_is_refused_at_once(target: str) -> None:
    for attempt in (Session, Session.reset):
        with pytest.raises(SpecError, match=f"target '{target}' cannot be dialled") as caught:
            attempt(target)
        assert "use grpc://host:port" in str(caught.value)


def test_names_are_numbered_where_they_are_taken(session: Session) -> None:
    first, second = function(lambda: 1 / 0, name="bad")(), function(lambda: 1 / 0, name="bad")()
    for fetch, name in [(first, "bad"), (second, "bad_1"), (first, "bad")]:
        with pytest.raises(errors.UnknownError, match=rf"^{name} raised ZeroDivisionError") as e:
            session.run(fetch)
        assert e.value.op == name


def test_a_graph_may_be_deeper_than_python_recurses(session: Session) -> None:
    x = placeholder(np.int64, ())
    y: Any = x
    for _ in range(3000):
        y = y + 1
    assert session.run(y, {x: 1}) == 3001


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/job:ps/task:7", "no /job:ps/task:7; its tasks are /job:worker/task:0"),
        ("/job:nobody", "no /job:nobody/task:0"),
        ("/job:ps/task:0/device:GPU:0", "its task has only /job:ps/replica:0/task:0/device:CPU:0"),
        ("/cpu:2", "device:CPU:1"),
    ],
)
def test_a_device_that_does_not_exist_is_named(session: Session, name: str, message: str) -> None:
    with device(name):
        lost = function(lambda: 1, name="lost")()
    with pytest.raises(errors.InvalidArgumentError, match=message) as caught:
        session.run(lost)
    assert caught.value.op == "lost"
    assert session.run(constant(1)) == 1, "the session goes on"


def test_devices_are_listed_its_own_first(tasks: Tasks) -> None:
    with Session(tasks.target("ps", 1)) as session:
        devices = session.list_devices()
    names = [d.name for d in devices]
    assert names[:2] == [f"/job:ps/replica:0/task:1/device:CPU:{i}" for i in range(2)]
    assert len(names) == len(set(names)) == 8
    assert {d.device_type for d in devices} == {"CPU"}
    assert len({d.incarnation for d in devices}) == 4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"target": 3}, TypeError, "a session's target is a string .* not 3"),
        ({"target": "http://localhost:1"}, SpecError, "cannot be dialled"),
        ({"target": "grpc://localhost:1", "config": 3}, TypeError, "config=3 is no ConfigProto"),
    ],
)
def test_what_cannot_be_a_session(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Session(**arguments)


def test_a_server_is_no_target_but_has_one() -> None:
    class Server:
        target = "grpc://localhost:1"

    with pytest.raises(TypeError, match="pass its target attribute"):
        Session(Server())  # type: ignore[arg-type]


def test_many_threads_use_one_session(session: Session) -> None:
    x = placeholder(np.float64, ())
    total, failures = x * 2, []

    def work(k: int) -> None:
        try:
            for i in range(20):
                assert session.run([total, x + k], {x: i}) == [2 * i, i + k]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_plan_is_made_once_and_forgotten_in_the_end(session: Session) -> None:
    a = constant(1)
    assert session.run([a]) == session.run([a])
    assert len(session._plans) == 1
    for _ in range(600):
        session.run([])
        session._plan([constant(2)])
    assert len(session._plans) == 512


def test_no_fetch_is_taken_for_another_that_had_its_address(session: Session) -> None:
    for i in range(50):
        fetches = [constant(i)]
        assert session.run(fetches) == [i]
        fetches.clear()


def test_a_closed_session_is_garbage(tasks: Tasks) -> None:
    session = Session(tasks.target())
    session.run(constant(1))
    session.close()
    reference = weakref.ref(session)
    del session
    gc.collect()
    assert reference() is None
