"""Calls in their wire form: what is packed is what is called."""

from __future__ import annotations

import pickle
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest

from pytest_localcluster._core import pickling
from pytest_localcluster._graph import Input, call_method, compile_call, pack

Pair = namedtuple("Pair", "left right")  # noqa: PYI024  # as users write them


class Hole:
    """Stands for an output that only a step knows."""

    def __init__(self, name: str) -> None:
        self.name = name


def find(value: Any) -> Hole | None:
    return value if isinstance(value, Hole) else None


def call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], values: list[Any]) -> Any:
    filled_in = compile_call(pickling.dumps(function), pickling.dumps((args, kwargs)))
    filled_in(values)
    return filled_in(values)  # the second step gives what the first gave


def everything(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


A, B = Hole("a"), Hole("b")


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((A,), {}, ((1,), {})),
        ((A, B), {}, ((1, 2), {})),
        ((B, A, B), {}, ((2, 1, 2), {})),
        ((A,), {"axis": 0}, ((1,), {"axis": 0})),
        ((7, A), {"x": B}, ((7, 1), {"x": 2})),
        (([A, [B, 3]],), {}, (([1, [2, 3]],), {})),
        (((A, None),), {}, (((1, None),), {})),
        ((Pair(A, 5),), {}, ((Pair(1, 5),), {})),
        (({"k": [A]},), {}, (({"k": [1]},), {})),
        ((slice(A, None, B),), {}, ((slice(1, None, 2),), {})),
        ((), {"deep": {"x": (slice(None, A), ...)}}, ((), {"deep": {"x": (slice(None, 1), ...)}})),
        ((), {}, ((), {})),
    ],
)
def test_values_come_where_their_outputs_stood(
    args: tuple[Any, ...], kwargs: dict[str, Any], expected: Any
) -> None:
    values = {A: 1, B: 2}
    packed, named, inputs = pack(args, kwargs, find)

    assert call(everything, packed, named, [values[i] for i in inputs]) == expected
    assert len(inputs) == len(set(inputs)), "each output is an input once"


def test_what_holds_no_output_stays_the_very_object() -> None:
    given = [1, {"x": (2, 3)}]
    ordered = OrderedDict(a=1)
    at = slice(0, 1)

    (first, second, third, _), _, _ = pack((given, ordered, at, A), {}, find)

    assert first is given
    assert second is ordered
    assert third is at


def test_an_argument_without_input_is_the_same_object_in_every_step() -> None:
    generator = np.random.default_rng(0)
    expected = np.random.default_rng(0).random(2)
    filled_in = compile_call(
        pickling.dumps(call_method), pickling.dumps(((generator, "random"), {}))
    )
    assert [filled_in([]), filled_in([])] == list(expected)


def test_a_list_with_an_input_is_new_in_every_step() -> None:
    filled_in = compile_call(
        pickling.dumps(lambda items: items.append(0) or items),
        pickling.dumps((([Input(0)],), {})),
    )
    assert filled_in([1]) == [1, 0]
    assert filled_in([2]) == [2, 0]


def test_an_input_pickles_and_says_which_it_is() -> None:
    copy = pickle.loads(pickle.dumps(Input(3)))
    assert copy.index == 3
    assert repr(copy) == "Input(3)"
