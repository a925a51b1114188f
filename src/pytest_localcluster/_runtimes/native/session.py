"""One session at its master: its graph, what its client sent ahead, its plans."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ..._proto.worker_pb2 import RegisterGraphRequest
from ...errors import NotFoundError
from .checks import add_nodes
from .plan import PartPlan, Plan, Signature, make_plan

if TYPE_CHECKING:
    from ..._proto.config_pb2 import ConfigProto
    from ..._proto.graph_pb2 import GraphDef, NodeDef
    from ..._spec import Task
    from .devices import Placer

__all__ = ["Session"]

_PLANS = 512  # kinds of steps; a client that never repeats one must not fill the memory


class Session:
    """One session.

    Args:
        handle: its name.
        config: how it behaves.
        placer: where its operations go.
        master: the name of its master's task.
    """

    def __init__(
        self,
        handle: str,
        config: ConfigProto,
        placer: Placer,
        master: str,
    ) -> None:
        self.handle = handle
        self.config = config
        self.placer = placer
        self.steps: set[int] = set()  # that run, or have results that nobody has read yet
        self.closed = False  # by its client
        self.unused: list[PartPlan] = []  # to be taken back from their tasks
        self._master = master
        self._lock = threading.Lock()
        self._asked: set[Task] = set()  # to register something, whether or not they said they did
        self._nodes: dict[str, NodeDef] = {}
        self._plans: dict[Signature, Plan] = {}
        self._stored: dict[str, tuple[Any, bool]] = {}

    def extend(self, graph: GraphDef) -> None:
        """Add nodes to the graph: all of them, or none if one is wrong.

        Raises:
            InvalidArgumentError: a node cannot be.
            AlreadyExistsError: a name is taken.
        """
        with self._lock:
            self._nodes = add_nodes(self._nodes, graph.node)

    def plan(self, signature: Signature) -> Plan:
        """Return the plan for one kind of step.

        Raises:
            InvalidArgumentError: there can be no such step.
        """
        with self._lock:
            plan = self._plans.pop(signature, None)
            if plan is None:
                plan = make_plan(self._nodes, signature, self.placer, self._new_request)
                if len(self._plans) >= _PLANS:
                    oldest = self._plans.pop(next(iter(self._plans)))
                    self.unused += oldest.parts
            self._plans[signature] = plan  # the last one used is the last one to go
            return plan

    def forget(self, task: Task) -> None:
        """Take all parts on ``task`` for not registered."""
        with self._lock:
            for part in self._parts():
                if part.task == task:
                    part.handle = None

    def ask(self, task: Task) -> None:
        """Note that a task is going to be asked to register something."""
        with self._lock:
            self._asked.add(task)

    def tasks(self) -> set[Task]:
        """Return the tasks on which something of this session may be registered."""
        with self._lock:
            return set(self._asked)

    def store(self, key: str, value: Any, *, keep: bool) -> None:
        """Keep a value that the client sends ahead."""
        with self._lock:
            self._stored[key] = value, keep

    def stored(self, key: str) -> Any:
        """Return a value that was sent ahead; one that is only for one step is given up.

        Raises:
            NotFoundError: it was not sent.
        """
        with self._lock:
            found = self._stored.get(key)
            if found is None:
                raise NotFoundError(f"no value was sent ahead under {key!r}")
            value, keep = found
            if not keep:
                del self._stored[key]
            return value

    def _parts(self) -> list[PartPlan]:
        return [part for plan in self._plans.values() for part in plan.parts]

    def _new_request(self) -> RegisterGraphRequest:
        return RegisterGraphRequest(
            session_handle=self.handle,
            container=self.handle if self.config.isolate_session_state else "",
            log_device_placement=self.config.log_device_placement,
            allow_soft_placement=self.config.allow_soft_placement,
            master=self._master,
        )
