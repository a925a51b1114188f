"""An output of an operation, with NumPy as its set of operations (NEP 13, NEP 18)."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _graph, _tensors
from .build import make
from .call import name_of, pickle_call
from .refusals import Refusals, refuse_attribute, refuse_in_place

if TYPE_CHECKING:
    from .operation import Operation

__all__ = ["Operand", "Tensor", "as_array", "as_tensor", "call_function"]

# NumPy's functions that change their first argument: they have no `out` to tell them by.
_IN_PLACE = {"copyto", "fill_diagonal", "place", "put", "put_along_axis", "putmask"}


class Operand(Refusals, np.lib.mixins.NDArrayOperatorsMixin):
    """Something that a step has an array for: what Tensors and variables have in common.

    Operators, NumPy's functions and ufuncs, indexing, and an array's methods and attributes give
    Tensors; what cannot be had before the step runs raises TypeError.
    """

    __slots__ = ()
    # NumPy's mixin has an __eq__, and so no hash; feeds are keyed by Tensors.
    __hash__ = object.__hash__

    def _tensor(self) -> Tensor:
        raise NotImplementedError

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        if method == "at" or _has_out(kwargs):
            raise refuse_in_place(f"np.{name}" + ("" if method == "at" else " with out="))
        if method == "__call__":
            return call_function(ufunc, inputs, kwargs, num_outputs=ufunc.nout)
        return call_function(_graph.call_method, (ufunc, method, *inputs), kwargs, name=name)

    def __array_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        if not all(issubclass(kind, (Operand, np.ndarray)) for kind in types):
            return NotImplemented
        if func.__name__ in _IN_PLACE:
            raise refuse_in_place(f"np.{func.__name__}")
        if _has_out(kwargs):
            raise refuse_in_place(f"np.{func.__name__} with out=")
        return call_function(func, args, kwargs)

    def __pow__(self, other: Any, modulus: Any = None) -> Any:
        if modulus is not None:
            raise TypeError("pow() with a modulus is for whole numbers: use (x ** y) % z")
        return np.power(self, other)

    def __getattr__(self, name: str) -> Any:
        # Names with an underscore are protocols, which a Tensor speaks or does not.
        found = None if name.startswith("_") else getattr(np.ndarray, name, None)
        if found is None:
            kind = type(self).__name__
            raise AttributeError(f"a {kind} has no {name!r}, nor has an array", name=name, obj=self)
        refuse_attribute(self, name)
        if callable(found):
            return partial(_call_method, self, name)
        return call_function(getattr, (self, name), {}, name=name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for name in dir(np.ndarray) if name[0] != "_")]

    def __getitem__(self, key: Any) -> Tensor:
        tensor: Tensor = call_function(operator.getitem, (self, key), {})
        return tensor


class Tensor(Operand):
    """What an operation gives in a step: an array, None, or a tuple of those.

    It is no array: it has no elements, shape or dtype before the step runs.

    Attributes:
        op: the operation.
        value_index: which of the operation's outputs it is.
    """

    __slots__ = ("op", "value_index")

    def __init__(self, op: Operation, value_index: int = 0) -> None:
        self.op: Operation = op
        self.value_index: int = value_index

    @property
    def name(self) -> str:
        """Its operation's name and which output it is, such as ``matmul:0``."""
        return f"{self.op.name}:{self.value_index}"

    @property
    def device(self) -> str:
        """Where it is made, in whole or in part."""
        return self.op.device

    def _tensor(self) -> Tensor:
        return self

    def __repr__(self) -> str:
        where = f" on {self.op.device}" if self.op.device else ""
        return f"<Tensor {self.name} ({self.op.type}){where}>"


def _has_out(kwargs: Mapping[str, Any]) -> bool:
    out = kwargs.get("out")
    return any(o is not None for o in out) if isinstance(out, tuple) else out is not None


def _call_method(operand: Operand, method: str, /, *args: Any, **kwargs: Any) -> Any:
    if _has_out(kwargs):
        raise refuse_in_place(f"{method} with out=")
    return call_function(_graph.call_method, (operand, method, *args), kwargs, name=method)


def call_function(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    num_outputs: int = 1,
    name: str | None = None,
    inline: bool = False,
) -> Any:
    """Return what a call of ``function`` gives: a Tensor, or as many as it has outputs.

    Args:
        function: any callable of values.
        args: its arguments, some of which are or hold Tensors and variables.
        kwargs: its keyword arguments, likewise.
        num_outputs: how many values it returns.
        name: what the operation is called; the function's own name if None.
        inline: whether large arrays go with the call, to arrive as what they are; otherwise they
            become constants, which travel once and without limit to their size.
    """
    constants: dict[int, Tensor] = {}

    def find(value: Any) -> Tensor | None:
        if isinstance(value, Operand):
            return value._tensor()
        if not inline and type(value) is np.ndarray and value.nbytes > _tensors.INLINE_LIMIT:
            if id(value) not in constants:
                constants[id(value)] = as_tensor(value)
            return constants[id(value)]
        return None

    args, kwargs, inputs = _graph.pack(args, kwargs, find)
    call = pickle_call(function, args, kwargs)
    name = name or name_of(function)
    op = make("Function", name, inputs, num_outputs=num_outputs, payload=call)
    if num_outputs == 1:
        return Tensor(op)
    return tuple(Tensor(op, i) for i in range(num_outputs))


def as_array(value: Any, dtype: Any = None) -> np.ndarray[Any, Any]:
    """Return a new array of ``value``, with which the caller cannot interfere.

    Raises:
        TypeError: no dtype but object can hold it.
    """
    array = np.array(value, dtype=dtype)
    if array.dtype.hasobject and array.dtype.kind != "T":
        raise TypeError(
            f"{value!r} is no tensor: its elements have to be numbers, strings, dates or records "
            "of those; other objects can be arguments of a function()"
        )
    return array


def as_tensor(
    value: Any, dtype: Any = None, where: str | None = None, name: str = "Const"
) -> Tensor:
    """Return a Tensor of ``value``: itself, a variable's, or a new constant.

    Args:
        value: a Tensor, a variable, or what :func:`numpy.array` takes.
        dtype: of a constant; None is what NumPy makes of it.
        where: the device of a constant; None is what the scopes in force say.
        name: what a constant is called.
    """
    if isinstance(value, Operand):
        return value._tensor()
    return Tensor(make("Const", name, payload=as_array(value, dtype), where=where))
