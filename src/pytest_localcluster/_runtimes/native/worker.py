"""The worker service: the parts of graphs that are registered on a task, and their steps there."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..._clock import Deadline
from ..._proto.graph_pb2 import NodeDef, Status, Value, ValueChunk
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
from ..._tensors import INLINE_LIMIT, chunks_of, size_of, value_from_proto, value_to_proto
from ...errors import AbortedError, CancelledError, OpError
from .devices import attributes_of, choose
from .executor import Execution, Site
from .parts import Part, compile_part
from .rendezvous import time_left
from .statuses import StepFailed, answering, status_of
from .variables import Variables

if TYPE_CHECKING:
    from .peers import Peers
    from .rendezvous import Caller, Step

__all__ = ["Worker", "constant_key"]


def constant_key(session: str, key: str) -> str:
    """Return the key under which a master's worker service has a value that a client sent ahead."""
    return f"{session}/{key}"


class Worker(WorkerServiceServicer):
    """What masters and other tasks ask of one task.

    Args:
        site: where steps run.
        peers: the other tasks.
        devices: what this task has.
        incarnation: a number that tells this start of the task from others.
        stored: returns what a client sent ahead to this task's master.
    """

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
        self._lock = threading.Lock()
        self._graphs: dict[str, Part] = {}
        # With the incarnation, so that no handle from before a restart can be another graph's.
        self._handles = (f"{incarnation:x}.{n}" for n in itertools.count())
        self.variables = Variables(str(site.context.task))

    def GetStatus(self, request: Any, context: Any) -> GetStatusResponse:  # noqa: N802
        """Tell what devices there are."""
        return GetStatusResponse(device_attributes=attributes_of(self._devices, self._incarnation))

    def RegisterGraph(self, request: Any, context: Any) -> RegisterGraphResponse:  # noqa: N802
        """Compile a part."""
        try:
            return RegisterGraphResponse(graph_handle=self.register(request))
        except StepFailed as error:
            return RegisterGraphResponse(status=error.status)
        except OpError as error:
            return RegisterGraphResponse(status=status_of(error))

    def register(self, request: Any, hands: Collection[str] = ()) -> str:
        """Compile a part; return its handle.

        Args:
            request: the part.
            hands: the keys that this task's master takes to other tasks.
        """
        devices = {
            node.name: choose(
                node.device, self._devices, node.name, soft=request.allow_soft_placement
            )
            for node in request.graph_def.node
        }
        part = compile_part(
            request, self.variables, devices, lambda node: self._constant(request, node), hands
        )
        with self._lock:
            handle = next(self._handles)
            self._graphs[handle] = part
        if request.log_device_placement:
            lines = [f"{n.name}: ({n.op}): {devices[n.name]}\n" for n in request.graph_def.node]
            sys.stderr.write("".join(lines))
            sys.stderr.flush()
        return handle

    def DeregisterGraph(self, request: Any, context: Any) -> DeregisterGraphResponse:  # noqa: N802
        """Forget one part, or all of a session and its own variables."""
        with self._lock:
            self._graphs.pop(request.graph_handle, None)
            if request.session_handle:
                session = request.session_handle
                self._graphs = {
                    h: part for h, part in self._graphs.items() if part.session != session
                }
        if request.session_handle:
            self.variables.clear(request.session_handle)
        return DeregisterGraphResponse()

    def RunGraph(self, request: Any, context: Any) -> RunGraphResponse:  # noqa: N802
        """Run a part for one step."""
        step_id = request.step_id
        over = threading.Event()

        def hung_up() -> None:
            if not over.is_set():
                error = CancelledError("the master ended the step, or died")
                self._steps.end(step_id, status_of(error))

        if not context.add_callback(hung_up):
            hung_up()
        try:
            if request.graph_handle not in self._graphs:
                status = self._unknown(request.graph_handle).status
                return RunGraphResponse(status=status, unknown_graph=True)
            part = self._part(request.graph_handle)
            timeout = Deadline(time_left(context))
            feeds = {}
            for feed in request.feed:
                if feed.value.WhichOneof("kind") == "stored":
                    left = timeout.remaining()
                    value = self._peers.pull(
                        self._peers.find(part.master), step_id, feed.value.stored, left
                    )
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

        return Execution(self._part(handle), step, self._site, feeds, pull, hand)

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
            answer = []
            for number, value in enumerate(results):
                if size_of(value) > INLINE_LIMIT:
                    key = f"fetch {number}"
                    self._steps.put(step, key, value)
                    answer.append(Value(stored=key))
                else:
                    answer.append(value_to_proto(value))
            return answer
        finally:
            self._steps.finish(step)

    def CleanupGraph(self, request: Any, context: Any) -> CleanupGraphResponse:  # noqa: N802
        """End a step."""
        return CleanupGraphResponse(running=self.cleanup(request.step_id, request.status))

    def cleanup(self, step_id: int, status: Status) -> list[str]:
        """End a step; return the operations that were running."""
        running = [operation.name for operation in self._site.busy(step_id)]
        if not status.code:
            status = Status(code=AbortedError.code, message="the step was ended")
        self._steps.end(step_id, status)
        return running

    @answering
    def PullTensor(self, request: Any, context: Caller) -> PullTensorResponse:  # noqa: N802
        """Wait for a value; send it if it is small."""
        try:
            value, taken = self._steps.take(request.step_id, request.key, context, INLINE_LIMIT)
        except StepFailed as error:
            return PullTensorResponse(status=error.status)
        if not taken:
            return PullTensorResponse(value=Value(stored=request.key))
        return PullTensorResponse(value=value_to_proto(value))

    def RecvTensor(self, request: Any, context: Caller) -> Iterator[ValueChunk]:  # noqa: N802
        """Wait for a value; send it in chunks."""
        return chunks_of(self._take(request, context))

    @answering
    def _take(self, request: Any, context: Caller) -> Any:
        if not request.step_id:
            return self._stored(request.key)
        return self._steps.take(request.step_id, request.key, context)[0]

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

    def clear(self) -> None:
        """Forget all parts and variables."""
        with self._lock:
            self._graphs = {}
        self.variables.clear()

    def _part(self, handle: str) -> Part:
        part = self._graphs.get(handle)
        if part is None:
            raise self._unknown(handle)
        return part

    def _unknown(self, handle: str) -> StepFailed:
        message = (
            f"{self._site.context.task} does not know the graph {handle!r}: "
            "the task was restarted or reset since it was registered; run the step again"
        )
        return StepFailed(Status(code=AbortedError.code, message=message))

    def _constant(self, request: Any, node: NodeDef) -> Any:
        if node.value.WhichOneof("kind") != "stored":
            return value_from_proto(node.value)
        key = constant_key(request.session_handle, node.value.stored)
        if request.master == str(self._site.context.task):
            return self._stored(key)
        return self._peers.receive(self._peers.find(request.master), 0, key)
