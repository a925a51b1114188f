"""State that lives on a task, under a name that all sessions share."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterable
from typing import Any

import numpy as np

from .build import group, make
from .control import control_dependencies, in_force
from .operation import Operation, check_name
from .placement import place
from .tensor import Operand, Tensor, as_tensor

__all__ = ["State", "Variable", "variables_initializer"]

_count = itertools.count()
_process = secrets.token_hex(4)


def _renew() -> None:
    global _process
    _process = secrets.token_hex(4)


# A fork would otherwise give its unnamed variables the names that its parent gives.
os.register_at_fork(after_in_child=_renew)


class State:
    """The payload of a variable's operations: see VariableDef in graph.proto.

    Attributes:
        name: under which the task keeps it.
        dtype: None if it is not known before the initial value is computed.
        shape: likewise.
    """

    __slots__ = ("dtype", "name", "shape")

    def __init__(self, name: str, dtype: Any, shape: tuple[int, ...] | None) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape


class Variable(Operand):
    """An array that a task keeps from step to step, and that every session can share.

    It lives on one task, the one whose device is in force when it is made, and all that is done
    to it is done there, one change at a time: concurrent adds never lose one. It can be used
    wherever a Tensor can; it is read at most once a step that way.

    Args:
        initial_value: what its initializer gives it: an array, a Tensor, or a function of no
            arguments that returns either.
        name: its name on that task; whoever uses the same name there, in whatever session or
            process, shares it. None is a name of its own.
        dtype: its dtype; None is that of the initial value.

    Attributes:
        device: where it lives, in whole or in part.
        initial_value: the Tensor of what its initializer gives it.
        initializer: the operation that gives it its initial value.
    """

    __slots__ = ("_read", "_state", "device", "initial_value", "initializer")

    def __init__(self, initial_value: Any, name: str | None = None, dtype: Any = None) -> None:
        if name is None:
            name = f"Variable_{_process}_{next(_count)}"
        check_name(name, "a variable")
        self.device: str = place(Operation("Variable", name))
        dtype = None if dtype is None else np.dtype(dtype)
        with control_dependencies(None):  # what a variable begins with does not wait for a step
            if callable(initial_value):
                initial_value = initial_value()
            if isinstance(initial_value, Operand):
                initial = initial_value._tensor()
                if dtype is not None:
                    initial = initial.astype(dtype)
                self._state = State(name, dtype, None)
            else:
                label = f"{name}/initial_value"
                initial = as_tensor(initial_value, dtype, self.device, label)
                array = initial.op.payload
                self._state = State(name, array.dtype, array.shape)
            self.initial_value: Tensor = initial
            self.initializer: Operation = self._operation("AssignVariable", "initializer", initial)
        self._read: Tensor | None = None

    @property
    def name(self) -> str:
        """Its name on its task."""
        return self._state.name

    def read(self) -> Tensor:
        """Return the Tensor of its value.

        It is read once in a step, after what ``control_dependencies()`` says.
        """
        if in_force():
            return Tensor(self._operation("ReadVariable", "read"))
        if self._read is None:
            self._read = Tensor(self._operation("ReadVariable", "read"))
        return self._read

    def assign(self, value: Any) -> Tensor:
        """Return the Tensor that gives it ``value`` when it is run, and is that value.

        Args:
            value: an array, Tensor or variable of its shape, of a dtype that NumPy's ``same_kind``
                casting takes to its own; so for the other methods.
        """
        return self._change("AssignVariable", "assign", value)

    def assign_add(self, delta: Any) -> Tensor:
        """Return the Tensor that adds ``delta`` when it is run, and is the new value."""
        return self._change("AssignAddVariable", "assign_add", delta)

    def assign_sub(self, delta: Any) -> Tensor:
        """Return the Tensor that subtracts ``delta`` when it is run, and is the new value."""
        return self._change("AssignSubVariable", "assign_sub", delta)

    def scatter_add(self, indices: Any, updates: Any) -> Tensor:
        """Return the Tensor that adds ``updates[i]`` to row ``indices[i]``, and is the new value.

        Args:
            indices: whole numbers; each row is added to as often as it is named.
            updates: the rows to add.
        """
        return self._change("ScatterAddVariable", "scatter_add", indices, updates)

    def _change(self, kind: str, verb: str, *values: Any) -> Tensor:
        inputs = [as_tensor(value, where=self.device) for value in values]
        return Tensor(self._operation(kind, verb, *inputs))

    def _operation(self, kind: str, verb: str, *inputs: Tensor) -> Operation:
        return make(kind, f"{self.name}/{verb}", inputs, payload=self._state, where=self.device)

    def _tensor(self) -> Tensor:
        return self.read()

    def __repr__(self) -> str:
        where = f" on {self.device}" if self.device else ""
        return f"<Variable {self.name}{where}>"


def variables_initializer(var_list: Iterable[Variable], name: str = "init") -> Operation:
    """Return the operation that gives each of the variables its initial value.

    Args:
        var_list: the variables.
        name: what it is called.
    """
    if isinstance(var_list, Variable) or not isinstance(var_list, Iterable):
        raise TypeError(f"variables_initializer() takes a list of variables, not {var_list!r}")
    variables = list(var_list)
    for variable in variables:
        if not isinstance(variable, Variable):
            raise TypeError(f"variables_initializer() takes variables, not {variable!r}")
    return group(*(variable.initializer for variable in variables), name=name)
