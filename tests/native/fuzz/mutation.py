"""Damage, as bytes and as messages, drawn from a seeded generator.

A function that a graph carries is code: whoever has the token may run any. So no pickle is ever
changed here: one that is not as it was recorded is replaced by bytes that no unpickler takes
(:func:`defuse`), and what is tested is all the rest.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from pytest_localcluster._proto.graph_pb2 import TensorProto, Value
from tests.native.fuzz.recording import copied

Random = random.Random
Field = Any  # protobuf's own type for it is one of two, and its stubs say so everywhere

PICKLED = frozenset(("function", "arguments", "exception"))  # the fields that hold pickles
JUNK = (b"junk: no pickle", b"\xff", b"\x80\xff", b".", b"")

_NAMES = (
    *("", " ", "\0", "a:0", "a:-1", "a:²", "a:٣", "a:" + "1" * 5000, "^", "^^", ":", ":0", "a:0:0"),
    *("é" * 50, "\n", "𐍈", "x" * 70_000, "/" * 999, "../../etc/passwd", "%s%n", "{}", "None"),
)
_DTYPES = (
    *("<f8", "<i4", "|O", "|b1", ">U3", "<U99999999", "|S2000000000", "|V0", "|V2000000000"),
    *("<M8[s]", "M8[9s]", "T", "f4,f4", "(999999999,)f8", "f8" + ",f8" * 999, "float64", "pickle:"),
    *("|i1", "<m8", "<c16", "<g", "pickle:junk", "pickle:" + base64.b64encode(JUNK[0]).decode()),
)
_DEVICES = (
    *("/job:ps/task:0", "/job:worker/task:1", "/job:ps/task:999999", "/job:no/task:0", "/job:ps"),
    *("/job:ps/replica:0/task:0/device:CPU:0", "/job:ps/replica:9/task:0/device:GPU:7", "/cpu:0"),
    *(
        "/job:ps/task:" + "9" * 5000,
        "/job:ps/task:²",
        "/device:²:²",
        "/cpu:-1",
        "/cpu:*",
        "///",
        ":",
    ),
    *("localhost:1", "127.0.0.1:0", "localhost:99999999", "unix:/nowhere", "dns:///x", "[::1]:1"),
)
_OPS = (
    *("Const", "Placeholder", "Function", "NoOp", "ReadVariable", "AssignVariable", "Magic"),
    *("AssignAddVariable", "AssignSubVariable", "ScatterAddVariable"),
)
TEXTS = (*_NAMES, *_DTYPES, *_DEVICES, *_OPS)
_FITTING = {
    **dict.fromkeys(("device", "device_filters", "master", "recv"), _DEVICES),
    "dtype": _DTYPES,
    "op": _OPS,
}
NUMBERS = tuple(
    sign * (1 << bits) + more
    for bits in (0, 1, 7, 16, 20, 31, 32, 62, 63)
    for sign in (1, -1)
    for more in (-1, 0, 1)
)
_MOST_BYTES = 500_000  # of the same again and again
_INT64 = FieldDescriptor.TYPE_INT64
_LIMITS = {
    FieldDescriptor.TYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    _INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_FIXED64: (0, (1 << 64) - 1),
}


def flip(rng: Random, data: bytes) -> bytes:
    """Damage bytes here and there."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(result) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            result[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 1:
            del result[at : at + rng.randrange(1, 9)]
        elif kind == 2:
            result[at:at] = result[at : at + rng.randrange(1, 60)]
        elif at < len(result):
            result[at] = (result[at] ^ 1 << rng.randrange(8), 0, 255)[kind - 3]
    return bytes(result)


def splice(rng: Random, one: bytes, other: bytes) -> bytes:
    """Join the beginning of one to the end of another."""
    return one[: rng.randrange(len(one) + 1)] + other[rng.randrange(len(other) + 1) :]


def fields_of_wrong_types(rng: Random) -> bytes:
    """Return a message with the fields of ours, and whatever in them."""
    result = b""
    for _ in range(rng.randrange(1, 12)):
        number, wire = rng.randrange(1, 13), rng.choice((0, 1, 2, 2, 2, 3, 4, 5, 6, 7))
        result += _varint(number << 3 | wire)
        if wire == 0:
            result += _varint(rng.choice(NUMBERS) % (1 << 64))
        elif wire == 2:
            length = rng.choice((0, 1, 5, 40))
            claimed = length if rng.random() < 0.9 else rng.choice((1 << 31, (1 << 64) - 1, 1000))
            result += _varint(claimed) + rng.randbytes(length)
        else:
            result += rng.randbytes({1: 8, 5: 4}.get(wire, 0))
    return result


def _varint(number: int) -> bytes:
    result = bytearray()
    while number > 127:
        result.append(number & 127 | 128)
        number >>= 7
    return bytes((*result, number))


def nested(rng: Random, depth: int) -> Value:
    """Return a list in a list in a list."""
    value = Value(none=True)
    for _ in range(depth):
        outer = Value()
        outer.list.mutable = rng.random() < 0.5
        outer.list.value.append(value)
        value = outer
    return value


