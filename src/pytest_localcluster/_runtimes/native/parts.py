"""A part of a graph as it is registered on a task: compiled once, run in every step.

Each output has a slot, and each operation knows the slots that it reads, who has to be done before
it, and who waits for it. What comes from outside (fed by the master, or received from another
task) arrives in slots of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ... import _graph
from ..._tensors import as_value, read_only
from ...errors import InvalidArgumentError, OpError
from .statuses import StepFailed, operation_failed, status_of
from .variables import WRITES, Variables

if TYPE_CHECKING:
    from ..._proto.graph_pb2 import NodeDef
    from ..._proto.worker_pb2 import RegisterGraphRequest

__all__ = ["Arrival", "Operation", "Part", "compile_part", "failure_of"]

Perform = Callable[[list[Any]], Sequence[Any]]


@dataclass(slots=True)
class Operation:
    """One operation of a part.

    Attributes:
        name: as in the graph.
        device: where it runs, for messages.
        perform: takes the values of its inputs, returns those of its outputs.
        quick: whether it runs none of the user's code, and so ends soon.
        reads: the slots of its inputs.
        slot: that of its first output; the others follow.
        waits: how many operations and arrivals it waits for.
        after: the operations that wait for it.
        sends: what other tasks ask for: key, which output (None is that it is done), how often.
        hands: what the master takes to other tasks: key and output.
        code: what stands for it where it is noted; 0 if it never was.
    """

    name: str
    device: str
    perform: Perform
    quick: bool
    reads: tuple[int, ...]
    slot: int
    waits: int = 0
    after: list[int] = field(default_factory=list)
    sends: list[tuple[str, int | None, int]] = field(default_factory=list)
    hands: list[tuple[str, int | None]] = field(default_factory=list)
    code: int = 0


@dataclass(slots=True)
class Arrival:
    """What comes from outside: where it goes, who waits for it, and which task has it, by name.

    That is None of what is fed, and empty of what the master brings while the part runs.
    """

    slot: int
    after: list[int]
    holder: str | None


@dataclass(slots=True)
class Part:
    """A compiled part.

    Attributes:
        session: the handle of the session that it belongs to.
        master: the name of the task whose master runs it.
        operations: in no order.
        arrivals: by key.
        fetches: the slots that the master wants.
        uses: for each slot, how many operations read it, and one more if it is fetched.
        outlived: whether the task of its master was restarted since, or just before.
    """

    session: str
    master: str
    operations: list[Operation]
    arrivals: dict[str, Arrival]
    fetches: tuple[int, ...]
    uses: list[int]
    outlived: bool = False


def compile_part(
    request: RegisterGraphRequest,
    variables: Variables,
    devices: Mapping[str, str],
    constant: Callable[[NodeDef], Any],
    hands: Collection[str] = (),
) -> Part:
    """Compile a part of a graph.

    Args:
        request: the part, which has been checked.
        variables: what its variable operations work on.
        devices: where each of its operations runs.
        constant: returns the value of a Const.
        hands: the keys that the master takes to other tasks.

    Raises:
        InvalidArgumentError: a function's arguments are none for it.
        StepFailed: a function cannot be unpickled here.
    """
    operations: list[Operation] = []
    sources: dict[str, int] = {}
    slots = 0
    arrivals: dict[str, Arrival] = {}
    for key, holder in [*((key, None) for key in request.feed), *request.recv.items()]:
        arrivals[key] = Arrival(slots, [], holder)
        slots += 1
    for index, node in enumerate(request.graph_def.node):
        perform = _perform(node, variables, request.container, devices[node.name], constant)
        quick = node.op != "Function"
        operations.append(Operation(node.name, devices[node.name], perform, quick, (), slots))
        sources[node.name] = index
        slots += max(node.num_outputs, 1)

    uses = [0] * slots
    for index, node in enumerate(request.graph_def.node):
        operation = operations[index]
        reads: list[int] = []
        before: set[str] = set()
        for name in node.input:
            if name in arrivals:
                reads += [] if name.startswith("^") else [arrivals[name].slot]
                before.add(name)
            elif name.startswith("^"):
                before.add(name[1:])
            else:
                source, _, output = name.rpartition(":")
                reads.append(operations[sources[source]].slot + int(output))
                before.add(source)
        operation.reads = tuple(reads)
        operation.waits = len(before)
        for name in before:
            (arrivals[name].after if name in arrivals else operations[sources[name]].after).append(
                index
            )
        for slot in set(reads):
            uses[slot] += 1

    for key, times in Counter(request.send).items():
        source, _, output = key.lstrip("^").partition(":")
        operation = operations[sources[source]]
        operation.sends.append((key, int(output) if output else None, times))
    for key in hands:
        source, _, output = key.lstrip("^").partition(":")
        operation = operations[sources[source]]
        operation.hands.append((key, int(output) if output else None))
    fetches = []
    for key in request.fetch:
        source, _, output = key.rpartition(":")
        fetches.append(operations[sources[source]].slot + int(output))
        uses[fetches[-1]] += 1
    return Part(request.session_handle, request.master, operations, arrivals, tuple(fetches), uses)


def _perform(
    node: NodeDef,
    variables: Variables,
    container: str,
    device: str,
    constant: Callable[[NodeDef], Any],
) -> Perform:
    """Return what an operation does."""
    if node.op == "Const":
        value = [read_only(constant(node))]
        return lambda _: value
    if node.op == "NoOp":
        nothing = [None] * node.num_outputs
        return lambda _: nothing
    if node.op == "ReadVariable":
        return lambda _: [variables.read(container, node.variable)]
    if node.op in WRITES:
        write = WRITES[node.op]
        return lambda values: [write(variables, container, node.variable, *values)]
    if node.op == "Placeholder":

        def missing(_: list[Any]) -> Sequence[Any]:
            raise InvalidArgumentError(f"placeholder {node.name!r} is needed and was not fed")

        return missing
    try:
        inputs = sum(not key.startswith("^") for key in node.input)
        call = _graph.compile_call(node.function, node.arguments, inputs)
    except _graph.BadCall as error:
        raise InvalidArgumentError(f"{node.name!r} is no function call: {error}") from None
    except BaseException as error:  # whatever a user's module raises while it is imported
        raise StepFailed(operation_failed(error, node.name, device)) from error
    return _function(call, node.num_outputs)


def _function(call: Callable[[Sequence[Any]], Any], outputs: int) -> Perform:
    def perform(values: list[Any]) -> Sequence[Any]:
        result = call(list(map(_handed, values)))
        if outputs == 1:
            return [_checked(result)]
        if outputs == 0:
            return []
        if not isinstance(result, (tuple, list)) or len(result) != outputs:
            got = (
                f"{len(result)}" if isinstance(result, (tuple, list)) else type(result).__qualname__
            )
            raise _Refused(f"its function should return {outputs} values, and returned {got}")
        return [_checked(item) for item in result]

    return perform


class _Refused(InvalidArgumentError):
    """What a function returned is of no use; nothing of it is the function's own error."""


