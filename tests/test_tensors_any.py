"""Any array comes back; anything else is an array or an error, and takes no more than was sent."""

from __future__ import annotations

import tracemalloc
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_localcluster import _tensors
from pytest_localcluster._proto.graph_pb2 import TensorProto, Value, ValueChunk, ValueList
from pytest_localcluster._tensors import decoding
from pytest_localcluster.errors import DataLossError
from tests.test_tensors import inline, same, streamed

DTYPES = st.one_of(
    hnp.scalar_dtypes(),
    hnp.byte_string_dtypes(),
    hnp.unicode_string_dtypes(),
    hnp.complex_number_dtypes(endianness=">"),
    st.sampled_from("qQefdgFDG?").map(np.dtype),
    st.integers(1, 20).map(lambda width: np.dtype(f"V{width}")),
    hnp.array_dtypes(max_size=3),
    hnp.nested_dtypes(max_leaves=4).filter(lambda dtype: dtype.subdtype is None),
)
LAYOUTS: Any = st.sampled_from(
    [lambda a: a, lambda a: a.T, np.asfortranarray, lambda a: a[::-1] if a.ndim else a]
)


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_every_array_comes_back(data: st.DataObject) -> None:
    dtype = data.draw(DTYPES)
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    array = data.draw(LAYOUTS)(np.zeros(shape, dtype))
    size = array.size * array.dtype.itemsize
    raw = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), np.uint8)
    if raw.size and not has_text(array.dtype):
        array = raw.view(array.dtype).reshape(array.shape)
    for back in (inline(array), inline(array, writable=True), streamed(array)):
        assert back.dtype == array.dtype
        assert same(back, array)


@given(st.lists(st.none() | st.text(alphabet=st.characters(exclude_categories=())), max_size=6))
def test_every_string_of_variable_width_comes_back(texts: list[str | None]) -> None:
    string = getattr(np.dtypes, "StringDType", None)
    if string is None:
        pytest.skip("this NumPy has none")
    # NumPy itself takes no lone surrogates.
    clean = [None if t is None else t.encode(errors="replace").decode() for t in texts]
    array = np.array(clean, string(na_object=None))
    assert same(inline(array), array)
    assert same(streamed(array), array)


def has_text(dtype: np.dtype[Any]) -> bool:
    """Tell whether not all bytes are elements, or look the same when compared."""
    if dtype.names is not None:
        return True
    return dtype.kind == "U"


_TEXTS = [
    *("<f8", "|u1", "<U2", "|V0", "|S0", "<U0", "|b1", "|O", "T", "f4,f4", "(2,)f4", "<M8[s]"),
    *("|S2000000000", "<g", "", "pickle:", "pickle:" + "A" * 200, "x" * 999),
]
VALUES = st.recursive(
    st.builds(
        lambda **fields: Value(tensor=TensorProto(**fields)),
        dtype=st.one_of(
            st.sampled_from(_TEXTS),
            st.text(max_size=8),
        ),
        shape=st.lists(
            st.sampled_from([0, 1, 2, 3, -1, 1 << 20, 1 << 40, (1 << 63) - 1, -(1 << 63)])
            | st.integers(0, 5),
            max_size=70,
        ),
        content=st.binary(max_size=64),
        streamed_bytes=st.sampled_from([0, 0, 0, 8, 24, -1, 1 << 30, 1 << 45, (1 << 63) - 1]),
    )
    | st.just(Value(none=True))
    | st.just(Value(stored="x"))
    | st.just(Value()),
    lambda inner: st.builds(
        lambda items, mutable: Value(list=ValueList(value=items, mutable=mutable)),
        st.lists(inner, max_size=4),
        st.booleans(),
    ),
)


def decoded(message: Any, decode: Any) -> None:
    """Read a message, which may be refused; look at all elements of what comes of it."""
    tracemalloc.start()
    try:
        value = decode(message)
    except DataLossError as error:
        value = error.message
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 20
    look_at(value)


def look_at(value: Any) -> None:
    if isinstance(value, str):
        assert len(value) < 1000
    elif isinstance(value, (tuple, list)):
        for item in value:
            look_at(item)
    elif value is not None:
        assert value.size < 1 << 21
        if value.dtype.itemsize < 1000:
            value.ravel()[:100].tolist()
            repr(value)


@given(VALUES)
@settings(deadline=None, max_examples=400)
def test_whatever_comes_in_one_message_is_a_value_or_lost(message: Value) -> None:
    decoded(message, _tensors.value_from_proto)


@given(VALUES, st.lists(st.binary(max_size=40), max_size=4))
@settings(deadline=None, max_examples=400)
def test_whatever_comes_in_a_stream_is_a_value_or_lost(message: Value, chunks: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as small:
        small.setattr(decoding, "_AHEAD", 16)  # so that arrays grow with what comes
        stream = [ValueChunk(value=message), *(ValueChunk(chunk=chunk) for chunk in chunks)]
        decoded(stream, _tensors.value_from_chunks)


@pytest.mark.parametrize("dtype", ["<f8", ">U3", "|V7", "<M8[s]", "|S33"])
def test_a_large_array_grows_with_what_comes(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_AHEAD", 100)
    monkeypatch.setattr(_tensors, "CHUNK", 70)
    monkeypatch.setattr(_tensors, "_SMALL", 0)
    array = np.zeros((7, 30, 1), dtype)
    array.reshape(-1).view(np.uint8)[3::36] = 65  # in text, of either byte order, a character
    back = streamed(array)
    assert same(back, array)
    assert back.flags.owndata
    assert back.flags.writeable


def test_what_is_announced_is_not_allocated() -> None:
    size = 1 << 42
    first = ValueChunk(
        value=Value(tensor=TensorProto(dtype="|u1", shape=[size], streamed_bytes=size))
    )
    tracemalloc.start()
    try:
        with pytest.raises(DataLossError, match=f"ended after 1048576 of {size} bytes"):
            _tensors.value_from_chunks([first, ValueChunk(chunk=bytes(1 << 20))])
        assert tracemalloc.get_traced_memory()[1] < 80 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "<f8", "shape": [-1], "content": bytes(8)}, "less than nothing in a dimension"),
        ({"dtype": "<f8", "shape": [1] * 65, "content": bytes(8)}, "64 dimensions at most"),
        ({"dtype": "<f8", "shape": [1] * 200, "content": bytes(8)}, "shape of 200 dimensions"),
        ({"dtype": "<f8", "shape": [1 << 62, 4]}, "takes 147573952589676412928 bytes, and 0 came"),
        ({"dtype": "|V0", "shape": [1 << 62]}, "elements without a width can be 1048576 at most"),
        ({"dtype": "<U1", "content": b"\xff\xff\xff\xff"}, "it holds what is no character"),
        ({"dtype": "(3,)f4", "content": bytes(12)}, "which no tensor can have"),
        ({"dtype": "f4" + ",f4" * 999}, "cannot be read: it is too long"),
    ],
)
def test_shapes_and_dtypes_are_not_believed(fields: Any, message: str) -> None:
    with pytest.raises(DataLossError, match=message):
        _tensors.value_from_proto(Value(tensor=TensorProto(**fields)))


def test_lists_in_lists_end_somewhere() -> None:
    value: Any = None
    for _ in range(41):
        value = [value]
    with pytest.raises(ValueError, match="nested 40 deep"):
        _tensors.as_value(value)
    assert inline(_tensors.as_value(value[0])) == value[0]
