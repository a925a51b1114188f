"""One step, as its master runs it: all parts at once, the first failure ends them all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from ..._clock import Deadline
from ..._proto.graph_pb2 import NamedValue, Status, Value
from ..._proto.worker_pb2 import CleanupGraphRequest, RunGraphRequest
from ..._tensors import INLINE_LIMIT, Room, size_of, value_from_proto, value_to_proto
from ...errors import (
    CancelledError,
    DataLossError,
    DeadlineExceededError,
    OpError,
    UnavailableError,
)
from .rendezvous import time_left
from .statuses import StepFailed, operation_failed, passed_on, status_of

if TYPE_CHECKING:
    from .executor import Execution
    from .master import Master
    from .plan import PartPlan, Plan
    from .rendezvous import Caller, Step

__all__ = ["Stepping"]

# How long the answer to a failed step waits for the other tasks to say that they have ended it:
# those that are well say so in a millisecond, and one that is suspended must not hold it up.
_PATIENCE = 0.5


class Stepping:
    """A step under way.

    Args:
        master: whose step it is.
        plan: what each task does.
        handles: what its parts are registered as.
        step: the step, begun on the master's own task.
        feeds: the fed values by key: as messages, or as values where they were sent ahead.
    """

    def __init__(
        self,
        master: Master,
        plan: Plan,
        handles: Sequence[str],
        step: Step,
        feeds: dict[str, Any],
    ) -> None:
        self._master = master
        self._plan = plan
        self._handles = handles
        self._step = step
        self._feeds = feeds
        self._changed = step.changed  # also notified of failures, from wherever they come
        self._here: Execution | None = None
        self._results: list[Sequence[Any] | None] = [None] * len(plan.parts)
        self._left = 0  # parts on other tasks
        self._later = Deadline(None)
        # By part, what it still has to be handed and what it has been: it starts with all of it.
        self._missing = [set(part.handed) for part in plan.parts]
        self._handed: list[list[NamedValue]] = [[] for _ in plan.parts]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # It and its execution know each other: what they hold would stay until it is collected.
        self._here = None
        self._results = [None] * len(self._results)

    def run(self, deadline: Deadline, caller: Caller) -> None:
        """Run all parts.

        Raises:
            StepFailed: one of them failed, time ran out, or the caller has hung up.
        """
        self._leave_large_feeds()
        # Passed on with a little more: the master shall find that time is up, and say so.
        left = deadline.remaining()
        self._later = Deadline(None if left is None else left + 2 * _PATIENCE)
        caller.add_callback(self._wake)
        others = []
        for number, part in enumerate(self._plan.parts):
            if part.task == self._master.task:
                self._here = self._execution(part, self._handles[number])
            else:
                others.append(number)
        self._left = len(others)
        for number in others:
            if not self._missing[number]:
                self._master.threads.run(self._run_part, number)
        if self._here is not None:
            self._here.start()
        with self._changed:
            while not self._done() and self._step.status is None and caller.is_active():
                left = deadline.remaining()
                if left == 0:
                    break
                self._changed.wait(left)
            status = self._step.status
            if status is None and self._done():
                return
        if status is None:
            out_of_time = caller.is_active()
            kind = DeadlineExceededError if out_of_time else CancelledError
            status = Status(code=kind.code, message="the step was given up by its client")
            running = self._end(status, Deadline(time_left(caller)).remaining())
            if out_of_time:
                status = status_of(kind(self._unfinished(running)))
        else:
            self._end(status, Deadline(time_left(caller)).remaining())
        raise StepFailed(status)

    def _done(self) -> bool:
        return not self._left and (self._here is None or not self._here.left)

    def fetches(self) -> list[Value]:
        """Return what was fetched; what is large waits in the step to be read."""
        answer: list[Value] = []
        room = Room(len(self._plan.fetches))
        for number, (key, where) in enumerate(self._plan.fetches):
            result = self._feeds[key] if where is None else self._result(*where)
            if isinstance(result, Value):
                if room.is_plenty or room.for_bytes(min(result.ByteSize(), INLINE_LIMIT)):
                    answer.append(result)
                    continue
                result = value_from_proto(result)
            elif room.for_bytes(size_of(result)):
                answer.append(value_to_proto(result))
                continue
            name = f"result {number}"
            self._master.steps.put(self._step, name, result)
            answer.append(Value(stored=name))
        return answer

    def _result(self, part: int, place: int) -> Any:
        results = self._results[part]
        if results is None:
            assert self._here is not None
            results = self._results[part] = self._here.results()
        return results[place]

    def _leave_large_feeds(self) -> None:
        """Put what was sent ahead where the tasks that need it can pull it from."""
        for key, value in self._feeds.items():
            if isinstance(value, Value):
                continue
            readers = sum(
                key in part.request.feed and part.task != self._master.task
                for part in self._plan.parts
            )
            if readers:
                self._master.steps.put(self._step, key, value, readers)

    def _execution(self, part: PartPlan, handle: str) -> Execution:
        feeds = {}
        for key in part.request.feed:
            feeds[key] = _value(self._feeds[key])
        return self._master.worker.execution(handle, self._step, feeds, self._later, self._hand)

    def _hand(self, key: str, value: Any) -> list[Callable[[], None]]:
        """Take a value along to the parts that need it; return what runs those that have all."""
        takers = [n for n, missing in enumerate(self._missing) if key in missing]
        if size_of(value) > INLINE_LIMIT:
            stored = f"handed {key}"  # others may be going to ask for the same by its own name
            self._master.steps.put(self._step, stored, value, len(takers))
            sent = NamedValue(name=key, value=Value(stored=stored))
        else:
            sent = NamedValue(name=key, value=value_to_proto(value))
        ready: list[Callable[[], None]] = []
        with self._changed:
            for number in takers:
                self._handed[number].append(sent)
                self._missing[number].remove(key)
                if not self._missing[number]:
                    ready.append(partial(self._run_part, number))
        return ready

    def _run_part(self, number: int) -> None:
        """Run another task's part; go on here with what its answer brings."""
        part = self._plan.parts[number]
        if self._step.status is not None:
            return
        try:
            results = self._call(part, self._handles[number], self._handed[number])
            brought = {
                key: None if place is None else _value(results[place])
                for key, place in part.returned
            }
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
            here = self._here
            if brought and here is not None:
                here.arrive(brought)
            return
        if status.code == CancelledError.code and not status.op:
            # That task has given up since another one did, which has lost us: why, we hear from
            # our call to that one, which may come later than this.
            with self._changed:
                self._changed.wait_for(lambda: self._step.status is not None, _PATIENCE)
        self._master.steps.end(self._step.step_id, status)

    def _call(self, part: PartPlan, handle: str, handed: Sequence[NamedValue]) -> Sequence[Any]:
        request = RunGraphRequest(graph_handle=handle, step_id=self._step.step_id, feed=handed)
        for key in part.request.feed:
            if key not in part.handed:
                value = self._feeds[key]
                sent = value if isinstance(value, Value) else Value(stored=key)
                request.feed.append(NamedValue(name=key, value=sent))
        address = self._master.address_of(part.task)
        peers, left = self._master.peers, self._later.remaining()
        answer = peers.call(address, "RunGraph", request, left)
        if answer.unknown_graph:
            self._master.lost(part.task)
        if answer.status.code:
            raise StepFailed(answer.status)
        if len(answer.fetch) != len(part.request.fetch):
            raise DataLossError(
                f"{part.task} gave {len(answer.fetch)} results of the {len(part.request.fetch)} "
                "that its part of the step has"
            )
        return [
            peers.receive(address, self._step.step_id, value.stored, self._later.remaining())
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
        brief = passed_on(status)
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

    def _unfinished(self, running: Sequence[str]) -> str:
        tasks = [
            str(part.task)
            for part, results in zip(self._plan.parts, self._results, strict=True)
            if self._runs(part, results)
        ]
        what = f" (running: {', '.join(map(repr, running))})" if running else ""
        # The client knows how long it wanted to wait, and says so; part of that is over here.
        return f"the step did not end in time; not finished: {', '.join(tasks)}{what}"

    def _runs(self, part: PartPlan, results: Sequence[Any] | None) -> bool:
        here = part.task == self._master.task and self._here
        return here.left > 0 if here else results is None

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _value(value: Any) -> Any:
    return value_from_proto(value) if isinstance(value, Value) else value
