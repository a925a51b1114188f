"""The variables that live on one task: state that outlasts steps and sessions.

A write stores a new array and never touches the old one: whoever has read the variable holds a
snapshot, and reading needs no lock. One lock for each variable makes writes atomic.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._tensors import dtype_from_text, read_only
from ...errors import FailedPreconditionError, InvalidArgumentError

if TYPE_CHECKING:
    from ..._proto.graph_pb2 import VariableDef

__all__ = ["WRITES", "Variables"]

Array = np.ndarray[Any, Any]


class _Variable:
    __slots__ = ("lock", "value")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.value: Array | None = None


class Variables:
    """All variables of one task, by container and name.

    Args:
        task: the task's name, for messages.
    """

    def __init__(self, task: str) -> None:
        self._task = task
        self._lock = threading.Lock()
        self._variables: dict[tuple[str, str], _Variable] = {}

    def read(self, container: str, variable: VariableDef) -> Array:
        """Return the variable's value, read-only."""
        return self._value(self._find(container, variable.name), variable)

    def assign(self, container: str, variable: VariableDef, value: Any) -> Array:
        """Store a copy of ``value``; return it."""
        found = self._find(container, variable.name)
        with found.lock:
            old = found.value
            if variable.dtype:
                dtype = dtype_from_text(variable.dtype)
            else:
                dtype = _array(value).dtype if old is None else old.dtype
            if variable.shape_known:
                shape: tuple[int, ...] | None = tuple(variable.shape)
            else:
                shape = None if old is None else old.shape
            found.value = _cast(variable, _array(value), dtype, shape)
            return found.value

    def assign_add(self, container: str, variable: VariableDef, value: Any) -> Array:
        """Store the sum of the old value and ``value``; return it."""
        return self._change(container, variable, lambda old: np.add(old, value))

    def assign_sub(self, container: str, variable: VariableDef, value: Any) -> Array:
        """Store the old value less ``value``; return it."""
        return self._change(container, variable, lambda old: np.subtract(old, value))

    def scatter_add(
        self, container: str, variable: VariableDef, indices: Any, updates: Any
    ) -> Array:
        """Add ``updates`` at ``indices`` of the first axis (each as often as it occurs)."""
        if _array(indices).dtype.kind not in "iu":
            raise InvalidArgumentError(
                f"variable {variable.name!r}: the indices of scatter_add have dtype "
                f"{_array(indices).dtype}, and have to be integers"
            )

        def add(old: Array) -> Array:
            new = old.copy()
            np.add.at(new, indices, updates)
            return new

        return self._change(container, variable, add)

    def snapshot(self) -> dict[str, Array]:
        """Return what the variables hold now; a session's own are named container/name."""
        with self._lock:
            found = list(self._variables.items())
        return {
            f"{container}/{name}" if container else name: value
            for (container, name), variable in found
            if (value := variable.value) is not None
        }

    def clear(self, container: str | None = None) -> None:
        """Forget the variables of one container, or all. A write under way goes nowhere."""
        with self._lock:
            if container is None:
                self._variables = {}
            else:
                kept = {key: v for key, v in self._variables.items() if key[0] != container}
                self._variables = kept

    def _find(self, container: str, name: str) -> _Variable:
        found = self._variables.get((container, name))
        if found is None:
            with self._lock:
                found = self._variables.setdefault((container, name), _Variable())
        return found

    def _value(self, found: _Variable, variable: VariableDef) -> Array:
        if found.value is None:
            raise FailedPreconditionError(
                f"variable {variable.name!r} is not initialised on {self._task}\n"
                "  To fix this: run variables_initializer([...]) or its .initializer first"
                " (a reset or a restart of the task forgets values)"
            )
        return found.value

    def _change(
        self, container: str, variable: VariableDef, change: Callable[[Array], Any]
    ) -> Array:
        found = self._find(container, variable.name)
        with found.lock:
            old = self._value(found, variable)
            try:
                new = np.asarray(change(old))
            except (TypeError, ValueError, IndexError) as error:
                raise InvalidArgumentError(
                    f"variable {variable.name!r} (dtype {old.dtype}, shape {old.shape}) "
                    f"cannot be changed like that: {error}"
                ) from error
            found.value = _cast(variable, new, old.dtype, old.shape)
            return found.value


def _array(value: Any) -> Array:
    return value if isinstance(value, np.ndarray) else np.asarray(value)


def _cast(
    variable: VariableDef, value: Array, dtype: np.dtype[Any], shape: tuple[int, ...] | None
) -> Array:
    if shape is not None and value.shape != shape:
        raise InvalidArgumentError(
            f"variable {variable.name!r} has shape {shape}, and a value of shape {value.shape} came"
        )
    if not np.can_cast(value.dtype, dtype, "same_kind"):
        raise InvalidArgumentError(
            f"variable {variable.name!r} has dtype {dtype}, and a value of dtype {value.dtype} came"
            "\n  To fix this: convert it with astype()"
        )
    # A copy also where none seems needed: an operation may go on writing to what it returned.
    stored: Array = read_only(value.astype(dtype, order="C"))
    return stored


WRITES: dict[str, Callable[..., Array]] = {
    "AssignVariable": Variables.assign,
    "AssignAddVariable": Variables.assign_add,
    "AssignSubVariable": Variables.assign_sub,
    "ScatterAddVariable": Variables.scatter_add,
}
"""What each operation that writes does, given container, variable and the values of its inputs."""
