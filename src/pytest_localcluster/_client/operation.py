"""One node of a graph: what is to be done, with what, where, and after what."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tensor import Tensor

__all__ = ["Operation", "check_name", "operation_of"]

_NAME = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._/>-]*")


class Operation:
    """One thing that a step does; a Tensor is an output of one.

    Fetching an operation runs it and gives None. There is no global graph: an operation knows
    those that it needs, and a session learns of them when it is first asked to run it.

    Attributes:
        type: what kind it is, such as ``Const`` or ``Function``; functions given to
            :func:`~pytest_localcluster.device` also see ``Variable``.
        name: what it is called; a session appends a number if it has another of that name.
        inputs: the Tensors that it takes.
        num_outputs: how many Tensors it gives.
        payload: what its type needs besides: the value of a Const, the :class:`Call` of a
            Function, the :class:`VariableDef` of a variable's operation.
        device: where it runs, in whole or in part.
        control_inputs: the operations that it waits for.
    """

    __slots__ = (
        "__weakref__",
        "control_inputs",
        "device",
        "inputs",
        "name",
        "num_outputs",
        "payload",
        "type",
    )

    def __init__(
        self,
        type: str,  # noqa: A002  # TensorFlow's name for it
        name: str,
        inputs: Sequence[Tensor] = (),
        *,
        num_outputs: int = 1,
        payload: Any = None,
    ) -> None:
        self.type: str = type
        self.name: str = name
        self.inputs: tuple[Tensor, ...] = tuple(inputs)
        self.num_outputs: int = num_outputs
        self.payload: Any = payload
        self.device: str = ""
        self.control_inputs: tuple[Operation, ...] = ()

    def __reduce__(self) -> Any:
        raise TypeError(
            f"operation {self.name!r} belongs to this process and cannot be sent to a task; "
            "fetch it with Session.run"
        )

    def __repr__(self) -> str:
        where = f" on {self.device}" if self.device else ""
        return f"<Operation {self.name} ({self.type}){where}>"


def operation_of(item: Any, what: str) -> Operation:
    """Return the operation that gives ``item``: a Tensor's, or itself.

    Raises:
        TypeError: it is neither; the message begins with ``what``.
    """
    if isinstance(item, Operation):
        return item
    op = getattr(item, "op", None)
    if isinstance(op, Operation):
        return op
    remedy = ""
    if hasattr(type(item), "assign_add"):
        remedy = "; use its initializer, or what its read() or assign() gives"
    raise TypeError(f"{what} takes Tensors and operations, not {item!r}{remedy}")


def check_name(name: object, what: str) -> str:
    """Return ``name`` if it can name an operation or a variable; raise ValueError or TypeError."""
    if not isinstance(name, str):
        raise TypeError(f"{what} is named by a string, not {name!r}")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name for {what}: use letters, digits and the characters . _ / > -, "
            "beginning with none of the last three"
        )
    return name
