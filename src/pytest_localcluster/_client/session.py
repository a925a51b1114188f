"""A client's connection to one task, through which it runs graphs on the whole cluster."""

from __future__ import annotations

import _thread
import os
import sys
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakSet

from .._clock import Deadline, Thread
from .._context import Token, token_for
from .._core import handles
from .._proto.master_pb2 import ListDevicesRequest, ResetRequest
from ..errors import OpError, UnavailableError, UnsupportedError
from .checks import check_config, check_feeds, check_target, deadline_for
from .connection import Connection
from .failure import UnknownSession, anew
from .feed import as_feed, check_key
from .nodes import Names
from .plan import Plan, key_of
from .remote import Feed, Remote, in_time, say_goodbye

__all__ = ["DeviceAttributes", "Session"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

T = TypeVar("T")

_sessions: WeakSet[Session] = WeakSet()
_of_parents: list[Remote | None] = []  # plans go by their identity


def _leave_to_parents() -> None:
    for session in list(_sessions):
        session._leave_to_parent()


os.register_at_fork(after_in_child=_leave_to_parents)

_RESET = 30.0  # seconds that tasks have to forget what they hold, which takes them milliseconds
_PLANS = 512  # that a session remembers; a loop that makes new Tensors must not fill the memory


@dataclass(frozen=True)
class DeviceAttributes:
    """A device of a cluster.

    Attributes:
        name: such as ``/job:ps/replica:0/task:0/device:CPU:0``.
        device_type: such as ``CPU``.
        memory_limit_bytes: how much memory it has; 0 if nobody knows.
        incarnation: a random number that its task chose when it started.
    """

    name: str
    device_type: str
    memory_limit_bytes: int
    incarnation: int


class Session:
    """A client's connection to one task of a cluster with the native runtime.

    What runs without a device runs on that task; everything else on the tasks that its devices
    name. Any number of threads may use it at once. Nothing is dialled before the first run, and a
    session outlives a restart of its target. It closes with its cluster, if that is of this
    process.

    Args:
        target: the task to dial, as ``server.target`` has it: ``grpc://localhost:41234``.
        config: a ConfigProto, ours or TensorFlow's; ``operation_timeout_in_ms`` is the timeout of
            runs that are given none.
        token: the cluster's token; None looks it up, by target in this process, or from the
            environment in a task or a process started with ``cluster.environ()``.

    Example::

        with Session(workers[0].target) as session:
            session.run(variables_initializer([w]))
            loss = session.run(step, feed_dict={x: images})
    """

    def __init__(self, target: str, *, config: Any = None, token: str | None = None) -> None:
        check_target(target)
        self._config = check_config(config)
        token = token_for(target) if token is None else token
        self._token = None if token is None else Token(token)
        self._connection = Connection(target, self._token)
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._names = Names()
        self._plans: dict[Hashable, Plan] = {}
        self._remote: Remote | None = None
        _sessions.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return session_here, (handles.key_of(self), self.target, self._token)

    @property
    def target(self) -> str:
        """What it dials."""
        return self._connection.target

    def run(
        self,
        fetches: Any,
        feed_dict: Mapping[Any, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> Any:
        """Run what ``fetches`` need, once, and return their values.

        Args:
            fetches: Tensors, variables and operations, by themselves or nested in lists, tuples
                and dicts.
            feed_dict: values by Tensor, which take the place of what would be computed.
            timeout: seconds until the step must be done; None is the config's, or as long as its
                tasks are there: busy ones are waited for, one that is suspended is
                unavailable after half a minute.

        Returns:
            The values, nested likewise: new arrays, NumPy scalars for what has no dimensions, None
            for operations.

        Raises:
            InvalidArgumentError: a feed or a device that cannot be; named in the message.
            DeadlineExceededError: it took longer than ``timeout``; it was ended everywhere. From a
                target that itself does not answer it comes a second later.
            UnavailableError: a task that it needs cannot be reached.
            FailedPreconditionError: a variable is not initialised, or the session is closed.
            OpError: another kind, for what else went wrong.
        """
        self._connection.check_open()
        plan = self._plan(fetches)
        feeds: list[Feed] = []
        if feed_dict is not None:
            check_feeds(feed_dict)
            feeds = self._feeds(plan, feed_dict)
        return self._run(plan, feeds, deadline_for(timeout, self._config))

    def make_callable(
        self, fetches: Any, feed_list: Sequence[Any] | None = None
    ) -> Callable[..., Any]:
        """Return a function that runs ``fetches``; its arguments are fed to ``feed_list`` in order.

        The function takes ``timeout`` by keyword, as :meth:`run` does.
        """
        self._connection.check_open()
        plan = Plan(fetches, self._names)
        keys = [check_key(key, "feed_list") for key in feed_list or ()]

        def run(*values: Any, timeout: float | None = None) -> Any:
            if len(values) != len(keys):
                raise TypeError(f"this takes {len(keys)} values to feed, not {len(values)}")
            self._connection.check_open()
            feeds = self._feeds(plan, dict(zip(keys, values, strict=True)))
            return self._run(plan, feeds, deadline_for(timeout, self._config))

        return run

    def list_devices(self) -> list[DeviceAttributes]:
        """Return the devices of every task that the target reaches, its own first."""
        deadline = deadline_for(None, self._config)

        def ask(remote: Remote) -> Any:
            request = ListDevicesRequest(session_handle=remote.handle)
            return self._connection.call("ListDevices", request, deadline, "listing devices")

        _, answer = anew(lambda: self._ahead(ask, deadline), deadline)
        return [
            DeviceAttributes(d.name, d.device_type, d.memory_limit, d.incarnation)
            for d in (*answer.local_device, *answer.remote_device)
        ]

    def close(self) -> None:
        """End the session; steps under way are cancelled. Idempotent."""
        remote, self._remote = self._remote, None
        say_goodbye(self._connection, remote)

    def _leave_to_parent(self) -> None:
        """In a fork: be a session of one's own, opened with the next run; nothing is closed."""
        self._lock, self._opening = threading.Lock(), threading.Lock()
        _of_parents.append(self._remote)
        self._remote = None

    def __del__(self) -> None:
        # What it made is there if the constructor came so far.
        remote = getattr(self, "_remote", None)
        if remote is None or sys.is_finalizing():
            return
        # Not here: it takes its time, and whoever runs the garbage collector may hold any lock,
        # also those that threading takes to start a thread. The plain way takes none.
        goodbye = Thread(
            target=say_goodbye, args=(self._connection, remote), name="goodbye", daemon=True
        )
        with suppress(RuntimeError):  # there are no threads any more, or there is no room
            _thread.start_new_thread(goodbye.start, ())

    def __enter__(self) -> Self:
        self._connection.check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @classmethod
    def reset(cls, target: str, *, token: str | None = None) -> None:
        """End all sessions to ``target`` and clear the variables of all tasks that they used.

        Args:
            target: as in the constructor.
            token: as there.
        """
        check_target(target)
        connection = Connection(target, token_for(target) if token is None else token)
        try:
            connection.call("Reset", ResetRequest(), Deadline(_RESET), "a reset")
        finally:
            connection.close("this reset is done")

    def __repr__(self) -> str:
        state = "closed" if self._connection.closed else "open"
        return f"<Session to {self.target}: {state}>"

    def _plan(self, fetches: Any) -> Plan:
        key = key_of(fetches)
        plan = self._plans.get(key)
        if plan is None:
            plan = Plan(fetches, self._names)
            with self._lock:
                self._plans[key] = plan
                if len(self._plans) > _PLANS:
                    del self._plans[next(iter(self._plans))]
        return plan

    def _feeds(self, plan: Plan, feed_dict: Mapping[Any, Any]) -> list[Feed]:
        feeds = []
        for key, value in feed_dict.items():
            tensor = check_key(key, "feed_dict")
            array = as_feed(tensor, value)
            name = plan.names.get(tensor.op)
            if name is not None:  # what the step does not need, the master need not know
                feeds.append((f"{name}:{tensor.value_index}", array))
        return feeds

    def _run(self, plan: Plan, feeds: Sequence[Feed], deadline: Deadline) -> Any:
        if not plan.operations:
            return plan.build(())

        def step() -> list[Any]:
            remote, request = self._ahead(
                lambda remote: remote.request(plan, feeds, deadline), deadline, plan
            )
            try:
                return remote.step(plan, request, deadline)
            except UnknownSession:
                self._forget(remote)
                raise

        # A master that was restarted or reset refuses before it does anything. For no other
        # reason is a step tried again, since it would run twice.
        return plan.build(anew(step, deadline))

    def _ahead(
        self, ask: Callable[[Remote], T], deadline: Deadline, plan: Plan | None = None
    ) -> tuple[Remote, T]:
        """Return this session's other half, ready for ``plan``, and what ``ask`` gets of it.

        Nothing runs here, so it may be tried twice: a connection to a task that was killed and
        restarted looks alive until it is used, and what the old task knew the new one does not.
        """
        again = False
        while True:
            remote = None
            try:
                remote = self._remote or self._open(deadline, plan)
                if plan is not None:
                    remote.prepare(plan, deadline)
                return remote, ask(remote)
            except OpError as error:
                # Whatever it was, nobody knows now which nodes the master has.
                self._forget(remote)
                if again or not isinstance(error, (UnknownSession, UnavailableError)):
                    raise
            again = True

    def _open(self, deadline: Deadline, plan: Plan | None) -> Remote:
        with in_time(self._opening, deadline, "another thread was still opening the session"):
            remote = self._remote
            if remote is None:
                remote = Remote(self._connection, self._names)
                remote.create(self._config, plan, deadline)
                self._remote = remote
            return remote

    def _forget(self, remote: Remote | None) -> None:
        with self._lock:
            if self._remote is remote:
                self._remote = None


def session_here(key: str, target: str, token: str | None) -> Any:
    """Return the session that has the key, or a view of it where that is elsewhere."""
    return handles.handle_of(key) or SessionView(key, target, token)


class SessionView(handles.View):
    """A session, in a process that has not opened it.

    Attributes:
        target: what it dials.
    """

    def __init__(self, key: str, target: str, token: str | None) -> None:
        super().__init__(key)
        self.target = target
        self._token = token

    def __reduce__(self) -> tuple[Any, ...]:
        return session_here, (self._key, self.target, self._token)

    def session(self, **options: Any) -> Session:
        """Return a new Session to the same target; close it here."""
        return Session(self.target, **{"token": self._token, **options})

    def __enter__(self) -> Self:
        raise self._refusal("`with`", called=False)

    def __exit__(self, *_: object) -> None:
        """Do nothing: it was not entered."""

    def _handle_class(self) -> type:
        return Session

    def _refusal(self, name: str, *, called: bool) -> UnsupportedError:
        verb = f"{name}()" if called else name
        return UnsupportedError(
            f"{verb} of the session to {self.target} is only for the test process, which has its "
            "graph and its connection",
            remedy="open another one with session(), and build the graph in the function",
        )

    def __repr__(self) -> str:
        return f"<view of a Session to {self.target}>"
