"""A real worker / parameter-server cluster for every test.

The layout, floor by floor; a file imports lower floors only::

    errors, _spec, _config, _clock, _held, _moments,
    _proto                                              words; the standard library only
    _core, _ports, _logs, _context, _coverage,
    _clusterfile, _program, _warned, _channel, _direct,
    _streams, _tls, _links, _tensors, _graph, _ring,
    _rendezvous, _fingerprint                           the machine and the wire
    _client | _launch | _runtimes                       what a test says | where a task runs |
                                                        what it serves
    _setup, _life, _lives, _results, _exit,
    _observer, _server, _stacks, _net, _chaos,
    _faults, _terminal, _cluster, _ancestor,
    _foreign, _attach, _attached, _handover, _probe,
    _steward, _timeline                                 one task's life; all their lives
    plugin, _cli                                        the pytest face; the command line

Everything public is listed here, and loaded when it is first used, so that importing this
package (as pytest does with every plugin) costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._core import library

if TYPE_CHECKING:
    from . import errors as errors
    from ._ancestor import create_local_cluster as create_local_cluster
    from ._client import Session as Session
    from ._client import Variable as Variable
    from ._client import constant as constant
    from ._client import control_dependencies as control_dependencies
    from ._client import device as device
    from ._client import function as function
    from ._client import group as group
    from ._client import placeholder as placeholder
    from ._client import replica_device_setter as replica_device_setter
    from ._client import variables_initializer as variables_initializer
    from ._cluster import LocalCluster as LocalCluster
    from ._config import ClusterConfig as ClusterConfig
    from ._context import current_task as current_task
    from ._launch.ray import RayLauncher as RayLauncher
    from ._ports import PortLease as PortLease
    from ._ports import lease_port as lease_port
    from ._proto.config_pb2 import ConfigProto as ConfigProto
    from ._runtimes.command import CommandRuntime as CommandRuntime
    from ._runtimes.native import NativeRuntime as NativeRuntime
    from ._runtimes.servicers import ServicerRuntime as ServicerRuntime
    from ._runtimes.tensorflow import TensorFlowRuntime as TensorFlowRuntime
    from ._server import Server as Server
    from ._spec import ClusterSpec as ClusterSpec
    from ._spec import DeviceSpec as DeviceSpec
    from ._spec import Task as Task
    from .errors import ClusterError as ClusterError
    from .errors import PortError as PortError
    from .errors import ServerExited as ServerExited
    from .errors import SpecError as SpecError
    from .errors import StartError as StartError
    from .errors import StartTimeout as StartTimeout
    from .errors import StopError as StopError
    from .errors import UnsupportedError as UnsupportedError
    from .plugin import cluster_fixture as cluster_fixture

__version__ = "0.1.0"

_HOMES = {
    "_client": (
        "Session",
        "Variable",
        "constant",
        "control_dependencies",
        "device",
        "function",
        "group",
        "placeholder",
        "replica_device_setter",
        "variables_initializer",
    ),
    "_ancestor": ("create_local_cluster",),
    "_cluster": ("LocalCluster",),
    "_config": ("ClusterConfig",),
    "_context": ("current_task",),
    "_launch.ray": ("RayLauncher",),
    "_ports": ("PortLease", "lease_port"),
    "_proto.config_pb2": ("ConfigProto",),
    "_runtimes.command": ("CommandRuntime",),
    "_runtimes.native": ("NativeRuntime",),
    "_runtimes.servicers": ("ServicerRuntime",),
    "_runtimes.tensorflow": ("TensorFlowRuntime",),
    "_server": ("Server",),
    "_spec": ("ClusterSpec", "DeviceSpec", "Task"),
    "errors": (
        "ClusterError",
        "PortError",
        "ServerExited",
        "SpecError",
        "StartError",
        "StartTimeout",
        "StopError",
        "UnsupportedError",
    ),
    "plugin": ("cluster_fixture",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # names from the table above, and the module of errors
    "errors",
    *_HOME,
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module(".errors", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with library.first():  # a file of the tests may have the name of what the module imports
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    if isinstance(value, type) and _HOME[name] != "_proto.config_pb2":
        value.__module__ = __name__  # what users import is what reprs and tracebacks should show
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
