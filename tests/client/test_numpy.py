"""NumPy is the op set: a function gives of Tensors, in a step, what it gives of arrays."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pytest_localcluster import Session, Variable, constant, errors, function, placeholder

A = np.arange(6.0).reshape(2, 3) + 1
B = np.array([[3.0, -1.0, 2.0], [0.5, 4.0, -2.0]])
N = np.array([[7, 2, 9], [4, 5, 6]])
S = np.array([[2.0, 1.0], [1.0, 3.0]])


def same(found: Any, expected: Any) -> None:
    """Assert that the two are equal in structure, type, dtype and value."""
    if isinstance(expected, (tuple, list)):
        assert isinstance(found, (tuple, list))
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            same(a, b)
        return
    wanted = np.asarray(expected)
    assert np.asarray(found).dtype == wanted.dtype
    assert isinstance(found, np.ndarray) == (wanted.ndim > 0), "no dimensions: a NumPy scalar"
    np.testing.assert_allclose(found, wanted, rtol=1e-12) if wanted.dtype.kind in "fc" else (
        np.testing.assert_array_equal(found, wanted)
    )


def check(session: Session, f: Callable[..., Any], *arrays: Any) -> None:
    tensors = [placeholder(array.dtype, array.shape) for array in arrays]
    fetches = f(*tensors)
    feeds = dict(zip(tensors, arrays, strict=True))
    same(session.run(fetches, feeds), f(*(array.copy() for array in arrays)))


BINARY = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
    operator.pow,
    operator.eq,
    operator.ne,
    operator.lt,
    operator.le,
    operator.gt,
    operator.ge,
    divmod,
]
BITWISE = [operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift]


@pytest.mark.parametrize("op", BINARY, ids=lambda op: op.__name__)
def test_operators(session: Session, op: Callable[[Any, Any], Any]) -> None:
    check(session, op, A, abs(B))
    check(session, lambda a: (op(a, 2), op(2, a)), A)  # with a number, on either side
    check(session, lambda a: (op(a, A + 1), op(A + 1, a)), A)  # and with an array
    check(session, lambda a: op(np.float32(3), a), A)


@pytest.mark.parametrize("op", BITWISE, ids=lambda op: op.__name__)
def test_operators_of_whole_numbers(session: Session, op: Callable[[Any, Any], Any]) -> None:
    check(session, lambda n: (op(n, 3), op(3, n), op(n, N), op(N, n)), N)


def test_matmul_on_either_side(session: Session) -> None:
    check(session, lambda a: (a @ B.T, B.T @ a, a @ [1, 2, 3], a.T @ a), A)


@pytest.mark.parametrize(
    "op", [operator.neg, operator.pos, abs, np.exp, np.sign, np.isfinite], ids=str
)
def test_unary(session: Session, op: Callable[[Any], Any]) -> None:
    check(session, op, B)


def test_invert(session: Session) -> None:
    check(session, operator.invert, N)
    check(session, operator.invert, N > 4)


@pytest.mark.parametrize(
    "f",
    [
        lambda a: np.add.reduce(a, axis=1),
        lambda a: np.multiply.accumulate(a, axis=0),
        lambda a: np.subtract.outer(a, [1.0, 2.0]),
        lambda a: np.subtract.outer([1.0, 2.0], a),
        lambda a: np.add.reduceat(a, [0, 2], axis=1),
        lambda a: np.maximum.reduce(a, axis=None, initial=3.5),
        lambda a: np.modf(a),
        lambda a: np.modf(a)[1] * 2,
        lambda a: np.frexp(a),
        lambda a: np.divmod(a, 2),
        lambda a: np.add(a, 1, dtype=np.float32, casting="same_kind"),
        lambda a: np.matmul(a, B.T),
    ],
)
def test_ufuncs_and_their_methods(session: Session, f: Callable[[Any], Any]) -> None:
    check(session, f, A)


@pytest.mark.parametrize(
    "f",
    [
        lambda a, b: np.concatenate([a, b, A]),
        lambda a, b: np.concatenate((a, [[1.0, 2.0, 3.0]]), axis=0),
        lambda a, b: np.stack([a, b], axis=-1),
        lambda a, b: np.vstack([a, [b, b]][:1]),
        lambda a, b: np.where(b > 0, a, b),
        lambda a, b: np.where(b > 0),
        lambda a, b: np.einsum("ij,kj->ik", a, b),
        lambda a, b: np.tensordot(a, b, axes=([1], [1])),
        lambda a, b: np.split(a, 3, axis=1)[1] + b[:, :1],
        lambda a, b: np.meshgrid(a[0], b[0], indexing="ij"),
        lambda a, b: np.linalg.norm(a - b, axis=1),
        lambda a, b: np.take_along_axis(a, np.argsort(b, axis=1), axis=1),
        lambda a, b: np.clip(a, b, 4),
        lambda a, b: np.broadcast_to(a[0], (4, 3)),
        lambda a, b: np.pad(a, ((0, 1), (1, 0)), constant_values=7),
        lambda a, b: np.apply_along_axis(lambda row: row.sum() * np.ones(2), 1, a),
        lambda a, b: np.piecewise(b, [b > 0, b <= 0], [lambda v: v + 1, -1.0]),
        lambda a, b: np.histogram(a, bins=3, range=(0, 6)),
        lambda a, b: np.unique(np.round(b), return_inverse=True),
        lambda a, b: np.allclose(a, b),
        lambda a, b: (np.shape(a), np.ndim(a), np.size(a)),
        lambda a, b: (np.zeros_like(a), np.full_like(b, 3)),
        lambda a, b: np.exp(a) / np.sum(np.exp(a), axis=1, keepdims=True),
        lambda a, b: np.select([a > 3, b > 0], [a, b], default=-1.0),
    ],
)
def test_functions(session: Session, f: Callable[[Any, Any], Any]) -> None:
    check(session, f, A, B)


def test_a_function_that_gives_several_values_is_taken_apart_by_index(session: Session) -> None:
    s = placeholder(np.float64, (2, 2))
    svd: Any = np.linalg.svd(s)
    again = svd[0] @ np.diag(svd[1]) @ svd[2]
    whole, product = session.run([svd, again], {s: S})
    same(whole, tuple(np.linalg.svd(S)))
    np.testing.assert_allclose(product, S)


@pytest.mark.parametrize(
    "f",
    [
        lambda a: a[0],
        lambda a: a[-1, 1:],
        lambda a: a[..., None],
        lambda a: a[a > 2],
        lambda a: a[[0, 0, 1], [1, 2, 0]],
        lambda a: a[:, np.argmax(a, axis=1)],
        lambda a: a[np.array([True, False])],
        lambda a: a[a[0, 0].astype(int) :],
        lambda a: a[1, 2],
    ],
)
def test_indexing(session: Session, f: Callable[[Any], Any]) -> None:
    check(session, f, A)


@pytest.mark.parametrize(
    "f",
    [
        lambda a: a.T,
        lambda a: (a.real, a.imag),
        lambda a: (a.shape, a.size, a.ndim, a.nbytes, a.itemsize),
        lambda a: a.reshape(3, 2),
        lambda a: a.reshape((3, -1)),
        lambda a: a.sum(),
        lambda a: a.sum(axis=0, keepdims=True),
        lambda a: a.astype(np.int32),
        lambda a: a.mean(axis=a[0, 0].astype(int)),
        lambda a: (a.min(), a.argmax(), a.std(ddof=1)),
        lambda a: a.dot([1, 2, 3]),
        lambda a: a.clip(2, 4).ravel().cumsum(),
        lambda a: a.transpose(1, 0).swapaxes(0, 1).copy(),
        lambda a: a.nonzero(),
        lambda a: a.item(3),
        lambda a: a.astype("<f4").view(np.int32),
    ],
)
def test_methods_and_attributes(session: Session, f: Callable[[Any], Any]) -> None:
    check(session, f, A)


VALUES = [
    np.array(["a", "ünï", ""]),
    np.array([b"a", b"bcd"]),
    np.array(["2020-01-01", "NaT"], dtype="M8[ns]"),
    np.array([1, 2], dtype="m8[s]"),
    np.array([1 + 2j, -1j]),
    np.array([(1, 2.5, "x")], dtype=[("i", "<i4"), ("f", ">f8"), ("s", "U3")]),
    np.array([True, False]),
    np.array([1, 2, 3], dtype=">i2"),
    np.array([1.5], dtype=np.float16),
    np.array([1, 255], dtype=np.uint8),
    np.array([1.5, 2], dtype=np.longdouble),
    np.zeros((0, 3)),
    np.zeros((2, 0), dtype="U4"),
    np.array(3.5),
    np.array("text"),
    np.array("2020-01-01", dtype="M8[D]"),
    np.array((1, 2), dtype=[("a", "i4"), ("b", "i4")]),
    np.arange(12).reshape(3, 4)[::2, ::-1],
    np.asfortranarray(A),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: f"{v.dtype.str}{v.shape}")
def test_every_dtype_but_object_comes_back_as_it_went(session: Session, value: Any) -> None:
    fed = placeholder(value.dtype, value.shape)
    passed_on = function(lambda a: a)(fed)
    for found in session.run(
        [fed, passed_on, constant(value), Variable(value).initial_value], {fed: value}
    ):
        assert found.dtype == value.dtype
        assert found.shape == value.shape
        np.testing.assert_array_equal(found, value)


def test_strings_are_an_op_set_too(session: Session) -> None:
    words = np.array(["ab", "cde"])
    fed = placeholder(np.str_, (2,))
    longer = function(lambda w: np.char.upper(w))(fed)
    assert session.run([longer, np.char.add(words, "!")[0] == fed], {fed: words})[0].tolist() == [
        "AB",
        "CDE",
    ]


def test_large_arrays_pass_both_ways(session: Session) -> None:
    big = np.random.default_rng(0).random((600, 500))
    fed = placeholder(np.float64, (None, None))
    kept = constant(big)
    found = session.run([fed, kept, fed + big, fed @ np.ones(500)], {fed: big})
    for value, expected in zip(found, [big, big, big * 2, big @ np.ones(500)], strict=True):
        np.testing.assert_allclose(value, expected)
        assert value.flags.writeable
    np.testing.assert_array_equal(session.run(kept - 1), big - 1)


def test_a_constant_is_what_its_value_was(session: Session) -> None:
    array = np.zeros(3)
    kept, added = constant(array), placeholder(np.float64) + array
    array += 1
    np.testing.assert_array_equal(session.run(kept), np.zeros(3))
    np.testing.assert_array_equal(session.run(added, {added.op.inputs[0]: 0}), np.zeros(3))


def test_constants_have_dtype_and_shape_if_asked(session: Session) -> None:
    found = session.run([constant(1, np.float32, (2, 2)), constant([1, 2], shape=(2, 1))])
    same(found, [np.ones((2, 2), np.float32), np.array([[1], [2]])])


def test_fetches_are_ones_own_to_change(session: Session) -> None:
    kept = constant([1.0, 2.0])
    first = session.run(kept)
    first += 1
    same(session.run(kept), np.array([1.0, 2.0]))


def test_an_object_array_is_refused_by_name(session: Session) -> None:
    bad = function(lambda: object(), name="bad")()
    with pytest.raises(errors.InvalidArgumentError, match="object") as caught:
        session.run(bad)
    assert caught.value.op == "bad"
    assert "/job:worker/replica:0/task:0/device:CPU:0" in str(caught.value)


def test_numpys_own_error_is_the_cause(session: Session) -> None:
    with pytest.raises(errors.UnknownError, match="add raised ValueError: operands could not") as e:
        session.run(np.add(constant([1, 2]), [1, 2, 3]))
    assert isinstance(e.value.__cause__, ValueError)
    assert isinstance(e.value.__cause__.__cause__, errors.RemoteTraceback)
