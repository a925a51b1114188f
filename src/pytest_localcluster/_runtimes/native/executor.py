"""One step of one part: operations run as soon as what they need is there.

The thread that runs the part works through what is ready. For each value that has to be received
another thread waits, and goes on with whatever that value makes ready, so that a value that is late
holds up nothing else. More threads come in while more of the user's functions are ready, up to the
part's limit; quick operations (constants, variables) do not count. When a step fails, no
further operation of it starts; what runs goes on, and its result is dropped.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..._context import TaskContext, running_as
from ..._tensors import read_only
from ...errors import InvalidArgumentError, OpError
from .parts import Operation, Part, failure_of
from .statuses import StepFailed, operation_failed, status_of

if TYPE_CHECKING:
    from .._threads import Threads
    from .rendezvous import Step, Steps
    from .scribe import Scribe

__all__ = ["Execution", "Site"]


@dataclass
class Site:
    """What executions on one task share.

    Attributes:
        context: whom the user's functions run as.
        steps: where values are left for other tasks.
        threads: where helpers come from.
        limit: how many functions of one step run at a time.
        running: by thread, the step and operation whose function runs.
        scribe: who writes down what is done, if somebody does.
    """

    context: TaskContext
    steps: Steps
    threads: Threads
    limit: int
    running: dict[int, tuple[int, Operation]] = field(default_factory=dict)
    scribe: Scribe | None = None

    def busy(self, step_id: int | None = None) -> list[Operation]:
        """Return the operations whose functions run now, of one step or of all."""
        found = list(self.running.values())
        return [operation for of, operation in found if step_id in (None, of)]


class Execution:
    """A part in one step.

    Args:
        part: what to run.
        step: the step, begun on this task.
        site: where.
        feeds: the values that the master sent along, by key.
        pull: returns the value of a key that the task of a name has.
        hand: takes what the master hands to other tasks, by key; returns what is to be done now
            that it is there, which may take its time.
    """

    def __init__(
        self,
        part: Part,
        step: Step,
        site: Site,
        feeds: Mapping[str, Any],
        pull: Callable[[str, str], Any],
        hand: Callable[[str, Any], list[Callable[[], None]]] | None = None,
    ) -> None:
        self._part = part
        self._step = step
        self._site = site
        self._feeds = feeds
        self._pull = pull
        self._hand = hand
        self._lock = step.changed  # failures and progress wake the same waiter
        self._slots: list[Any] = [None] * len(part.uses)
        self._uses = list(part.uses)
        self._waits = [operation.waits for operation in part.operations]
        self.left = len(part.operations)
        self._quick: deque[Operation] = deque()
        self._heavy: deque[Operation] = deque()
        self._active = 0  # threads that run a function, or were asked to

    def run(self) -> list[Any]:
        """Run the part in this thread, and others where they help; return what is fetched.

        Raises:
            StepFailed: the step failed, here or elsewhere.
        """
        pulls = self._begin()
        # With nothing else to do this thread may as well wait for the last value itself.
        own = pulls.pop() if pulls and not self._quick and not self._heavy else None
        for pull in pulls:
            self._site.threads.run(self._receive, *pull)
        if own is not None:
            self._receive(*own)
        else:
            self._work()
        with self._lock:
            while self.left and self._step.status is None:
                self._lock.wait()
            if self._step.status is not None:
                raise StepFailed(self._step.status)
            return self.results()

    def start(self) -> None:
        """Have the part run in other threads; in this one only what ends soon.

        When :attr:`left` is 0, all of it has run; the step's condition is notified of that.
        """
        for pull in self._begin():
            self._site.threads.run(self._receive, *pull)
        if self._quick or self._heavy:
            self._work(quick=True)

    def results(self) -> list[Any]:
        """Return what is fetched, once all of the part has run."""
        return [self._slots[slot] for slot in self._part.fetches]

    def arrive(self, values: Mapping[str, Any]) -> None:
        """Go on with what the master brings; this thread runs what can run then."""
        with self._lock:
            for key, value in values.items():
                self._arrived(key, value)
        self._work()

    def _begin(self) -> list[tuple[str, str]]:
        """Find what is ready; return the key and holder of what has to be pulled."""
        pulls = []
        with self._lock:
            for operation in self._part.operations:
                if not operation.waits:
                    self._ready(operation)
            for key, arrival in self._part.arrivals.items():
                if arrival.holder is not None:
                    if arrival.holder:
                        pulls.append((key, arrival.holder))
                elif key in self._feeds:
                    self._arrived(key, self._feeds[key])
                else:
                    raise StepFailed(status_of(InvalidArgumentError(f"no value came for {key!r}")))
        return pulls

    def _receive(self, key: str, holder: str) -> None:
        try:
            value = self._pull(holder, key)
        except StepFailed as error:
            self._fail(error)
            return
        except OpError as error:
            self._fail(StepFailed(status_of(error)))
            return
        except Exception as error:  # no memory, say: the step must not wait for ever
            self._fail(StepFailed(operation_failed(error, f"receiving {key!r}", "")))
            return
        self.arrive({key: value})

    def _fail(self, error: StepFailed) -> None:
        self._site.steps.end(self._step.step_id, error.status)

    def _work(self, claimed: bool = False, quick: bool = False) -> None:
        """Run what is ready until nothing is.

        Args:
            claimed: whether this thread was asked to run a function, and so is counted already.
            quick: whether this thread has to be back soon; others are asked to run functions then.
        """
        # What follows from values that are handed on is done last, when it holds up nothing here.
        after: list[Callable[[], None]] = []
        with running_as(self._site.context):
            while True:
                with self._lock:
                    if claimed:
                        self._active -= 1
                    operation = self._next(quick)
                    claimed = operation is not None and not operation.quick
                    if claimed:
                        self._active += 1
                    helpers = 0
                    if self._step.status is None:  # otherwise helpers would only call for helpers
                        helpers = min(len(self._heavy), self._site.limit - self._active)
                        self._active += max(helpers, 0)
                for _ in range(helpers):
                    self._site.threads.run(self._work, True)
                if operation is None:
                    break
                for action in after:
                    self._site.threads.run(action)
                done = self._perform(operation)
                if done is None:
                    if claimed:
                        with self._lock:
                            self._active -= 1
                    return
                after = done
        own = after.pop() if after and not quick else None
        for action in after:
            self._site.threads.run(action)
        if own is not None:
            own()

    def _next(self, quick: bool) -> Operation | None:
        if self._step.status is not None:
            return None
        if self._quick:
            return self._quick.popleft()
        if self._heavy and self._active < self._site.limit and not quick:
            return self._heavy.popleft()
        return None

    def _perform(self, operation: Operation) -> list[Callable[[], None]] | None:
        """Run one operation and hand on what it gave; return what follows, None if it failed."""
        values = [self._slots[slot] for slot in operation.reads]
        running, me = self._site.running, threading.get_ident()
        try:
            if operation.quick:
                outputs = operation.perform(values)
            else:
                running[me] = self._step.step_id, operation
                try:
                    outputs = operation.perform(values)
                finally:
                    del running[me]
        except BaseException as error:  # a function may raise anything, such as SystemExit
            self._fail(failure_of(error, operation))
            return None
        for key, output, times in operation.sends:
            value = None if output is None else outputs[output]
            self._site.steps.put(self._step, key, value, times)
        with self._lock:
            for slot, value in enumerate(outputs, operation.slot):
                if self._uses[slot]:
                    self._slots[slot] = value
            for slot in set(operation.reads):
                self._uses[slot] -= 1
                if not self._uses[slot]:
                    self._slots[slot] = None  # nobody reads it again: free its memory
            self._done(operation.after)
            self.left -= 1
            if not self.left:
                self._lock.notify_all()
        if self._hand is None or not operation.hands:
            return []
        handed = [
            self._hand(key, None if output is None else outputs[output])
            for key, output in operation.hands
        ]
        return [action for actions in handed for action in actions]

    def _arrived(self, key: str, value: Any) -> None:
        arrival = self._part.arrivals[key]
        if self._uses[arrival.slot]:
            self._slots[arrival.slot] = read_only(value)
        self._done(arrival.after)

    def _done(self, after: list[int]) -> None:
        for index in after:
            self._waits[index] -= 1
            if not self._waits[index]:
                self._ready(self._part.operations[index])

    def _ready(self, operation: Operation) -> None:
        (self._quick if operation.quick else self._heavy).append(operation)
