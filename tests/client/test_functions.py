"""Any Python function as an operation: where it runs, what reaches it, what it gives."""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
from typing import Any, NamedTuple

import numpy as np
import pytest

from pytest_localcluster import (
    Session,
    Variable,
    constant,
    current_task,
    device,
    errors,
    function,
    placeholder,
)


@dataclasses.dataclass
class Options:
    factor: float
    offset: Any = None


class Pair(NamedTuple):
    left: Any
    right: Any


class Complaint(Exception):
    def __init__(self, text: str, options: Options) -> None:
        super().__init__(text, options)
        self.options = options


def scaled(array: Any, options: Options) -> Any:
    assert type(options).__name__ == "Options"
    return array * options.factor


def describe(**named: Any) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in named.items())


@function
def doubled(array: Any) -> Any:
    return array * 2


@function(num_outputs=2)
def ends(array: Any) -> Any:
    return array[0], array[-1]


def test_without_tensors_it_runs_where_it_is_placed(session: Session) -> None:
    with device("/job:ps/task:1"):
        task, pid = function(lambda: str(current_task().task))(), function(os.getpid)()
    assert session.run([task, pid]) == ["/job:ps/task:1", os.getpid()]


def test_a_decorator_makes_operations(session: Session) -> None:
    first, last = ends(doubled(constant([1, 2, 3])))
    assert session.run((first, last)) == (2, 6)
    assert doubled.__name__ == "doubled"
    assert doubled(constant(1)).op.name == "doubled"


def test_closures_lambdas_partials_and_methods(session: Session) -> None:
    factor, x = 3, constant([1.0, 2.0])

    def closure(array: Any) -> Any:
        return array * factor

    found = session.run(
        [
            function(closure)(x),
            function(lambda a, *, k=2: a * k)(x),
            function(functools.partial(np.multiply, 4))(x),
            function(np.random.default_rng(0).permutation)(3).shape,
            function(sorted)(x),
        ]
    )
    assert [np.asarray(f).tolist() for f in found] == [[3, 6], [2, 4], [4, 8], [3], [1, 2]]


def test_a_closure_is_taken_as_it_is_when_it_is_called(session: Session) -> None:
    factor = 1
    times = function(lambda a: a * factor)
    before = times(constant(10))
    factor = 2
    assert session.run([before, times(constant(10))]) == [10, 20]


def test_classes_of_the_test_module_pass_both_ways(session: Session) -> None:
    x = constant([1.0, 2.0])
    assert session.run(function(scaled)(x, Options(2.0))).tolist() == [2, 4]

    def complain(options: Options) -> None:
        raise Complaint("no", options)

    with pytest.raises(errors.UnknownError, match="complain raised Complaint: ") as caught:
        session.run(function(complain)(Options(1.0)))
    cause = caught.value.__cause__
    assert type(cause) is Complaint
    assert cause.options == Options(1.0)
    assert 'raise Complaint("no", options)' in str(cause.__cause__)


def test_arguments_reach_it_unchanged(session: Session) -> None:
    given = {
        "text": "a",
        "none": None,
        "items": [1, (2, {"k": 3})],
        "kind": int,
        "options": Options(1.0, offset=[None]),
    }
    assert session.run(function(describe)(**given)) == describe(**given)


def test_tensors_reach_it_from_inside_its_arguments(session: Session) -> None:
    x, v = constant(1), Variable(2.0, name="v")
    session.run(v.initializer)
    call = function(lambda *a, **k: describe(a=a, k=k))
    found = session.run(call([x, 5], Pair(x, v), slice(x, None), k={"deep": (v,)}))
    # Arrays without dimensions look different in different versions of NumPy.
    expected = ("[", "5]", "Pair(left=", "right=", "slice(", ", None, None)", "'deep': (")
    assert all(part in found for part in expected), found


def test_none_and_tuples_come_back(session: Session) -> None:
    nothing = function(lambda: None)()
    several = function(lambda: (1, None, ("a", np.zeros(2))))()
    assert session.run([nothing, several[0]]) == [None, 1]
    one, none, (text, zeros) = session.run(several)
    assert (one, none, text, zeros.tolist()) == (1, None, "a", [0, 0])


def test_several_outputs_are_several_tensors(session: Session) -> None:
    mean, none = function(lambda a: (a.mean(), None), num_outputs=2)(constant([1.0, 3.0]))
    assert session.run({"mean": mean + 1, "none": none}) == {"mean": 3.0, "none": None}
    wrong = function(lambda: (1, 2, 3), num_outputs=2, name="three")()
    with pytest.raises(errors.OpError, match="three.*(3|2)"):
        session.run(wrong[0])


def test_arrays_reach_it_read_only(session: Session) -> None:
    def spoil(array: Any) -> None:
        array += 1

    x = placeholder(np.float64, (2,))
    with pytest.raises(errors.UnknownError, match="spoil raised ValueError: .*read-only"):
        session.run(function(spoil)(x), {x: np.zeros(2)})


def test_its_own_error_comes_with_the_remote_traceback(session: Session) -> None:
    with device("/job:ps/task:0"):
        bad = function(lambda a: 1 // int(a), name="divide")(constant(0))

    with pytest.raises(errors.UnknownError) as caught:
        session.run(bad + 1)

    error = caught.value
    assert "divide raised ZeroDivisionError: " in error.message
    assert "by zero" in error.message
    assert (error.op, error.device) == ("divide", "/job:ps/replica:0/task:0/device:CPU:0")
    assert "op: divide, device: /job:ps/replica:0/task:0/device:CPU:0" in str(error)
    assert error.__cause__ is not None
    assert 'bad = function(lambda a: 1 // int(a), name="divide")' in str(error.__cause__.__cause__)


def test_a_session_error_raised_in_it_keeps_its_kind(session: Session) -> None:
    def refuse() -> None:
        raise errors.OutOfRangeError("enough")

    with pytest.raises(errors.OutOfRangeError, match="enough") as caught:
        session.run(function(refuse)())
    assert caught.value.op == "refuse"


def test_an_exception_that_holds_what_cannot_travel_is_the_cause(session: Session) -> None:
    def refuse() -> None:
        error = RuntimeError("held")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    with pytest.raises(errors.UnknownError, match="refuse raised RuntimeError: held") as caught:
        session.run(function(refuse)())
    cause: Any = caught.value.__cause__
    assert type(cause).__name__ == "RuntimeError"
    assert "raise error" in str(cause.__cause__)
    with pytest.raises(AttributeError, match=r"'lock' did not come .*error.lock is a _thread.lock"):
        _ = cause.lock


def test_every_operation_runs_exactly_once_a_step(session: Session) -> None:
    counter = Variable(0, name="counter")
    session.run(counter.initializer)
    added = counter.assign_add(1)
    assert session.run([added, added + added, [added]]) == [1, 2, [1]]
    assert session.run(counter) == 1
