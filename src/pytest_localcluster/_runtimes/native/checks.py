"""What a graph has to be, for a master that gets it from a client and a task that gets a part."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from ...errors import AlreadyExistsError, InvalidArgumentError
from .variables import WRITES

if TYPE_CHECKING:
    from ..._proto.graph_pb2 import NodeDef
    from ..._proto.worker_pb2 import RegisterGraphRequest

__all__ = ["KINDS", "add_nodes", "check_part", "output_of", "source_of"]

KINDS = frozenset(("Const", "Placeholder", "Function", "NoOp", "ReadVariable", *WRITES))
"""The operations there are."""

# A few bytes can ask for any number of outputs, each of which takes memory.
_MOST_OUTPUTS = 1 << 16
_MOST_OF_ALL = 1 << 20


def source_of(key: str) -> str:
    """Return the operation that an input ``"name:0"`` or ``"^name"`` comes from."""
    return key[1:] if key.startswith("^") else key.rpartition(":")[0]


def output_of(key: str, outputs: int) -> int | None:
    """Return the number at the end of ``"name:0"``; None if it is none below ``outputs``."""
    text = key.rpartition(":")[2]
    # Not everything that isdigit() can be read, and reading takes long where there are many.
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        return None
    number = int(text)
    return number if number < outputs else None


def add_nodes(graph: Mapping[str, NodeDef], more: Iterable[NodeDef]) -> dict[str, NodeDef]:
    """Return a graph with more nodes; all of them are right.

    Raises:
        InvalidArgumentError: a node cannot be.
        AlreadyExistsError: a name is taken.
    """
    nodes, new = dict(graph), list(more)
    for node in new:
        _add(nodes, node)
    for node in new:
        for key in node.input:
            _check_input(nodes, node, key)
    return nodes


def check_part(request: RegisterGraphRequest, tasks: Collection[str]) -> None:
    """Look at the part of a graph that comes from a master.

    Args:
        request: the part.
        tasks: those of the cluster: nobody else is asked for anything, and told the token.

    Raises:
        InvalidArgumentError: it is none.
        AlreadyExistsError: two operations have one name.
    """
    for task in filter(None, (request.master, *request.recv.values())):
        if task not in tasks:
            raise InvalidArgumentError(f"there is no task {task!r} in this cluster")
    arrivals = {*request.feed, *request.recv}
    for key in arrivals:
        if not source_of(key):
            raise InvalidArgumentError(f"{key!r}, which shall come from elsewhere, is no output")
    nodes: dict[str, NodeDef] = {}
    for node in request.graph_def.node:
        _add(nodes, node)
    if sum(node.num_outputs for node in nodes.values()) > _MOST_OF_ALL:
        raise InvalidArgumentError(f"a part of a graph has more than {_MOST_OF_ALL} outputs")
    for node in nodes.values():
        for key in node.input:
            if key not in arrivals:
                _check_input(nodes, node, key)
    for key in (*request.send, *request.fetch):
        _check_asked(nodes, key)
    for key in request.fetch:
        if key.startswith("^"):
            raise InvalidArgumentError(f"{key!r} cannot be fetched: it has no value")
    _check_order(nodes, arrivals)


def _add(nodes: dict[str, NodeDef], node: NodeDef) -> None:
    if not node.name or ":" in node.name or node.name.startswith("^"):
        raise InvalidArgumentError(f"no operation can be called {node.name!r}")
    if node.name in nodes:
        raise AlreadyExistsError(f"there are two operations {node.name!r} in the graph")
    if node.op not in KINDS:
        raise InvalidArgumentError(
            f"{node.name!r} is a {node.op!r}; there are {', '.join(sorted(KINDS))}"
        )
    _check(node)
    nodes[node.name] = node


def _check(node: NodeDef) -> None:
    variable = node.op in WRITES or node.op == "ReadVariable"
    inputs = sum(not key.startswith("^") for key in node.input)
    wanted = {"ReadVariable": 0, "ScatterAddVariable": 2}.get(node.op, 1)
    if variable and not node.variable.name:
        raise InvalidArgumentError(f"{node.name!r} is a {node.op} and names no variable")
    if variable and inputs != wanted:
        raise InvalidArgumentError(
            f"{node.name!r} is a {node.op}, which takes {wanted} inputs, and has {inputs}"
        )
    if (variable or node.op in ("Const", "Placeholder")) and node.num_outputs != 1:
        raise InvalidArgumentError(
            f"{node.name!r} is a {node.op}, which has one output, not {node.num_outputs}"
        )
    if not 0 <= node.num_outputs <= _MOST_OUTPUTS:
        raise InvalidArgumentError(
            f"{node.name!r} cannot have {node.num_outputs} outputs; up to {_MOST_OUTPUTS} will do"
        )
    if node.op == "Const" and node.value.WhichOneof("kind") is None:
        raise InvalidArgumentError(f"{node.name!r} is a Const without a value")
    if node.op == "Function" and not (node.function and node.arguments):
        raise InvalidArgumentError(f"{node.name!r} is a Function without function and arguments")


def _check_input(nodes: Mapping[str, NodeDef], node: NodeDef, key: str) -> None:
    source = source_of(key)
    if source not in nodes:
        raise InvalidArgumentError(f"{node.name!r} has input {key!r}, which is not in the graph")
    if not key.startswith("^") and output_of(key, nodes[source].num_outputs) is None:
        raise InvalidArgumentError(
            f"{node.name!r} has input {key!r}, "
            f"and {source!r} has {nodes[source].num_outputs} outputs"
        )


def _check_asked(nodes: Mapping[str, NodeDef], key: str) -> None:
    source = source_of(key)
    if source not in nodes:
        raise InvalidArgumentError(f"an output of {source!r} is asked for, which is not there")
    if not key.startswith("^") and output_of(key, nodes[source].num_outputs) is None:
        raise InvalidArgumentError(
            f"{key!r} is asked for, and {source!r} has {nodes[source].num_outputs} outputs"
        )


def _check_order(nodes: Mapping[str, NodeDef], arrivals: Collection[str]) -> None:
    """Refuse operations that wait for each other: no step of theirs would ever end."""
    waits: dict[str, set[str]] = {}
    after: dict[str, list[str]] = {}
    for node in nodes.values():
        waits[node.name] = {source_of(key) for key in node.input if key not in arrivals}
        for source in waits[node.name]:
            after.setdefault(source, []).append(node.name)
    ready = [name for name, sources in waits.items() if not sources]
    while ready:
        source = ready.pop()
        del waits[source]
        for name in after.get(source, ()):
            waits[name].remove(source)
            if not waits[name]:
                ready.append(name)
    if waits:
        name = min(waits)
        raise InvalidArgumentError(
            f"operation {name!r} waits for itself, or for others that do", op=name
        )