def mutate(rng: Random, message: Message, others: Callable[[Any], list[Message]]) -> None:
    """Change one thing in a message, somewhere inside it.

    Args:
        rng: what chooses.
        message: changed in place.
        others: returns recorded messages of a type.
    """
    spots = list(messages_in(message))
    if rng.random() < 0.5:  # most messages are mostly small ones; the large change is seen more
        spots = spots[: max(1, len(spots) // 3)]
    spot = rng.choice(spots)
    if isinstance(spot, TensorProto) and rng.random() < 0.5:
        _spoil_tensor(rng, spot)
        return
    if isinstance(spot, Value) and rng.random() < 0.2:
        spot.CopyFrom(nested(rng, rng.choice((3, 10, 24, 40))))
        return
    field: Field = rng.choice(spot.DESCRIPTOR.fields or [None])
    if field is None:
        return
    if _is_map(field):
        value = field.message_type.fields_by_name["value"]
        items = getattr(spot, field.name)
        key = rng.choice(list(items)) if items and rng.random() < 0.5 else rng.choice(TEXTS)
        items[key] = _scalar(rng, spot, value)
    elif field.is_repeated:
        _spoil_repeated(rng, spot, field, others)
    elif rng.random() < 0.15:
        spot.ClearField(field.name)
    elif field.message_type is not None:
        getattr(spot, field.name).CopyFrom(rng.choice(others(field.message_type)))
    else:
        setattr(spot, field.name, _scalar(rng, spot, field))


def messages_in(message: Message) -> Iterator[Message]:
    """Yield a message and all messages inside it."""
    yield message
    field: Field
    for field, value in message.ListFields():
        if field.message_type is None or _is_map(field):
            continue
        for item in value if field.is_repeated else (value,):
            yield from messages_in(item)


def _is_map(field: Field) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _spoil_tensor(rng: Random, tensor: TensorProto) -> None:
    kind = rng.randrange(6)
    if kind == 0:
        tensor.shape[:] = [_number(rng, _INT64) for _ in range(rng.choice((0, 1, 2, 3, 70)))]
    elif kind == 1:
        tensor.shape.append(rng.choice((-1, 0, 2, 1 << 40)))
    elif kind == 2:
        tensor.dtype = rng.choice(TEXTS)
    elif kind == 3:
        tensor.content = tensor.content[: rng.randrange(len(tensor.content) + 1)]
    elif kind == 4:
        tensor.streamed_bytes = rng.choice((-1, 8, 1 << 20, 1 << 33, 1 << 50, (1 << 63) - 1))
    else:  # consistent, and absurd
        tensor.dtype, count = "<f8", rng.choice((1 << 31, 1 << 37, 1 << 59))
        tensor.shape[:] = [count]
        tensor.streamed_bytes = 8 * count


def _scalar(rng: Random, spot: Message, field: Field) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return rng.choice(_FITTING.get(_topic(field), _NAMES) if rng.random() < 0.7 else TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        if field.name in PICKLED:
            return rng.choice(JUNK)
        twice = getattr(spot, field.name) * 2
        return rng.choice((b"", rng.randbytes(7), rng.randbytes(800), twice))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return rng.random() < 0.5
    return _number(rng, field.type)


def _topic(field: Field) -> str:
    """Return the name of a field; of a map's values, that of the map."""
    return "recv" if field.containing_type.name == "RecvEntry" else field.name


def _number(rng: Random, kind: int) -> int:
    low, high = _LIMITS[kind]
    return min(max(rng.choice(NUMBERS), low), high)


def _spoil_repeated(
    rng: Random,
    spot: Message,
    field: Field,
    others: Callable[[Any], list[Message]],
) -> None:
    items = getattr(spot, field.name)
    kind = rng.randrange(6)
    if kind == 0:
        spot.ClearField(field.name)
    elif kind == 1 and items:
        old = list(items)
        rng.shuffle(old)
        _put(spot, field, old)
    elif kind == 2 and items:  # absurdly many
        times = rng.choice((2, 2, 30, 3000 if field.message_type is None else 300))
        few = list(items)[:50]
        # What takes memory should be what a message claims, not the message.
        times = max(2, min(times, _MOST_BYTES // (1 + sum(len(str(item)) for item in few))))
        _put(spot, field, [item for item in few for _ in range(times)])
    elif kind == 3 and items:
        del items[rng.randrange(len(items))]
    elif field.message_type is None:
        items.append(_scalar(rng, spot, field))
    else:
        items.add().CopyFrom(rng.choice(others(field.message_type)))


def _put(spot: Message, field: Field, items: list[Any]) -> None:
    if field.message_type is not None:
        items = [copied(item) for item in items]
    spot.ClearField(field.name)
    getattr(spot, field.name).extend(items)


def defuse(data: bytes, kind: type[Message], known: frozenset[bytes | str]) -> bytes:
    """Replace each pickle that is not in ``known``, in a message that can be parsed, by junk.

    Args:
        data: the message.
        kind: its type.
        known: the pickles that were recorded, and the dtypes that are pickles.
    """
    try:
        message = kind.FromString(data)
    except DecodeError:
        return data
    changed = False
    for spot in messages_in(message):
        for field, value in spot.ListFields():
            unknown = field.name in PICKLED and value not in known and value not in JUNK
            if unknown:
                setattr(spot, field.name, JUNK[0])
            elif field.name == "dtype" and value.startswith("pickle:") and value not in known:
                unknown = value not in TEXTS
                if unknown:
                    spot.dtype = "pickle:junk"  # type: ignore[attr-defined]  # it has that field
            changed |= unknown
    return message.SerializeToString() if changed else data


def pickles_in(messages: Iterator[Message]) -> frozenset[bytes | str]:
    """Return the pickles in messages, and the dtypes that are some."""
    return frozenset(
        value
        for message in messages
        for spot in messages_in(message)
        for field, value in spot.ListFields()
        if field.name in PICKLED or (field.name == "dtype" and value.startswith("pickle:"))
    )
