"""A session's operations as the nodes of its graph at the master: named, in order, encoded."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from .. import _tensors
from .._proto.graph_pb2 import NodeDef, Value, VariableDef
from .call import Call
from .variable import State

if TYPE_CHECKING:
    from .operation import Operation

__all__ = ["Names", "encode", "needed", "stored_constant"]


class Names:
    """What the nodes of one session are called: as their operations, numbered where taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: WeakKeyDictionary[Operation, str] = WeakKeyDictionary()
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def of(self, op: Operation) -> str:
        """Return the name of an operation's node, the same every time."""
        with self._lock:
            name = self._names.get(op)
            if name is None:
                name = self._names[op] = self._new(op.name)
            return name

    def _new(self, wanted: str) -> str:
        name, count = wanted, self._next.get(wanted, 0)
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._next[wanted] = count
        self._taken.add(name)
        return name


def needed(operations: Iterable[Operation]) -> list[Operation]:
    """Return the operations and all that they need, each after what it needs."""
    done: dict[Operation, None] = {}
    # A stack in place of recursion: graphs of unrolled loops are deeper than Python's stack.
    stack: list[tuple[Operation, bool]] = [(op, False) for op in operations]
    while stack:
        op, its_needs_done = stack.pop()
        if its_needs_done:
            done[op] = None
        elif op not in done:
            stack.append((op, True))
            stack.extend((tensor.op, False) for tensor in op.inputs if tensor.op not in done)
            stack.extend((other, False) for other in op.control_inputs if other not in done)
    return list(done)


def stored_constant(op: Operation) -> bool:
    """Tell whether this is a constant that is too large for a message."""
    return op.type == "Const" and _tensors.size_of(op.payload) > _tensors.INLINE_LIMIT


def encode(operations: Sequence[Operation], names: Names) -> list[NodeDef]:
    """Return the nodes; the value of a :func:`stored_constant` is stored under its node's name."""
    return [_encode(op, names) for op in operations]


def _encode(op: Operation, names: Names) -> NodeDef:
    node = NodeDef(name=names.of(op), op=op.type, device=op.device, num_outputs=op.num_outputs)
    node.input.extend(f"{names.of(tensor.op)}:{tensor.value_index}" for tensor in op.inputs)
    node.input.extend(f"^{names.of(other)}" for other in op.control_inputs)
    payload: Any = op.payload
    if isinstance(payload, Call):
        node.function, node.arguments = payload.function, payload.arguments
    elif isinstance(payload, State):
        node.variable.CopyFrom(_variable(payload))
    elif op.type == "Const":
        stored = Value(stored=node.name) if stored_constant(op) else None
        node.value.CopyFrom(stored or _tensors.value_to_proto(payload))
    return node


def _variable(state: State) -> VariableDef:
    return VariableDef(
        name=state.name,
        dtype="" if state.dtype is None else _tensors.dtype_to_text(state.dtype),
        shape=state.shape,
        shape_known=state.shape is not None,
    )
