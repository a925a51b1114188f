"""One step, as its master runs it: all parts at once, the first failure ends them all."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..._clock import Deadline
from ..._proto.graph_pb2 import NamedValue, Status, Value
from ..._proto.worker_pb2 import CleanupGraphRequest, RunGraphRequest
from ..._tensors import INLINE_LIMIT, size_of, value_from_proto, value_to_proto
from ...errors import CancelledError, DeadlineExceededError, OpError, UnavailableError
from .rendezvous import time_left
from .statuses import StepFailed, operation_failed, status_of

if TYPE_CHECKING:
    from .master import Master
    from .plan import PartPlan, Plan
    from .rendezvous import Caller, Step
    from .session import Session

__all__ = ["Stepping", "register"]

# How long the answer to a failed step waits for the other tasks to say that they have ended it:
# those that are well say so in a millisecond, and one that is suspended must not hold it up.
_PATIENCE = 0.25


def register(master: Master, plan: Plan, deadline: Deadline) -> None:
    """Register the parts of a plan that are not yet, side by side.

    Raises:
        StepFailed: a task refused its part.
        OpError: a task could not be asked.
    """
    missing = [part for part in plan.parts if part.handle is None]
    others = [master.threads.submit(_register_part, master, part, deadline) for part in missing[1:]]
    for part in missing[:1]:
        _register_part(master, part, deadline)
    for other in others:
        other.result()


def _register_part(master: Master, part: PartPlan, deadline: Deadline) -> None:
    with part.registering:
        if part.handle is not None:
            return
        if part.task == master.task:
            part.handle = master.worker.register(part.request)
            return
        address = master.address_of(part.task)
        try:
            left = deadline.remaining()
            answer = master.peers.call(address, "RegisterGraph", part.request, left)
        except UnavailableError:
            master.lost(part.task)
            raise
        if answer.status.code:
            raise StepFailed(answer.status)
        part.handle = answer.graph_handle


class Stepping:
    """A step under way.

    Args:
        master: whose step it is.
        session: of which session.
        plan: what each task does.
        step: the step, begun on the master's own task.
        feeds: the fed values by key: as messages, or as values where they were sent ahead.
    """

    def __init__(
        self, master: Master, session: Session, plan: Plan, step: Step, feeds: dict[str, Any]
    ) -> None:
        self._master = master
        self._session = session
        self._plan = plan
        self._step = step
        self._feeds = feeds
        self._changed = step.changed  # also notified of failures, from wherever they come
        self._results: list[Sequence[Any] | None] = [None] * len(plan.parts)
        self._left = len(plan.parts)

    def run(self, deadline: Deadline, caller: Caller) -> None:
        """Run all parts.

        Raises:
            StepFailed: one of them failed, time ran out, or the caller has hung up.
        """
        self._leave_large_feeds()
        # Passed on with a little more: the master shall find that time is up, and say so.
        left = deadline.remaining()
        later = Deadline(None if left is None else left + 2 * _PATIENCE)
        caller.add_callback(self._wake)
        quick = []
        for number, part in enumerate(self._plan.parts):
            if part.task == self._master.task and self._master.worker.is_quick(str(part.handle)):
                quick.append(number)
            else:
                self._master.threads.run(self._run_part, number, later)
        for number in quick:
            self._run_part(number, later)
        with self._changed:
            while self._left and self._step.status is None and caller.is_active():
                left = deadline.remaining()
                if left == 0:
                    break
                self._changed.wait(left)
            status = self._step.status
            if status is None and not self._left:
                return
        if status is None:
            out_of_time = caller.is_active()
            kind = DeadlineExceededError if out_of_time else CancelledError
            status = Status(code=kind.code, message="the step was given up by its client")
            running = self._end(status, Deadline(time_left(caller)).remaining())
            if out_of_time:
                status = Status(code=kind.code, message=self._unfinished(deadline, running))
        else:
            self._end(status, Deadline(time_left(caller)).remaining())
        raise StepFailed(status)

    def fetches(self) -> list[Value]:
        """Return what was fetched; what is large waits in the step to be read."""
        answer = []
        for number, (key, where) in enumerate(self._plan.fetches):
            result = self._feeds[key] if where is None else self._result(*where)
            if isinstance(result, Value):
                answer.append(result)
            elif size_of(result) > INLINE_LIMIT:
                name = f"result {number}"
                self._master.steps.put(self._step, name, result)
                answer.append(Value(stored=name))
            else:
                answer.append(value_to_proto(result))
        return answer

    def _result(self, part: int, place: int) -> Any:
        results = self._results[part]
        assert results is not None
        return results[place]

    def _leave_large_feeds(self) -> None:
        """Put what was sent ahead where the tasks that need it can pull it from."""
        for key, value in self._feeds.items():
            readers = sum(
                key in part.request.feed and part.task != self._master.task
                for part in self._plan.parts
            )
            if readers and not isinstance(value, Value):
                self._master.steps.put(self._step, key, value, readers)

    def _run_part(self, number: int, deadline: Deadline) -> None:
        part = self._plan.parts[number]
        try:
            if part.task == self._master.task:
                results: Sequence[Any] = self._run_here(part, deadline)
            else:
                results = self._run_there(part, deadline)
        except StepFailed as error:
            status = error.status
        except OpError as error:
            if isinstance(error, UnavailableError):
                self._master.lost(part.task)
            status = status_of(error)
        except Exception as error:  # a bug, or no memory: the step must not wait for ever
            status = operation_failed(error, f"the part on {part.task}", "")
        else:
            with self._changed:
                self._results[number] = results
                self._left -= 1
                if not self._left:
                    self._changed.notify_all()
            return
        self._master.steps.end(self._step.step_id, status)

    def _run_here(self, part: PartPlan, deadline: Deadline) -> Sequence[Any]:
        feeds = {}
        for key in part.request.feed:
            value = self._feeds[key]
            feeds[key] = value_from_proto(value) if isinstance(value, Value) else value
        return self._master.worker.run(
            str(part.handle), self._step.step_id, feeds, deadline, keep=False
        )

    def _run_there(self, part: PartPlan, deadline: Deadline) -> Sequence[Any]:
        request = RunGraphRequest(graph_handle=str(part.handle), step_id=self._step.step_id)
        for key in part.request.feed:
            value = self._feeds[key]
            sent = value if isinstance(value, Value) else Value(stored=key)
            request.feed.append(NamedValue(name=key, value=sent))
        address = self._master.address_of(part.task)
        peers = self._master.peers
        answer = peers.call(address, "RunGraph", request, deadline.remaining())
        if answer.unknown_graph:
            self._master.lost(part.task)
        if answer.status.code:
            raise StepFailed(answer.status)
        return [
            peers.receive(address, self._step.step_id, value.stored, deadline.remaining())
            if value.WhichOneof("kind") == "stored"
            else value
            for value in answer.fetch
        ]

    def _end(self, status: Status, left: float | None) -> list[str]:
        """End the step everywhere; return what was running, as far as the tasks answer in time.

        Args:
            status: why.
            left: how many seconds the caller will still wait.
        """
        step_id = self._step.step_id
        running = self._master.worker.cleanup(step_id, status)
        # What the user's exception looked like is nothing to the tasks that did not raise it.
        brief = Status(code=status.code, message=status.message, op=status.op, device=status.device)
        others = [part.task for part in self._plan.parts if part.task != self._master.task]
        answered = threading.Semaphore(0)

        def end(task: Any) -> None:
            request = CleanupGraphRequest(step_id=step_id, status=brief)
            try:
                address = self._master.address_of(task)
                answer = self._master.peers.call(address, "CleanupGraph", request, 10 * _PATIENCE)
                running.extend(answer.running)
            except OpError:
                pass  # it is dead, or does not answer: nothing to end
            finally:
                answered.release()

        for task in others:
            self._master.threads.run(end, task)
        patience = Deadline(_PATIENCE if left is None else min(_PATIENCE, left / 2))
        for _ in others:
            answered.acquire(timeout=patience.remaining())
        return list(running)

    def _unfinished(self, deadline: Deadline, running: Sequence[str]) -> str:
        tasks = [
            str(part.task)
            for part, results in zip(self._plan.parts, self._results, strict=True)
            if results is None
        ]
        what = f" (running: {', '.join(map(repr, running))})" if running else ""
        seconds = f" within {deadline.seconds:.3g} s" if deadline.seconds is not None else ""
        return f"the step did not end{seconds}; not finished: {', '.join(tasks)}{what}"

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
