"""Nodes of graphs, written short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pytest_localcluster import _graph
from pytest_localcluster._core import pickling
from pytest_localcluster._proto.graph_pb2 import NodeDef, Value, VariableDef
from pytest_localcluster._tensors import value_to_proto


def const(name: str, value: Any, device: str = "", after: Sequence[str] = ()) -> NodeDef:
    return NodeDef(
        name=name,
        op="Const",
        num_outputs=1,
        device=device,
        value=value if isinstance(value, Value) else value_to_proto(value),
        input=[f"^{other}" for other in after],
    )


def placeholder(name: str, device: str = "") -> NodeDef:
    return NodeDef(name=name, op="Placeholder", num_outputs=1, device=device)


def call(
    name: str,
    function: Callable[..., Any],
    *inputs: str,
    device: str = "",
    outputs: int = 1,
    after: Sequence[str] = (),
) -> NodeDef:
    """A Function: its data inputs are the function's arguments."""
    arguments: Any = tuple(_graph.Input(i) for i in range(len(inputs))), {}
    return NodeDef(
        name=name,
        op="Function",
        input=[*inputs, *(f"^{other}" for other in after)],
        device=device,
        num_outputs=outputs,
        function=pickling.dumps(function),
        arguments=pickling.dumps(arguments),
    )


def group(name: str, *after: str, device: str = "") -> NodeDef:
    return NodeDef(
        name=name, op="NoOp", num_outputs=1, device=device, input=[f"^{other}" for other in after]
    )


def variable(
    name: str,
    kind: str,
    *inputs: str,
    of: str,
    device: str = "",
    dtype: str = "<f8",
    shape: Sequence[int] | None = (),
    after: Sequence[str] = (),
) -> NodeDef:
    """A variable operation; without ``shape`` the variable's is not known."""
    return NodeDef(
        name=name,
        op=f"{kind}Variable",
        input=[*inputs, *(f"^{other}" for other in after)],
        num_outputs=1,
        device=device,
        variable=VariableDef(
            name=of, dtype=dtype, shape=shape or (), shape_known=shape is not None
        ),
    )


def chain(*functions: tuple[str, Callable[..., Any]]) -> list[Any]:
    """Operations, each on its own device and with the one before as its input."""
    return [
        call(f"n{i}", function, *([f"n{i - 1}:0"] if i else []), device=device)
        for i, (device, function) in enumerate(functions)
    ]


def well(device: str = "/job:ps/task:0") -> list[NodeDef]:
    """An operation ``ok`` that gives 1, to see that a session still works."""
    return [const("c", np.int64(-1)), call("ok", np.negative, "c:0", device=device)]
