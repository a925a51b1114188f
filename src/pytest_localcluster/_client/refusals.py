"""What an array can do and a Tensor cannot, each with what to use instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

__all__ = ["Refusals", "refuse_attribute", "refuse_in_place"]

_FETCH = "fetch it with Session.run and use what that returns"

_ATTRIBUTES = {
    "base": _FETCH,
    "ctypes": _FETCH,
    "data": _FETCH,
    "dtype": _FETCH,
    "dump": _FETCH,
    "dumps": _FETCH,
    "fill": "use np.full_like(tensor, value)",
    "flags": _FETCH,
    "flat": "use tensor.ravel()",
    "partition": "use np.partition(tensor, kth)",
    "put": "make a copy with the new elements in a function()",
    "resize": "use tensor.reshape(shape) or np.resize(tensor, shape)",
    "setfield": "make a copy with the new elements in a function()",
    "setflags": _FETCH,
    "sort": "use np.sort(tensor)",
    "tobytes": _FETCH,
    "tofile": _FETCH,
    "tolist": _FETCH,
    "to_device": "put it where it should be made with device()",
}


_InPlace = Callable[[Any, Any], Any]


class RefusedAttribute(AttributeError, TypeError):
    """Both, so that hasattr() is False and yet every refusal is a TypeError."""


def refuse_attribute(owner: object, name: str) -> None:
    """Raise TypeError if ``name`` is an attribute of arrays that cannot be an operation."""
    remedy = _ATTRIBUTES.get(name)
    if remedy is not None:
        raise RefusedAttribute(f"{_a(owner)} has no {name} before the step runs: {remedy}")


def refuse_in_place(what: str) -> TypeError:
    """Return the error for something that would change an array."""
    return TypeError(
        f"{what} would change an array in place, and a Tensor is not one: "
        "use the form that gives a new value, such as x = x + 1, or a Variable's assign methods"
    )


def _in_place(operator: str) -> _InPlace:
    def refused(self: object, other: object) -> NoReturn:
        raise TypeError(
            f"{operator}= would change {_a(self)} in place: "
            f"write x = x {operator} y, or use a Variable's assign methods"
        )

    return refused


def _a(owner: object) -> str:
    return f"a {type(owner).__name__}"


class Refusals:
    """Raises TypeError for whatever needs an array's elements now, or would change them."""

    __slots__ = ()

    def __bool__(self) -> bool:
        raise TypeError(
            f"{_a(self)} is neither true nor false before the step runs: choose with "
            "np.where(condition, a, b) or in a function(); to tell two apart, use `is`"
        )

    def __len__(self) -> int:
        raise TypeError(
            f"{_a(self)} has no length before the step runs: np.shape(tensor)[0] is its Tensor"
        )

    def __iter__(self) -> Any:
        raise TypeError(
            f"{_a(self)} cannot be iterated over, nor unpacked, before the step runs: take it "
            "apart by index, as in a, b = t[0], t[1], or use function(fn, num_outputs=2)"
        )

    def __contains__(self, item: object) -> bool:
        raise TypeError(
            f"what {_a(self)} contains is not known before the step runs: "
            "use np.any(tensor == item) or np.isin(item, tensor)"
        )

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError(
            f"{_a(self)} is not an array before the step runs: use NumPy's functions on the "
            "Tensors themselves (np.stack([a, b]) in place of np.array([a, b])), wrap code that "
            f"needs arrays in function(), or {_FETCH}"
        )

    def __int__(self) -> int:
        raise TypeError(
            f"int() needs a value, which {_a(self)} has not yet: use tensor.astype(int)"
        )

    def __float__(self) -> float:
        raise TypeError(
            f"float() needs a value, which {_a(self)} has not yet: use tensor.astype(float), "
            "and NumPy's functions in place of math's"
        )

    def __complex__(self) -> complex:
        raise TypeError(
            f"complex() needs a value, which {_a(self)} has not yet: use tensor.astype(complex)"
        )

    def __round__(self, digits: int | None = None) -> Any:
        raise TypeError(
            f"round() needs a value, which {_a(self)} has not yet: use np.round(tensor)"
        )

    def __floor__(self) -> Any:
        raise TypeError(
            f"math.floor() needs a value, which {_a(self)} has not yet: use np.floor(tensor)"
        )

    def __ceil__(self) -> Any:
        raise TypeError(
            f"math.ceil() needs a value, which {_a(self)} has not yet: use np.ceil(tensor)"
        )

    def __trunc__(self) -> Any:
        raise TypeError(
            f"math.trunc() needs a value, which {_a(self)} has not yet: use np.trunc(tensor)"
        )

    def __index__(self) -> int:
        raise TypeError(
            f"{_a(self)} is no index before the step runs: use np.take(array, tensor), "
            "or constant(array)[tensor]"
        )

    def __setitem__(self, key: object, value: object) -> None:
        raise TypeError(
            f"{_a(self)} cannot be changed: use np.where(mask, value, tensor), a copy made in a "
            "function(), or a Variable's scatter_add(indices, updates)"
        )

    def __delitem__(self, key: object) -> None:
        raise TypeError(f"{_a(self)} cannot be changed: use np.delete(tensor, index)")

    __iadd__: ClassVar[_InPlace] = _in_place("+")
    __isub__: ClassVar[_InPlace] = _in_place("-")
    __imul__: ClassVar[_InPlace] = _in_place("*")
    __imatmul__: ClassVar[_InPlace] = _in_place("@")
    __itruediv__: ClassVar[_InPlace] = _in_place("/")
    __ifloordiv__: ClassVar[_InPlace] = _in_place("//")
    __imod__: ClassVar[_InPlace] = _in_place("%")
    __ipow__: ClassVar[_InPlace] = _in_place("**")
    __ilshift__: ClassVar[_InPlace] = _in_place("<<")
    __irshift__: ClassVar[_InPlace] = _in_place(">>")
    __iand__: ClassVar[_InPlace] = _in_place("&")
    __ixor__: ClassVar[_InPlace] = _in_place("^")
    __ior__: ClassVar[_InPlace] = _in_place("|")

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{self!r} belongs to this process and cannot be sent to a task: a function that needs "
            "its value has to take it as an argument, by itself or in a list, tuple, dict or slice"
        )

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: object) -> Any:
        return self