def _checked(result: Any) -> Any:
    try:
        return read_only(as_value(result))
    except (TypeError, ValueError) as error:
        raise _Refused(f"its result is no tensor: {error}") from error


def _handed(value: Any) -> Any:
    """Return a value as a function gets it: one without dimensions is a scalar, as in NumPy.

    Where a scalar would not keep the dtype it stays an array: strings of variable width become
    plain ones, foreign byte orders native.
    """
    if isinstance(value, tuple):
        return tuple(map(_handed, value))
    if isinstance(value, list):
        return [_handed(item) for item in value]
    if (
        value is not None
        and not value.ndim
        and value.dtype.kind not in "TV"
        and value.dtype.isnative
    ):
        return value[()]
    return value


def failure_of(error: BaseException, operation: Operation) -> StepFailed:
    """Return the failure of a step in which ``operation`` raised ``error``."""
    if isinstance(error, StepFailed):
        return error
    if isinstance(error, OpError) and (operation.quick or isinstance(error, _Refused)):
        message = error.message
        if isinstance(error, _Refused):
            message = f"{operation.name} on {operation.device}: {message}"
        status = status_of(error, op=operation.name, device=operation.device)
        status.message = message
        return StepFailed(status)
    return StepFailed(operation_failed(error, operation.name, operation.device))
