"""A Tensor is no array: whatever cannot be had before a step says what to use instead."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from pytest_localcluster import Variable, constant, function, group, placeholder

BEFORE = "before the step runs"


@pytest.fixture(params=["Tensor", "Variable"])
def x(request: pytest.FixtureRequest) -> Any:
    if request.param == "Tensor":
        return placeholder(np.float64, (3,), name="x")
    return Variable(np.zeros(3), name="x")


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (bool, "neither true nor false before the step runs: choose with np.where"),
        (lambda x: x in [1.0], "to tell two apart, use `is`"),
        (len, r"no length before the step runs: np.shape\(tensor\)\[0\]"),
        (list, "cannot be iterated over, nor unpacked"),
        (lambda x: 1.0 in x, "use np.any"),
        (np.asarray, r"not an array before the step runs: use NumPy's functions .*np.stack"),
        (lambda x: np.array([x, x]), r"np.stack\(\[a, b\]\) in place of np.array\(\[a, b\]\)"),
        (lambda x: np.full((2, 2), x), r"wrap code that needs arrays in function\(\)"),
        (int, r"int\(\) needs a value, .*: use tensor.astype\(int\)"),
        (float, r"float\(\) needs a value, .*: use tensor.astype\(float\)"),
        (complex, r"complex\(\) needs a value, .*: use tensor.astype\(complex\)"),
        (lambda x: pow(x, 2, 3), r"pow\(\) with a modulus .*: use \(x \*\* y\) % z"),
        (round, r"round\(\) needs a value, .*: use np.round\(tensor\)"),
        (lambda x: round(x, 2), r"round\(\) needs a value, .*: use np.round\(tensor\)"),
        (math.floor, r"math.floor\(\) needs a value, .*: use np.floor\(tensor\)"),
        (math.ceil, r"math.ceil\(\) needs a value, .*: use np.ceil\(tensor\)"),
        (math.trunc, r"math.trunc\(\) needs a value, .*: use np.trunc\(tensor\)"),
        (lambda x: "abc"[x], r"no index before the step runs: use np.take"),
        (lambda x: x.sort(), r"no sort before the step runs: use np.sort\(tensor\)"),
        (lambda x: x.fill(0), "use np.full_like"),
        (lambda x: x.resize(4), r"use tensor.reshape\(shape\)"),
        (lambda x: x.tolist(), "fetch it with Session.run"),
        (lambda x: x.tobytes(), "fetch it with Session.run"),
        (lambda x: x.dtype, "no dtype before the step runs: fetch it with Session.run"),
        (lambda x: x.flat, r"use tensor.ravel\(\)"),
        (lambda x: np.add(x, 1, out=np.zeros(3)), "np.add with out= would change an array"),
        (lambda x: np.add(np.zeros(3), 1, out=x), "np.add with out= would change an array"),
        (lambda x: np.add.reduce(x, out=np.zeros(())), "np.add.reduce with out= would change"),
        (lambda x: np.sum(x, out=np.zeros(())), "np.sum with out= would change an array"),
        (lambda x: x.sum(out=np.zeros(())), "sum with out= would change an array"),
        (lambda x: np.add.at(x, [0], 1), "np.add.at would change an array in place"),
        (lambda x: np.copyto(x, 1), "np.copyto would change an array in place"),
        (lambda x: np.putmask(x, x > 0, 1), "np.putmask would change an array in place"),
        (lambda x: x.__setitem__(0, 1), "use np.where.*scatter_add"),
        (lambda x: x.__delitem__(0), "use np.delete"),
        (pickle.dumps, "has to take it as an argument"),
        (lambda x: function(lambda: x)(), "function lambda cannot be sent to a task: .*argument"),
        (lambda x: function(print)({x}), "an argument of print cannot be sent to a task: .*dict"),
        (lambda x: constant(x), "is no constant: use it as it is"),
        (lambda x: function(x), r"function\(\) takes a callable, not <"),
        (lambda x: group(x, "y"), r"group\(\) takes Tensors and operations, not 'y'|initializer"),
    ],
)
def test_it_says_what_to_use_instead(
    x: Any, attempt: Callable[[Any], object], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        attempt(x)


@pytest.mark.parametrize(
    "operator", ["+", "-", "*", "@", "/", "//", "%", "**", "<<", ">>", "&", "^", "|"]
)
def test_in_place_operators_are_refused(x: Any, operator: str) -> None:
    names = {"x": x}
    with pytest.raises(TypeError, match=r"in place: write x = x \S+ y, or use a Variable's assign"):
        exec(f"x {operator}= 1", names)
    assert names["x"] is x


def test_an_array_does_not_take_a_tensor_in_place() -> None:
    x, array = placeholder(np.float64), np.zeros(3)
    with pytest.raises(TypeError, match="np.add with out= would change an array in place"):
        array += x


def test_no_such_attribute_is_an_attribute_error(x: Any) -> None:
    with pytest.raises(AttributeError, match="has no 'frobnicate', nor has an array"):
        x.frobnicate  # noqa: B018  # looking is the test
    assert not hasattr(x, "__array_interface__")
    assert not hasattr(x, "dtype")
    assert {"reshape", "T", "sum"} <= set(dir(x))


def test_it_hashes_by_identity_and_copies_as_itself(x: Any) -> None:
    other = placeholder(np.float64)
    assert {x: 1, other: 2}[x] == 1
    assert copy.copy(x) is x
    assert copy.deepcopy([x])[0] is x


def test_other_array_kinds_are_asked_first() -> None:
    class Theirs:
        def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> str:
            return "theirs"

    theirs: Any = Theirs()
    assert np.stack([placeholder(np.float64), theirs]) == "theirs"


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (lambda: constant(object()), TypeError, "is no tensor: its elements have to be numbers"),
        (lambda: constant([None, 1]), TypeError, "is no tensor"),
        (lambda: placeholder(object), TypeError, "cannot have dtype object"),
        (
            lambda: placeholder(float, cast("Any", "ab")),
            TypeError,
            r"tuple of lengths \(None for any\), not 'ab'",
        ),
        (lambda: placeholder(float, (-1,)), ValueError, r"no tensor has shape \(-1,\)"),
        (lambda: placeholder(float, name="a:b"), ValueError, "'a:b' is no name for a placeholder"),
        (lambda: placeholder(float, name=""), ValueError, "'' is no name for a placeholder"),
        (lambda: Variable(0, name="^v"), ValueError, r"'\^v' is no name for a variable"),
        (lambda: Variable(0, name=3), TypeError, "a variable is named by a string, not 3"),  # type: ignore[arg-type]
        (lambda: Variable(object()), TypeError, "is no tensor"),
        (lambda: function(abs, num_outputs=0), ValueError, "num_outputs=0: every operation gives"),
        (lambda: function(abs, num_outputs=True), ValueError, "num_outputs=True"),
    ],
)
def test_what_cannot_be_made_is_refused_at_once(
    attempt: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        attempt()


def test_coroutines_and_generators_are_no_operations() -> None:
    async def coroutine() -> None: ...

    with pytest.raises(TypeError, match="takes plain functions"):
        function(coroutine)
