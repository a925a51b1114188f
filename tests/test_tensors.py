"""Every dtype, layout and size goes over the wire and comes back the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytest_localcluster import _tensors
from pytest_localcluster._proto.graph_pb2 import TensorProto, Value, ValueChunk
from pytest_localcluster.errors import DataLossError

RECORD = np.dtype([("when", "<M8[us]"), ("where", ">f4", (2,)), ("who", "U3")])
OVERLAPPING = np.dtype({"names": ["all", "low"], "formats": ["<i4", "<i2"], "offsets": [0, 0]})
ALIGNED = np.dtype([("a", "i1"), ("b", "f8")], align=True)

ARRAYS = {
    **{f"code {code}": np.arange(6).reshape(2, 3).astype(code) for code in "?bBhHiIlLqQefdgFDGmM"},
    "big-endian": np.arange(5, dtype=">i4"),
    "big-endian complex": np.arange(5, dtype=">c16"),
    "no dimensions": np.array(3.5),
    "no dimensions, big-endian": np.array(3, ">u2"),
    "empty": np.zeros((0, 3), np.float32),
    "empty strings": np.zeros((2, 0), "U5"),
    "no width": np.zeros(3, "V0"),
    "bytes": np.array([b"a", b"bcd"]),
    "text": np.array(["", "é", "日本語"]),
    "big-endian text": np.array(["a", "日"], dtype=">U2"),
    "dates": np.array(["2024-02-29", "NaT"], "M8[D]"),
    "25 second steps": np.array([1, 2], "m8[25s]"),
    "void": np.array([b"abcd"], "V4"),
    "records": np.array([("2024-01-01", (1, 2), "ab")], RECORD),
    "a record": np.array(("2024-01-01", (1, 2), "ab"), RECORD),
    "overlapping": np.array([(70000, 4464)], OVERLAPPING),
    "aligned": np.array([(1, 2.0)], ALIGNED),
    "transposed": np.arange(6).reshape(2, 3).T,
    "Fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "every other": np.arange(10)[::2],
    "backwards": np.arange(10)[::-1],
    "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
    "nan and infinities": np.array([np.nan, np.inf, -np.inf, -0.0]),
}
if hasattr(np.dtypes, "StringDType"):
    text = np.dtypes.StringDType
    ARRAYS |= {
        "variable text": np.array([["a", ""], ["日本語" * 50, "b\0c"]], text()),
        "a variable text": np.array("abc", text()),
        "no variable text": np.zeros((0, 2), text()),
        "missing as nan": np.array(["a", np.nan], text(na_object=np.nan)),
        "missing as None": np.array([None, "b"], text(na_object=None)),
    }


def same(a: Any, b: Any) -> bool:
    """Tell whether two arrays agree in dtype, shape and every element."""
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        return False
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind == "T":
        # By text: a missing nan equals nothing.
        return [str(x) for x in a.ravel().tolist()] == [str(x) for x in b.ravel().tolist()]
    if a.dtype.names:
        return all(same(a[name], b[name]) for name in a.dtype.names)  # padding means nothing
    return a.tobytes() == b.tobytes()


def streamed(value: Any) -> Any:
    messages = [ValueChunk.FromString(m.SerializeToString()) for m in _tensors.chunks_of(value)]
    return _tensors.value_from_chunks(messages)


def inline(value: Any, *, writable: bool = False) -> Any:
    message = Value.FromString(_tensors.value_to_proto(value).SerializeToString())
    return _tensors.value_from_proto(message, writable=writable)


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_the_same(name: str) -> None:
    array = ARRAYS[name]
    assert same(inline(array), array)
    assert same(inline(array, writable=True), array)
    assert same(streamed(array), array)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_large_array_comes_back_the_same_through_a_stream(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tensors, "_SMALL", 0)
    monkeypatch.setattr(_tensors, "CHUNK", 7)  # so that no element ends where a chunk does
    assert same(streamed(ARRAYS[name]), ARRAYS[name])


def test_a_stream_is_cut_into_chunks_and_read_into_one_array() -> None:
    array = np.arange((_tensors.CHUNK * 5 // 2) // 8, dtype=np.int64)
    messages = list(_tensors.chunks_of(array))
    assert [len(m.chunk) for m in messages] == [0, 1 << 20, 1 << 20, 1 << 19]
    result = _tensors.value_from_chunks(messages)
    assert same(result, array)
    assert result.flags.writeable
    assert result.flags.owndata


def test_tuples_lists_and_none_keep_their_kind() -> None:
    big = np.arange(1 << 16)
    value: Any = (None, [np.arange(3), (big, None)], np.array(1.5), (), [])
    for back in (inline(value), streamed(value)):
        assert isinstance(back, tuple)
        assert back[0] is None
        assert isinstance(back[1], list)
        assert same(back[1][0], np.arange(3))
        assert isinstance(back[1][1], tuple)
        assert same(back[1][1][0], big)
        assert same(back[2], np.array(1.5))
        assert back[3:] == ((), [])


def test_what_shares_memory_is_read_only_and_what_is_writable_is_a_copy() -> None:
    message = _tensors.value_to_proto((np.arange(3), np.zeros(0)))
    shared, _ = _tensors.value_from_proto(message)
    with pytest.raises(ValueError, match="read-only"):
        shared[0] = 7
    own, empty = _tensors.value_from_proto(message, writable=True)
    own[0] = 7
    assert empty.flags.writeable
    assert _tensors.value_from_proto(message)[0][0] == 0


def test_read_only_leaves_the_array_that_it_was_given_alone() -> None:
    array = np.arange(3)
    (view,) = _tensors.read_only((array,))
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    array[0] = 5
    assert view[0] == 5


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (3, np.array(3)),
        ("text", np.array("text")),
        ([1, 2], np.array([1, 2])),
        ([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]])),
        ([np.float32(1), np.float32(2)], np.array([1, 2], np.float32)),
        (np.ma.array([[1, 2]]), np.array([[1, 2]])),
    ],
    ids=["int", "str", "list", "nested list", "list of scalars", "subclass"],
)
def test_results_become_arrays(result: Any, expected: Any) -> None:
    value = _tensors.as_value(result)
    assert type(value) is np.ndarray
    assert same(value, expected)


def test_results_that_are_several_values_stay_several() -> None:
    svd = _tensors.as_value(np.linalg.svd(np.eye(2)))
    assert type(svd) is tuple
    assert [part.shape for part in svd] == [(2, 2), (2,), (2, 2)]
    parts = _tensors.as_value(np.array_split(np.arange(5), 2))
    assert type(parts) is list
    assert [part.shape for part in parts] == [(3,), (2,)]
    assert _tensors.as_value([None, 1])[0] is None


@pytest.mark.parametrize(
    ("result", "kind"),
    [({"a": 1}, "dict"), (2**70, "int"), (np.array([None]), None), (np.zeros(1, "O,i4"), None)],
)
def test_objects_are_no_tensors(result: Any, kind: str | None) -> None:
    made = f" made of {kind}" if kind else ""
    with pytest.raises(TypeError, match=rf"dtype .*{made} is no tensor: its elements have to be"):
        _tensors.as_value(result)


def test_ragged_lists_are_refused_by_numpy() -> None:
    with pytest.raises(ValueError, match="inhomogeneous"):
        _tensors.as_value([[1], [2, 3]])


def test_sizes_are_those_of_the_wire() -> None:
    assert _tensors.size_of((np.zeros(3), [None, np.zeros((2, 2), "f4")])) == 40
    if hasattr(np.dtypes, "StringDType"):
        assert _tensors.size_of(np.array(["日", ""], np.dtypes.StringDType())) == 19


def _first(**fields: Any) -> ValueChunk:
    return ValueChunk(value=Value(tensor=TensorProto(**fields)))


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "ended before its first message"),
        ([ValueChunk()], "should bring a value and brings nothing"),
        ([ValueChunk(value=Value(stored="k"))], "should bring a value and brings stored"),
        (
            [_first(dtype="<i4", shape=[2], streamed_bytes=8)],
            "ended after 0 of 8 bytes",
        ),
        (
            [
                _first(dtype="<i4", shape=[2], streamed_bytes=8),
                ValueChunk(chunk=b"123456789"),
            ],
            "came damaged",
        ),
        (
            [
                _first(dtype="<i4", shape=[1], streamed_bytes=4),
                ValueChunk(chunk=b"1234"),
                ValueChunk(chunk=b"5"),
            ],
            "more bytes than its first message said",
        ),
        (
            [_first(dtype="<i4", shape=[3], streamed_bytes=8)],
            r"shape \(3,\) takes 12 bytes, and 8 were announced",
        ),
        (
            [_first(dtype="<i4", shape=[3], content=b"1234")],
            "came damaged",
        ),
        ([_first(dtype="what")], "'what', which cannot be read"),
        ([_first(dtype="|O")], "which no tensor can have"),
    ],
)
def test_damaged_streams_are_data_loss(messages: list[ValueChunk], message: str) -> None:
    with pytest.raises(DataLossError, match=message):
        _tensors.value_from_chunks(messages)
