"""What may be fed, and to what; mistakes are named where they were made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytest_localcluster import (
    Session,
    Variable,
    constant,
    control_dependencies,
    errors,
    placeholder,
)

Bad = errors.InvalidArgumentError


@pytest.mark.parametrize(
    ("dtype", "shape", "value"),
    [
        (np.float64, (None, 2), [[1, 2]]),
        (np.float32, (2,), np.array([1.5, 2.5])),
        (np.float64, None, True),
        (np.float64, (3,), range(3)),
        (np.float64, 3, [1, 2, 3]),
        (np.float64, (0,), []),
        (np.int64, (None,), []),
        (np.uint8, (2,), [0, 255]),
        (np.int8, (), np.int64(-128)),
        (np.uint8, (), np.uint64(7)),
        (np.complex128, (), 1.5),
        (np.str_, (2,), ["a", "bcd"]),
        (np.dtype("U2"), (1,), ["ab"]),
        (np.bytes_, (), b"abc"),
        ("M8[s]", (), np.datetime64("2020-01-01")),
        ("M8", (1,), np.array(["2020-01-01"], "M8[D]")),
        (bool, (), np.True_),
    ],
)
def test_what_fits_is_cast(session: Session, dtype: Any, shape: Any, value: Any) -> None:
    x = placeholder(dtype, shape)
    found = session.run(x, {x: value})
    given = np.asarray(value)
    expected = given if dtype in (np.str_, np.bytes_, "M8") else given.astype(dtype)
    assert np.asarray(found).dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("dtype", "shape", "value", "message"),
    [
        (np.float64, (None, 2), [1, 2], r"x has shape \(None, 2\) and was fed \(2,\)"),
        (np.float64, (None, 2), [[1, 2, 3]], r"x has shape \(None, 2\) and was fed \(1, 3\)"),
        (np.float64, (), [1], r"x has shape \(\) and was fed \(1,\)"),
        (np.int64, None, 1.5, "x has dtype int64 and was fed float64, which NumPy does not cast"),
        (np.int64, None, np.array([1.0]), "x has dtype int64 and was fed float64"),
        (np.float64, None, "1", "x has dtype float64 and was fed <U1"),
        (np.float64, None, 1j, "x has dtype float64 and was fed complex128"),
        (bool, None, 1, "x has dtype bool and was fed int64"),
        (np.uint8, None, [1, 256], r"x has dtype uint8, which does not hold \[1, 256\]"),
        (np.uint8, None, -1, "x has dtype uint8, which does not hold -1"),
        (np.int8, None, np.array([300]), r"x has dtype int8, which does not hold array\(\[300\]\)"),
        (np.uint8, None, np.array([1]), "x has dtype uint8 and was fed int64"),
        (
            np.float64,
            None,
            None,
            "x was fed None: leave it out of the feed_dict",
        ),
        (np.float64, None, [None, 1], r"x was fed \[None, 1\]: feeds are arrays.* of no objects"),
        (np.float64, None, [[1], [2, 3]], r"x cannot be fed \[\[1\], \[2, 3\]\]: .*inhomogeneous"),
        (np.float64, None, [object()], r"x was fed \[<object.*\]: .* of no objects"),
    ],
)
def test_what_does_not_fit_is_refused(
    session: Session, dtype: Any, shape: Any, value: Any, message: str
) -> None:
    x = placeholder(dtype, shape, name="x")
    with pytest.raises(Bad, match=message) as caught:
        session.run(x + 1, {x: value})
    assert caught.value.op == "x"
    assert caught.value.message.startswith("placeholder x ")


def test_any_tensor_may_be_fed_and_what_made_it_does_not_run(session: Session) -> None:
    count = Variable(0, name="count")
    session.run(count.initializer)
    added = count.assign_add(1)
    assert session.run(added * 2, {added: 21}) == 42
    assert session.run(added, {added: "anything"}) == "anything"
    assert session.run(count) == 0
    with pytest.raises(Bad, match="tensor count/assign_add was fed None: leave it out"):
        session.run(added, {added: None})


def test_a_feed_that_is_not_needed_is_left_out(session: Session) -> None:
    x, y = placeholder(np.float64), placeholder(np.float64)
    assert session.run(x, {x: 1, y: 2}) == 1


def test_a_missing_feed_is_named(session: Session) -> None:
    x = placeholder(np.float64, name="images")
    with pytest.raises(Bad, match="placeholder 'images' is needed and was not fed") as caught:
        session.run(np.exp(x))
    assert caught.value.op == "images"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("x", "feed_dict names Tensors, such as placeholders, and 'x' is none"),
        (3, "and 3 is none"),
        (Variable(0.0, name="v"), r"<Variable v> is none: change it with its assign\(value\)"),
    ],
)
def test_only_tensors_can_be_fed(session: Session, key: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        session.run(constant(1), {key: 1})


@pytest.mark.parametrize("feeds", [[1], (1, 2), 3, "x", {constant(1)}])
def test_feeds_are_a_dict(session: Session, feeds: Any) -> None:
    message = "feed_dict is a dict from Tensors to values, such as {x: images}, not "
    with pytest.raises(TypeError, match=message):
        session.run(constant(1), feeds)


def test_a_tensor_is_no_feed(session: Session) -> None:
    x = placeholder(np.float64, name="x")
    with pytest.raises(TypeError, match="cannot be fed to <Tensor x:0 .*run it first"):
        session.run(x, {x: constant(1)})


def test_callables_are_fed_in_order(session: Session) -> None:
    x, y = placeholder(np.float64, ()), placeholder(np.float64, (), name="y")
    subtract = session.make_callable({"d": x - y}, [x, y])
    assert subtract(5, 3) == {"d": 2}
    assert subtract(1, 3, timeout=30) == {"d": -2}
    with pytest.raises(TypeError, match="this takes 2 values to feed, not 1"):
        subtract(5)
    with pytest.raises(Bad, match=r"placeholder y has shape \(\) and was fed \(1,\)"):
        subtract(5, [3])
    with pytest.raises(TypeError, match="feed_list names Tensors, .* 'x' is none"):
        session.make_callable(x, ["x"])
    assert session.make_callable(constant(3))() == 3


def test_what_waits_for_a_fed_placeholder_goes_on(session: Session) -> None:
    fed = placeholder(np.float64, ())
    with control_dependencies([fed]):
        one = constant(1) + 1
    assert session.run(one, {fed: 3.0}) == 2
    with pytest.raises(errors.InvalidArgumentError, match="is needed and was not fed"):
        session.run(one)
