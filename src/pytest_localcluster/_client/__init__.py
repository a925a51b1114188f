"""The client of the native runtime: graphs are described here, and run by a cluster's tasks.

What a user sees of it is the names below; what they are made of, from the ground up::

    operation                     a node; build makes one as the scopes in force say
    placement, control, replicas  those scopes
    tensor                        an output of a node, with NumPy as its operations
    refusals                      what a Tensor is not
    call                          a Python call on its way into a node
    source, functions, variable   how users make nodes
    nodes, plan, feed             graph, fetches and feeds, as a master wants them
    connection, remote, failure   the talk with a master, and what can go wrong
    session                       all of it together; checks: what it may be given
"""

from __future__ import annotations

from .build import group
from .control import control_dependencies
from .functions import function
from .operation import Operation
from .placement import device
from .replicas import replica_device_setter
from .session import DeviceAttributes, Session
from .source import constant, placeholder
from .tensor import Tensor
from .variable import Variable, variables_initializer

__all__ = [
    "DeviceAttributes",
    "Operation",
    "Session",
    "Tensor",
    "Variable",
    "constant",
    "control_dependencies",
    "device",
    "function",
    "group",
    "placeholder",
    "replica_device_setter",
    "variables_initializer",
]

# Tracebacks should name these by the path that users import them from.
for _public in (
    Session,
    Variable,
    constant,
    control_dependencies,
    device,
    function,
    group,
    placeholder,
    replica_device_setter,
    variables_initializer,
):
    _public.__module__ = "pytest_localcluster"
