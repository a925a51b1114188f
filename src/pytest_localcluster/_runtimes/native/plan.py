"""From a graph to the parts that one kind of step needs: prune, place, cut.

What a step needs is found from its fetches and targets backwards, stopping at what is fed. Each
operation then goes to the task of its device, and each edge between tasks becomes a send on one
side and a receive on the other. All steps that feed, fetch and target the same share one plan.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..._proto.graph_pb2 import NodeDef
from ...errors import InvalidArgumentError
from .checks import output_of, source_of
from .devices import host_device
from .shortcuts import take_shortcuts

if TYPE_CHECKING:
    from ..._proto.worker_pb2 import RegisterGraphRequest
    from ..._spec import Task
    from .devices import Placer

__all__ = ["PartPlan", "Plan", "Signature", "make_plan"]

Signature = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""What a step feeds, fetches and targets."""


@dataclass(eq=False)
class PartPlan:
    """What one task does in a step.

    Attributes:
        task: whose part it is.
        request: what registers it there.
        handle: what it is registered as; None while it is not.
        handed: the keys that the master has to hand to it with the call that runs it.
        returned: what the answer to that call brings for the master's part: key, and the place in
            the fetches; None where it is enough to know that it is done.
        hands: of the master's own part, what others are handed.
        codes: what stands for it where it is noted, by kind and key; empty if it never was.
    """

    task: Task
    request: RegisterGraphRequest
    handle: str | None = None
    handed: set[str] = field(default_factory=set)
    returned: list[tuple[str, int | None]] = field(default_factory=list)
    hands: set[str] = field(default_factory=set)
    codes: dict[tuple[str, str], int] = field(default_factory=dict)
    registering: threading.Lock = field(default_factory=threading.Lock)


@dataclass(eq=False)
class Plan:
    """What all tasks do in a step.

    Attributes:
        parts: one for each task that takes part.
        fetches: each fetch, with the part and the place in its fetches; None if it is fed.
    """

    parts: list[PartPlan]
    fetches: list[tuple[str, tuple[int, int] | None]]


def make_plan(
    nodes: Mapping[str, NodeDef],
    signature: Signature,
    placer: Placer,
    new_request: Callable[[], RegisterGraphRequest],
) -> Plan:
    """Make the plan for one kind of step.

    Args:
        nodes: the session's graph.
        signature: the kind of step.
        placer: where operations go.
        new_request: makes the request that registers a part, but for its graph.

    Raises:
        InvalidArgumentError: a name is not in the graph, a placeholder is not fed, operations wait
            for each other, a device cannot be.
    """
    feeds, fetches, targets = signature
    for feed in feeds:
        _output(nodes, feed, "feed")
    fed = frozenset(feeds)
    roots = [_output(nodes, fetch, "fetch") for fetch in fetches if fetch not in fed]
    for target in targets:
        if target not in nodes:
            raise InvalidArgumentError(f"there is no operation {target!r} to run in the graph")
    needed = _needed(nodes, [*roots, *targets], fed)

    places = {node.name: placer.place(node.device, node.name) for node in needed}
    parts: dict[Task, PartPlan] = {}
    for node in needed:
        task, device = places[node.name]
        if task not in parts:
            parts[task] = PartPlan(task, new_request())
        copy = parts[task].request.graph_def.node.add()
        copy.CopyFrom(node)
        copy.device = device
    copied: set[tuple[Task, str]] = set()
    for node in needed:
        _connect(node, nodes, places, parts, fed, copied)

    order = {task: index for index, task in enumerate(parts)}
    found: dict[str, tuple[int, int] | None] = dict.fromkeys(fed)
    for fetch in fetches:
        if fetch not in found:
            task, _ = places[source_of(fetch)]
            fetched = parts[task].request.fetch
            found[fetch] = order[task], len(fetched)
            fetched.append(fetch)
    wanted = [(fetch, found[fetch]) for fetch in fetches]
    take_shortcuts(parts, placer.master)
    return Plan(list(parts.values()), wanted)


def _needed(
    nodes: Mapping[str, NodeDef], roots: Sequence[str], fed: frozenset[str]
) -> list[NodeDef]:
    """Return the operations that ``roots`` need, each after those that it needs itself."""
    done: dict[str, bool] = {}  # False while its inputs are being looked at
    needed: list[NodeDef] = []
    stack = [(root, False) for root in reversed(roots)]  # graphs may be deeper than Python recurses
    while stack:
        name, looked = stack.pop()
        if name in done and not looked:
            continue
        node = _without_fed_waits(nodes[name], nodes, fed)
        if looked:
            done[name] = True
            needed.append(node)
            continue
        if node.op == "Placeholder":
            raise InvalidArgumentError(
                f"placeholder {name!r} is needed and was not fed"
                "\n  To fix this: give it a value in feed_dict",
                op=name,
                device=node.device,
            )
        done[name] = False
        stack.append((name, True))
        for key in node.input:
            if key in fed:
                continue
            source = source_of(key)
            if done.get(source) is False:
                raise InvalidArgumentError(
                    f"operations {source!r} and {name!r} wait for each other", op=name
                )
            if source not in done:
                stack.append((source, False))
    return needed


def _without_fed_waits(node: NodeDef, nodes: Mapping[str, NodeDef], fed: frozenset[str]) -> NodeDef:
    """Return a node that no longer waits for placeholders that are fed: they are there."""

    def is_there(key: str) -> bool:
        source = nodes.get(key[1:]) if key.startswith("^") else None
        return source is not None and source.op == "Placeholder" and f"{source.name}:0" in fed

    if not any(map(is_there, node.input)):
        return node
    copy = NodeDef()
    copy.CopyFrom(node)
    copy.input[:] = [key for key in node.input if not is_there(key)]
    return copy


def _connect(
    node: NodeDef,
    nodes: Mapping[str, NodeDef],
    places: Mapping[str, tuple[Task, str]],
    parts: Mapping[Task, PartPlan],
    fed: frozenset[str],
    copied: set[tuple[Task, str]],
) -> None:
    """Have a node's inputs come to its part: from the feeds, or from the tasks that have them."""
    here, _ = places[node.name]
    request = parts[here].request
    for key in node.input:
        if key in fed:
            if (here, key) not in copied:
                copied.add((here, key))
                request.feed.append(key)
            continue
        source = source_of(key)
        there, _ = places[source]
        if there == here or key in request.recv:
            continue
        if _is_small_constant(nodes[source]):
            # It is the same everywhere: no need to send it in every step.
            if (here, source) not in copied:
                copied.add((here, source))
                copy = request.graph_def.node.add()
                copy.CopyFrom(nodes[source])
                copy.device = host_device(here)
            continue
        request.recv[key] = str(there)
        parts[there].request.send.append(key)


def _is_small_constant(node: NodeDef) -> bool:
    return node.op == "Const" and not node.input and node.value.WhichOneof("kind") != "stored"


def _output(nodes: Mapping[str, NodeDef], key: str, what: str) -> str:
    name = key.rpartition(":")[0]
    if name not in nodes:
        raise InvalidArgumentError(f"there is no operation {name or key!r} to {what} in the graph")
    if output_of(key, nodes[name].num_outputs) is None:
        raise InvalidArgumentError(
            f"{key!r} cannot be a {what}: {name!r} has {nodes[name].num_outputs} outputs"
        )
    return name
