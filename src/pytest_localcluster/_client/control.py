"""What has to be done before: control_dependencies() scopes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .operation import operation_of

if TYPE_CHECKING:
    from .operation import Operation

__all__ = ["control_dependencies", "in_force"]

_before: ContextVar[tuple[Operation, ...]] = ContextVar("pytest_localcluster_control", default=())


@contextmanager
def control_dependencies(control_inputs: Iterable[Any] | None) -> Iterator[None]:
    """Let the operations that are made inside wait until others are done.

    Scopes nest and add up. Operations made before the scope do not wait, also if they are used
    inside it.

    Args:
        control_inputs: Tensors and operations to wait for; None to forget the outer scopes'.

    Example::

        with control_dependencies([weights.assign_sub(step)]):
            after = weights.read()
    """
    outer = _before.get()
    inner: tuple[Operation, ...] = ()
    if control_inputs is not None:
        if isinstance(control_inputs, str) or not isinstance(control_inputs, Iterable):
            raise TypeError(
                "control_dependencies() takes a list of Tensors and operations, "
                f"not {control_inputs!r}"
            )
        new = [operation_of(item, "control_dependencies()") for item in control_inputs]
        inner = tuple(dict.fromkeys((*outer, *new)))
    _before.set(inner)
    try:
        yield
    finally:
        _before.set(outer)


def in_force() -> tuple[Operation, ...]:
    """Return what operations made now have to wait for."""
    return _before.get()
