"""The TensorFlow runtime: a real ``tf.distribute.Server`` in each task.

TensorFlow is imported in the tasks' forkserver, once, and never by us in the test process, unless
the test asks for one of its messages::

    server      in the task: the server, which ends only with its process
    clients     in the test process: sessions must end before the server that they lead to
    master      what both of them ask of a server
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import SpecError
from .. import Runtime

if TYPE_CHECKING:
    from ..._config import ClusterConfig
    from ..._spec import Task
    from .. import Assignment, Serving, Started

__all__ = ["RUNTIME", "TensorFlowRuntime"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

_GPUS = "CUDA_VISIBLE_DEVICES"

REFUSED = "Could not start gRPC server"
"""The words of TensorFlow for a server whose address is taken."""


@dataclass(frozen=True)
class TensorFlowRuntime(Runtime):
    """Real TensorFlow: each task a ``tf.distribute.Server``, in a process of its own.

    What is made for ``tf.test.create_local_cluster`` works with it: ``tf.compat.v1.Session`` with
    a server's target, and ``tf.distribute.ParameterServerStrategy`` with the cluster's spec. What
    it cannot do works too: servers that stop, die, start again at their address, and write logs.

    Args:
        gpus: whether tasks see GPUs. They are hidden otherwise (``CUDA_VISIBLE_DEVICES=-1``), but
            from tasks for which ``env`` of the cluster sets that variable.
        insecure: whether tasks may be on other machines, where nothing keeps strangers from calling
            a TensorFlow server: it knows neither tokens nor TLS, and does as it is told.
        coordinators: the jobs whose tasks run no server of ours, since TensorFlow starts one there
            by itself, at the task's address, once a strategy connects: the coordinator of a
            ParameterServerStrategy, or workers of a MultiWorkerMirroredStrategy.

    Raises:
        SpecError: ``coordinators`` are no names of jobs.
    """

    gpus: bool = False
    coordinators: Iterable[str] = ("chief",)
    insecure: bool = False

    preload: ClassVar[tuple[str, ...]] = (
        "tensorflow",
        "grpc._channel",
        "pytest_localcluster._runtimes.tensorflow.server",
    )
    # A fork copies the page tables of half a gigabyte. With the heap in huge pages it takes a third
    # of the time; Python's own allocator would keep more than half of that heap in small ones.
    boot_env: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "PYTHONMALLOC": "malloc"}
    )
    start_timeout: ClassVar[float] = 60.0
    forks_ahead = True
    resets_in_place = True
    instead_of_session = "open a tf.compat.v1.Session(server.target), and read variables there"

    def __post_init__(self) -> None:
        for option in ("gpus", "insecure"):
            value = getattr(self, option)
            if not isinstance(value, bool):
                raise SpecError(f"{option} is True or False, not {value!r}")
        given = self.coordinators
        names = tuple(given) if _is_list(given) else (None,)
        if not all(isinstance(name, str) for name in names):
            raise SpecError(
                f"coordinators is a list of jobs, not {given!r}",
                remedy='write coordinators=["chief"], or coordinators=() for servers everywhere',
            )
        object.__setattr__(self, "coordinators", names)

    def check(self, config: ClusterConfig, jobs: Collection[str]) -> None:
        """Raise SpecError where there is no TensorFlow, or only threads for it."""
        if config.launcher == "thread":
            raise SpecError(
                "runtime='tensorflow' cannot be had with launcher='thread': "
                "a TensorFlow server ends only with its process",
                remedy="use launcher='process'",
            )
        if config.is_networked() and not self.insecure:
            raise SpecError(
                "runtime='tensorflow' on other machines is open to whoever is on their network: "
                "a TensorFlow server asks for no token, and speaks no TLS",
                remedy="where only you are on that network, say so: "
                "runtime=TensorFlowRuntime(insecure=True); the native runtime speaks TLS",
            )
        if find_spec("tensorflow") is None:
            raise SpecError(
                "runtime='tensorflow' needs TensorFlow, which is not installed",
                remedy="pip install 'pytest-localcluster[tensorflow]'",
            )

    def serve(self, assignment: Assignment) -> Serving:
        """Serve at the task's address; return when it accepts calls.

        Raises:
            PortError: the address is taken.
        """
        from . import server

        context = assignment.context
        hide = () if self.gpus or _GPUS in context.env else (_GPUS,)
        if context.task.job in self.coordinators:
            return server.Coordinator(hide)
        absent = {*self.coordinators, *assignment.strangers}.intersection(context.cluster_spec.jobs)
        return server.TensorFlowServer(assignment, hide, absent)

    def ready(self, server: Started) -> str:
        """Note that what is open to the task is to end before it does; it serves already."""
        from .clients import end_in_time

        end_in_time(server.address)
        return ""

    def target(self, address: str) -> str:
        """Return what a ``tf.compat.v1.Session`` dials."""
        return f"grpc://{address}"

    def explain(self, error: BaseException, task: Task) -> str:
        """Return the way out for a strategy that starts a server where the task serves already."""
        chain = (str(one) for one in (error, error.__cause__, error.__context__) if one is not None)
        if task.job in self.coordinators or not any(REFUSED in text for text in chain):
            return ""
        return (
            f"{task} serves already, at the address where TensorFlow starts a server by itself\n"
            f'  To fix this: use runtime=TensorFlowRuntime(coordinators=["{task.job}"]), '
            "with which these tasks run no server until a strategy starts one"
        )

    def server_def(self, data: bytes) -> Any:
        """Return a ``tf.train.ServerDef``."""
        import tensorflow as tf

        return tf.train.ServerDef.FromString(data)


def _is_list(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


RUNTIME = TensorFlowRuntime()
