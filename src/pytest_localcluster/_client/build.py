"""How an operation comes to be: made, placed and ordered as the scopes in force say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .control import in_force
from .operation import Operation, check_name, operation_of
from .placement import place

if TYPE_CHECKING:
    from .tensor import Tensor

__all__ = ["group", "make"]


def make(
    kind: str,
    name: str,
    inputs: Sequence[Tensor] = (),
    *,
    num_outputs: int = 1,
    payload: Any = None,
    where: str | None = None,
) -> Operation:
    """Return a new operation.

    Args:
        kind: its ``type``; see :class:`Operation` for this and most others.
        name: what it is called.
        inputs: what it takes.
        num_outputs: how many Tensors it gives.
        payload: what its type needs besides.
        where: its device; None is what the scopes in force say.
    """
    op = Operation(kind, name, inputs, num_outputs=num_outputs, payload=payload)
    op.device = place(op) if where is None else where
    op.control_inputs = in_force()
    return op


def group(*inputs: Any, name: str = "group") -> Operation:
    """Return an operation that is done when all of ``inputs`` are; its fetch is None.

    Args:
        inputs: Tensors and operations; lists and tuples of those are taken apart.
        name: what it is called.

    Example::

        train = group(weights.assign_sub(dw), bias.assign_sub(db))
    """
    op = make("NoOp", check_name(name, "an operation"), num_outputs=0)
    parts = [operation_of(item, "group()") for item in _flat(inputs)]
    op.control_inputs = tuple(dict.fromkeys((*op.control_inputs, *parts)))
    return op


def _flat(items: Iterable[Any]) -> Iterable[Any]:
    for item in items:
        if isinstance(item, (list, tuple)):
            yield from _flat(item)
        else:
            yield item
