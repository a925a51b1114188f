"""What one structure of fetches asks a master for, and how its answer gets that structure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from operator import itemgetter
from typing import Any

from .._graph import in_short
from .._proto.master_pb2 import RunStepRequest
from .control import control_dependencies
from .nodes import Names, needed
from .operation import Operation
from .tensor import Operand, Tensor

__all__ = ["Plan", "key_of"]

_DICTS = (dict, OrderedDict)

Build = Callable[[Sequence[Any]], Any]


def key_of(fetches: Any) -> Hashable:
    """Return what two structures of the same fetches have in common.

    It holds ids: only a :class:`Plan`, which keeps its fetches alive, may be looked up by it.
    """
    if isinstance(fetches, (Operand, Operation)):
        return id(fetches)
    if isinstance(fetches, (list, tuple)):
        return type(fetches), *map(key_of, fetches)
    if isinstance(fetches, dict):
        return type(fetches), tuple(fetches), *map(key_of, fetches.values())
    return (type(fetches),)  # no plan has it: trying to make one says where the mistake is


class Plan:
    """One structure of fetches, worked out once and run in many steps.

    Attributes:
        operations: all that they need, each after what it needs.
        names: what the nodes of those are called.
        request: the request of a step, without its session handle and feeds.
        build: makes, from the values that the step fetched, what run() returns.
        what: a step of it, for messages.
        ready_at: the half of the session at its master that knows all nodes; see remote.py.
    """

    __slots__ = ("_fetched", "_keep", "build", "names", "operations", "ready_at", "request", "what")

    def __init__(self, fetches: Any, names: Names) -> None:
        self._fetched: dict[Tensor, int] = {}
        self._keep: dict[Any, None] = {}  # so that no id in a key is ever another's
        targets: dict[Operation, None] = {}
        self.build = self._compile(fetches, "fetches", targets)
        self.operations = needed([*(tensor.op for tensor in self._fetched), *targets])
        self.names = {op: names.of(op) for op in self.operations}
        self.request = RunStepRequest(
            fetch=[f"{self.names[tensor.op]}:{tensor.value_index}" for tensor in self._fetched],
            target=[self.names[op] for op in targets],
        )
        self.what = f"a step for {in_short(*self.request.fetch, *self.request.target)}"
        self.ready_at: object = None

    def _compile(self, fetches: Any, where: str, targets: dict[Operation, None]) -> Build:
        if isinstance(fetches, Operand):
            self._keep[fetches] = None
            with control_dependencies(
                None
            ):  # a variable's value, whatever scope run() is called in
                tensor = fetches._tensor()
            return itemgetter(self._fetched.setdefault(tensor, len(self._fetched)))
        if isinstance(fetches, Operation):
            self._keep[fetches] = None
            targets.update(dict.fromkeys(_spread(fetches)))
            return _none
        if isinstance(fetches, (list, tuple)):
            kind = type(fetches)
            make: Callable[..., Any] = getattr(kind, "_make", kind)
            parts = [self._compile(f, f"{where}[{i}]", targets) for i, f in enumerate(fetches)]
            return lambda values: make([part(values) for part in parts])
        if isinstance(fetches, dict):
            kinds: Any = type(fetches) if type(fetches) in _DICTS else dict
            items = [
                (key, self._compile(f, f"{where}[{key!r}]", targets)) for key, f in fetches.items()
            ]
            return lambda values: kinds([(key, part(values)) for key, part in items])
        raise TypeError(_refused(fetches, where))


def _none(values: Sequence[Any]) -> None:
    return None


def _spread(op: Operation) -> list[Operation]:
    """Return what a group waits for, in its place: it needs no task of its own to wait on."""
    if op.type != "NoOp" or not op.control_inputs:
        return [op]
    found: dict[Operation, None] = {}
    stack, seen = list(reversed(op.control_inputs)), {op}
    while stack:
        other = stack.pop()
        if other in seen:
            continue
        seen.add(other)
        if other.type == "NoOp":
            stack.extend(reversed(other.control_inputs))
        else:
            found[other] = None
    return list(found)


def _refused(fetch: object, where: str) -> str:
    if fetch is None:
        return f"{where} is None, which cannot be fetched: leave it out"
    if isinstance(fetch, str):
        return (
            f"{where} is the string {fetch!r}: fetch the Tensor or operation itself, not its name"
        )
    return (
        f"{where} is {fetch!r}, which cannot be fetched: fetch Tensors, variables and operations, "
        "by themselves or in lists, tuples and dicts"
    )
