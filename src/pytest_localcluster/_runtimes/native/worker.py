"""The worker service: the parts of graphs that are registered on a task, and their steps there."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..._clock import Deadline
from ..._proto.graph_pb2 import NodeDef, Status, Value
from ..._proto.worker_pb2 import (
    CleanupAllResponse,
    CleanupGraphResponse,
    DeregisterGraphResponse,
    GetStatusResponse,
    PullTensorResponse,
    ReadVariablesResponse,
    RegisterGraphResponse,
    RunGraphResponse,
)
from ..._proto.worker_pb2_grpc import WorkerServiceServicer
from ..._tensors import (
    INLINE_LIMIT,
    Room,
    chunks_of,
    frames_of,
    size_of,
    value_from_proto,
    value_to_proto,
)
from ...errors import AbortedError, OpError
from .checks import check_part
from .devices import attributes_of, choose
from .executor import Execution, Site
from .giving_up import give_up
from .graphs import Graphs
from .parts import compile_part
from .rendezvous import time_left
from .statuses import StepFailed, passed_on, status_of
from .variables import Variables

if TYPE_CHECKING:
    from .peers import Peers
    from .rendezvous import Caller, Step

__all__ = ["Worker"]


class Worker(WorkerServiceServicer):
    """What masters and other tasks ask of one task.

    Args:
        site: where steps run.
        peers: the other tasks.
        devices: what this task has.
        incarnation: a number that tells this start of the task from others.
        stored: returns what a client sent ahead to this task's master.
    """

    execution_type: ClassVar[type[Execution]] = Execution

    def __init__(
        self,
        site: Site,
        peers: Peers,
        devices: Sequence[str],
        incarnation: int,
        stored: Callable[[str], Any],
    ) -> None:
        self._site = site
        self._steps = site.steps
        self._peers = peers
        self._devices = list(devices)
        self._incarnation = incarnation
        self._stored = stored
        self._graphs = Graphs(incarnation)
        self.variables = Variables(str(site.context.task))

    def GetStatus(self, request: Any, context: Any) -> GetStatusResponse:  # noqa: N802
        """Tell what devices there are."""
        return GetStatusResponse(device_attributes=attributes_of(self._devices, self._incarnation))

    def RegisterGraph(self, request: Any, context: Any) -> RegisterGraphResponse:  # noqa: N802
        """Compile a part."""
        try:
            handle = self.register(request, timeout=Deadline(time_left(context)))
            if not context.is_active():  # nobody will ever know the handle
                self._graphs.remove(handle)
            return RegisterGraphResponse(graph_handle=handle)
        except StepFailed as error:
            return RegisterGraphResponse(status=error.status)
        except OpError as error:
            return RegisterGraphResponse(status=status_of(error))

    def register(
        self, request: Any, hands: Collection[str] = (), timeout: Deadline | None = None
    ) -> str:
        """Compile a part; return its handle.

        Args:
            request: the part.
            hands: the keys that this task's master takes to other tasks.
            timeout: how long to wait for constants that the master of another task has.
        """
        check_part(request, self._peers.tasks)
        devices = {
            node.name: choose(
                node.device, self._devices, node.name, soft=request.allow_soft_placement
            )
            for node in request.graph_def.node
        }
        part = compile_part(
            request,
            self.variables,
            devices,
            self._constants(request, timeout or Deadline(None)),
            hands,
        )
        handle = self._graphs.add(part)
        if request.log_device_placement:
            lines = [f"{n.name}: ({n.op}): {devices[n.name]}\n" for n in request.graph_def.node]
            sys.stderr.write("".join(lines))
            sys.stderr.flush()
        return handle

    def DeregisterGraph(self, request: Any, context: Any) -> DeregisterGraphResponse:  # noqa: N802
        """Forget one part, or all of a session and its own variables."""
        self._graphs.remove(request.graph_handle)
        if request.session_handle:
            self._graphs.remove_session(request.session_handle)
            self.variables.clear(request.session_handle)
        return DeregisterGraphResponse()

    def RunGraph(self, request: Any, context: Any) -> RunGraphResponse:  # noqa: N802
        """Run a part for one step."""
        step_id = request.step_id
        over = threading.Event()

        def hung_up() -> None:
            if not over.is_set():
                part = self._graphs.get(request.graph_handle)
                give_up(self._steps, self._site.threads, self._peers, part, request)

        if not context.add_callback(hung_up):
            hung_up()
        try:
            part = self._graphs.get(request.graph_handle)
            if part is None:
                unknown = self._unknown(request.graph_handle).status
                return RunGraphResponse(status=unknown, unknown_graph=True)
            timeout, feeds = Deadline(time_left(context)), {}
            for feed in request.feed:
                if feed.value.WhichOneof("kind") == "stored":
                    master, left = self._peers.find(part.master), timeout.remaining()
                    value = self._peers.pull(master, step_id, feed.value.stored, left)
                else:
                    value = value_from_proto(feed.value)
                feeds[feed.name] = value
            return RunGraphResponse(fetch=self._run(request.graph_handle, step_id, feeds, timeout))
        except StepFailed as error:
            return RunGraphResponse(status=error.status)
        except OpError as error:
            status = status_of(error)
            self._steps.end(step_id, status)
            return RunGraphResponse(status=status)
        finally:
            over.set()

    def execution(
        self,
        handle: str,
        step: Step,
        feeds: Mapping[str, Any],
        timeout: Deadline,
        hand: Callable[[str, Any], list[Callable[[], None]]] | None = None,
    ) -> Execution:
        """Return a part, ready to run in a step.

        Args:
            handle: of the part.
            step: begun here.
            feeds: the values that come from the master, by key.
            timeout: how long to wait for other tasks.
            hand: takes what the master hands to other tasks; see :class:`Execution`.

        Raises:
            StepFailed: there is no such part any more.
        """

        def pull(holder: str, key: str) -> Any:
            address = self._peers.find(holder)
            return self._peers.pull(address, step.step_id, key, timeout.remaining())

        part = self._graphs.get(handle)
        if part is None:
            raise self._unknown(handle)
        return self.execution_type(part, step, self._site, feeds, pull, hand)

    def _run(
        self, handle: str, step_id: int, feeds: Mapping[str, Any], timeout: Deadline
    ) -> list[Value]:
        """Run a part for another task's master; what is large stays here to be read."""
        step = self._steps.begin(step_id, handle)
        try:
            try:
                results = self.execution(handle, step, feeds, timeout).run()
            except StepFailed as error:
                self._steps.end(step_id, error.status)
                raise
            answer, room = [], Room(len(results))
            for number, value in enumerate(results):
                if room.for_bytes(size_of(value)):
                    answer.append(value_to_proto(value))
                else:
                    key = f"fetch {number}"
                    self._steps.put(step, key, value)
                    answer.append(Value(stored=key))
            return answer
        finally:
            self._steps.finish(step)

    def CleanupGraph(self, request: Any, context: Any) -> CleanupGraphResponse:  # noqa: N802
        """End a step."""
        return CleanupGraphResponse(
            running=self.cleanup(request.step_id, passed_on(request.status))
        )

    def cleanup(self, step_id: int, status: Status) -> list[str]:
        """End a step; return the operations that were running."""
        running = [operation.name for operation in self._site.busy(step_id)]
        ended = status if status.code else status_of(AbortedError("the step was ended"))
        self._steps.end(step_id, ended)
        return running

    def PullTensor(self, request: Any, context: Caller) -> PullTensorResponse:  # noqa: N802
        """Wait for a value; send it if it is small."""
        try:
            value, taken = self._steps.take(request.step_id, request.key, context, INLINE_LIMIT)
        except StepFailed as error:
            return PullTensorResponse(status=error.status)
        if not taken:
            return PullTensorResponse(value=Value(stored=request.key))
        return PullTensorResponse(value=value_to_proto(value))

    def RecvTensor(self, request: Any, context: Caller) -> Iterator[bytes]:  # noqa: N802
        """Wait for a value; send it in chunks."""
        if not request.step_id:
            return frames_of(self._stored(request.key))
        return frames_of(self._steps.take(request.step_id, request.key, context)[0])

    def ReadVariables(self, request: Any, context: Any) -> Iterator[ReadVariablesResponse]:  # noqa: N802
        """Send what the variables hold now."""
        for name, value in self.variables.snapshot().items():
            for message in chunks_of(value):
                yield ReadVariablesResponse(name=name, data=message)
                name = ""

    def CleanupAll(self, request: Any, context: Any) -> CleanupAllResponse:  # noqa: N802
        """Clear the variables."""
        self.variables.clear()
        return CleanupAllResponse()

    def forget_master(self, task: str) -> None:
        """Forget what masters of a task registered that was restarted more than once since."""
        self._graphs.remove_master(task)

    def clear(self) -> None:
        """Forget all parts and variables."""
        self._graphs.clear()
        self.variables.clear()

    def _unknown(self, handle: str) -> StepFailed:
        message = (
            f"{self._site.context.task} does not know the graph {handle!r}: "
            "the task was restarted or reset since it was registered; run the step again"
        )
        return StepFailed(status_of(AbortedError(message)))

    def _constants(self, request: Any, timeout: Deadline) -> Callable[[NodeDef], Any]:
        """Return what gives the values of a part's constants; large ones are at its master."""

        def constant(node: NodeDef) -> Any:
            if node.value.WhichOneof("kind") != "stored":
                return value_from_proto(node.value)
            key = f"{request.session_handle}/{node.value.stored}"
            if request.master == str(self._site.context.task):
                return self._stored(key)
            master = self._peers.find(request.master)
            return self._peers.receive(master, 0, key, timeout.remaining())

        return constant
