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

_WIDE = 1 << 26  # bytes that strings may be padded to


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
        return self._value(self._variables.get((container, variable.name)), variable)

    def assign(self, container: str, variable: VariableDef, value: Any) -> Array:
        """Store a copy of ``value``; return it."""
        key = container, variable.name
        found = self._variables.get(key)
        if found is None:
            # What is refused shall leave nothing, not even a variable without a value.
            first = _assigned(variable, None, value)
            with self._lock:
                found = self._variables.setdefault(key, _Variable())
            with found.lock:
                if found.value is None:
                    found.value = first
                    return first
        with found.lock:
            found.value = _assigned(variable, found.value, value)
            return found.value

    def assign_add(self, container: str, variable: VariableDef, value: Any) -> Array:
        """Store the sum of the old value and ``value``; return it."""
        return self._change(
            container, variable, lambda old: np.add(old, _fitting(variable, old, value))
        )

    def assign_sub(self, container: str, variable: VariableDef, value: Any) -> Array:
        """Store the old value less ``value``; return it."""
        return self._change(
            container, variable, lambda old: np.subtract(old, _fitting(variable, old, value))
        )

    def scatter_add(
        self, container: str, variable: VariableDef, indices: Any, updates: Any
    ) -> Array:
        """Add ``updates`` at ``indices`` of the first axis (each as often as it occurs)."""
        indices = _array(indices)
        if indices.dtype.kind not in "iu":
            raise InvalidArgumentError(
                f"variable {variable.name!r}: the indices of scatter_add have dtype "
                f"{indices.dtype}, and have to be integers"
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

    def _value(self, found: _Variable | None, variable: VariableDef) -> Array:
        if found is None or found.value is None:
            raise FailedPreconditionError(
                f"variable {variable.name!r} is not initialised on {self._task}\n"
                "  To fix this: run variables_initializer([...]) or its .initializer first"
                " (a reset or a restart of the task forgets values)"
            )
        return found.value

    def _change(
        self, container: str, variable: VariableDef, change: Callable[[Array], Any]
    ) -> Array:
        found = self._variables.get((container, variable.name))
        if found is None:
            return self._value(None, variable)
        with found.lock:
            old = self._value(found, variable)
            try:
                new = np.asarray(change(old))
            except (TypeError, ValueError, IndexError, MemoryError) as error:
                raise InvalidArgumentError(
                    f"variable {variable.name!r} (dtype {old.dtype}, shape {old.shape}) "
                    f"cannot be changed like that: {error}"
                ) from error
            found.value = _cast(variable, new, old.dtype, old.shape)
            return found.value


def _assigned(variable: VariableDef, old: Array | None, value: Any) -> Array:
    """Return what a variable holds that ``value`` is assigned to."""
    value = _array(value)
    if variable.dtype:
        dtype = dtype_from_text(variable.dtype)
    else:
        dtype = value.dtype if old is None else old.dtype
    if variable.shape_known:
        shape: tuple[int, ...] | None = tuple(variable.shape)
    else:
        shape = None if old is None else old.shape
    return _cast(variable, value, dtype, shape)


def _array(value: Any) -> Array:
    if isinstance(value, np.ndarray):
        return value
    try:
        array = np.asarray(value)
    except ValueError:
        array = None
    if array is None or array.dtype.hasobject:
        raise InvalidArgumentError(f"a {type(value).__qualname__} came where an array has to be")
    return array


def _fitting(variable: VariableDef, old: Array, value: Any) -> Any:
    """Return ``value``; refuse what would make more of the variable, before that takes memory."""
    shape = np.shape(value)
    if shape and shape != old.shape:
        _check_shape(variable, np.broadcast_shapes(shape, old.shape), old.shape)
    return value


def _check_shape(variable: VariableDef, came: tuple[int, ...], shape: tuple[int, ...]) -> None:
    if came != shape:
        raise InvalidArgumentError(
            f"variable {variable.name!r} has shape {shape}, and a value of shape {came} came"
        )


def _cast(
    variable: VariableDef, value: Array, dtype: np.dtype[Any], shape: tuple[int, ...] | None
) -> Array:
    if shape is not None:
        _check_shape(variable, value.shape, shape)
    if not np.can_cast(value.dtype, dtype, "same_kind"):
        raise InvalidArgumentError(
            f"variable {variable.name!r} has dtype {dtype}, and a value of dtype {value.dtype} came"
            "\n  To fix this: convert it with astype()"
        )
    if dtype.itemsize * value.size > _WIDE and dtype.itemsize > 32 * value.itemsize:
        raise InvalidArgumentError(
            f"variable {variable.name!r} has dtype {dtype}, which takes many times the memory "
            f"of the value of dtype {value.dtype} that came"
        )
    try:
        # A copy also where none seems needed: an operation may go on writing to what it returned.
        stored: Array = read_only(value.astype(dtype, order="C"))
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"variable {variable.name!r} has dtype {dtype}, "
            f"and a value of dtype {value.dtype} came that is none: {error}"
        ) from error
    return stored


WRITES: dict[str, Callable[..., Array]] = {
    "AssignVariable": Variables.assign,
    "AssignAddVariable": Variables.assign_add,
    "AssignSubVariable": Variables.assign_sub,
    "ScatterAddVariable": Variables.scatter_add,
}
"""What each operation that writes does, given container, variable and the values of its inputs."""
