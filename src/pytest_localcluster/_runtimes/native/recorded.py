"""A native task that notes what it does, for a timeline: the parts of one that do.

They are used instead of those that they derive from when a task is told to, and are not even
imported otherwise. What is noted, by kind, with the place that goes with it::

    step    the master: a step, from a session's request to the answer
    call    the master: what it waits for a part of another task (the task)
    hand    the master: a tensor goes to another task with its part (the task)
    bring   the master: a tensor came back with that (the task)
    part    a part of a step, for the master of another task (the task)
    op      an operation (the device)
    runs    an operation that was seen to be running, from when it was until it was not (the device)
    more    how many further operations a step has, which are not noted one by one
    recv    a tensor was waited for, and came (the task that has it)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..._clock import now_ns
from ..._graph import in_short
from ..._ring import Ring
from ..._tensors import size_of
from .executor import Execution, Site
from .master import Master
from .peers import Peers
from .scribe import Scribe
from .stepping import Stepping
from .worker import Worker

if TYPE_CHECKING:
    from ..._clock import Deadline
    from ..._proto.graph_pb2 import NamedValue, Value
    from ..._spec import ClusterSpec
    from .parts import Operation, Part
    from .plan import PartPlan
    from .rendezvous import Step
    from .session import Session

__all__ = ["RecordedMaster", "RecordedPeers", "RecordedWorker", "scribe_at"]

_EACH = 16
"""Of how many operations of one step word is left on a task, one by one. Further ones may take a
few microseconds each, of which that would be more than a twentieth."""

_perform = Execution._perform


def scribe_at(path: str, running: Mapping[int, tuple[int, Operation]], name: str) -> Scribe | None:
    """Return a new scribe; None if there can be none: a task serves all the same."""
    try:
        return Scribe(Ring(path), running, name)
    except OSError:
        return None


class RecordedExecution(Execution):
    """A part in one step, which leaves word of its operations."""

    def __init__(self, part: Part, step: Step, site: Site, *rest: Any) -> None:
        super().__init__(part, step, site, *rest)
        assert site.scribe is not None
        self._note = site.scribe.note
        self._step_id = step.step_id
        self._spare = _EACH
        if len(part.operations) > _EACH:
            site.scribe.leave_out(len(part.operations) - _EACH, step.step_id)

    def _perform(self, operation: Operation) -> list[Callable[[], None]] | None:
        if not self._spare:
            return _perform(self, operation)
        self._spare -= 1
        begin = now_ns()
        done = _perform(self, operation)
        self._note((begin, now_ns(), operation, self._step_id, done is None))
        return done


class RecordedWorker(Worker):
    """A worker service that notes the parts that it runs."""

    execution_type = RecordedExecution

    @property
    def scribe(self) -> Scribe:
        """Who writes down what it does."""
        assert self._site.scribe is not None
        return self._site.scribe

    def _run(
        self, handle: str, step_id: int, feeds: Mapping[str, Any], timeout: Deadline
    ) -> list[Value]:
        scribe, part = self.scribe, self._graphs.get(handle)
        code = scribe.ring.code("part", "", part.master if part else "")
        number = scribe.begin(code, step_id)
        failed = True
        try:
            answer = super()._run(handle, step_id, feeds, timeout)
            failed = False
            return answer
        finally:
            scribe.close(number, failed=failed)


class RecordedPeers(Peers):
    """The other tasks; what is pulled from them is noted."""

    def __init__(self, spec: ClusterSpec, token: str, ring: Ring) -> None:
        super().__init__(spec, token)
        self._ring = ring

    def pull(self, address: str, step_id: int, key: str, timeout: float | None = None) -> Any:
        """Return the value of a step that the task at ``address`` has, or will have."""
        code = self._ring.code("recv", key, self._names.get(address, ""))
        number = self._ring.begin(code, step_id)
        try:
            value = super().pull(address, step_id, key, timeout)
        except BaseException:
            self._ring.close(number, failed=True)
            raise
        self._ring.close(number, size=size_of(value))
        return value


class RecordedStepping(Stepping):
    """A step under way, whose master notes what it sends to other tasks and gets from there."""

    def _hand(self, key: str, value: Any) -> list[Callable[[], None]]:
        now, size = now_ns(), size_of(value)
        for part, missing in zip(self._plan.parts, self._missing, strict=True):
            if key in missing:
                code = self._code("hand", key, part)
                self._ring.add(code, now, now, self._step.step_id, size)
        return super()._hand(key, value)

    def _call(self, part: PartPlan, handle: str, handed: Sequence[NamedValue]) -> Sequence[Any]:
        ring, step_id = self._ring, self._step.step_id
        number = ring.begin(self._code("call", "", part), step_id)
        try:
            results = super()._call(part, handle, handed)
        except BaseException:
            ring.close(number, failed=True)
            raise
        ring.end(number)
        now = now_ns()
        for key, place in part.returned:
            size = 0 if place is None else _size(results[place])
            ring.add(self._code("bring", key, part), now, now, step_id, size)
        return results

    def _code(self, kind: str, key: str, part: PartPlan) -> int:
        code = part.codes.get((kind, key))
        if code is None:
            code = part.codes[kind, key] = self._ring.code(kind, key, str(part.task))
        return code

    @property
    def _ring(self) -> Ring:
        return _scribe_of(self._master).ring


def _size(result: Any) -> int:
    size: Callable[[], int] | None = getattr(result, "ByteSize", None)
    return size_of(result) if size is None else size()


def _scribe_of(master: Master) -> Scribe:
    """Return who writes down what a master does."""
    assert isinstance(master.worker, RecordedWorker)
    return master.worker.scribe


class RecordedMaster(Master):
    """A master service that notes its steps."""

    stepping_type = RecordedStepping

    def _run(self, session: Session, request: Any, step_id: int, context: Any) -> Any:
        scribe = _scribe_of(self)
        code = scribe.ring.code("step", in_short(*request.fetch, *request.target), "")
        number = scribe.begin(code, step_id)
        failed = True
        try:
            answer = super()._run(session, request, step_id, context)
            failed = False
            return answer
        finally:
            scribe.close(number, failed=failed)
