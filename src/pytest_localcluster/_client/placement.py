"""Where operations run: device() scopes, which nest as TensorFlow's do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from .._spec import DeviceSpec, Task

if TYPE_CHECKING:
    from .operation import Operation

__all__ = ["device", "place"]


# The scopes in force, outermost first. A tuple, so that a scope ends by putting back what it found,
# also where a generator or an asyncio task leaves it in another context than it entered.
_scopes: ContextVar[tuple[DeviceSpec | Callable[[Operation], object] | None, ...]] = ContextVar(
    "pytest_localcluster_device", default=()
)


class HasTask(Protocol):
    """A server, or whatever else stands for a task."""

    @property
    def task(self) -> Task:
        """Which one."""


@contextmanager
def device(
    name_or_function: str | DeviceSpec | Task | HasTask | Callable[[Operation], object] | None,
) -> Iterator[None]:
    """Place the operations that are made inside.

    Scopes nest: what an inner one leaves open, the next outer one fills in. What stays open is
    the session's own target: its job and task, and ``CPU:0``.

    Args:
        name_or_function: a device, in whole or in part, such as ``"/job:ps/task:0"`` or
            ``"/cpu:1"``; a Task, or a Server, for its task; a function, called with each operation
            (which has ``name``, ``type``, and as ``device`` what the inner scopes say), that
            returns the operation's device in place of that; None to leave the outer scopes out.

    Raises:
        SpecError: it names no device. Whether the device exists shows when the operation runs.

    Example::

        with device("/job:ps/task:0"):
            weights = Variable(np.zeros(10))
    """
    scope = _scope(name_or_function)
    outer = _scopes.get()
    _scopes.set((*outer, scope))
    try:
        yield
    finally:
        _scopes.set(outer)


def _scope(given: object) -> DeviceSpec | Callable[[Operation], object] | None:
    if given is None or isinstance(given, DeviceSpec):
        return given
    if isinstance(given, (str, Task)):
        return DeviceSpec.from_string(str(given))
    task = getattr(given, "task", None)  # a Server has it
    if isinstance(task, Task):
        return DeviceSpec.from_string(str(task))
    if callable(given):
        return given
    raise TypeError(
        "device() takes a device string, a DeviceSpec, a Task, a Server, a function or None, "
        f"not {given!r}"
    )


def place(op: Operation) -> str:
    """Return the device that the scopes in force give ``op``; empty if they give none."""
    scopes = _scopes.get()
    if not scopes:
        return ""
    op.device = ""
    for scope in reversed(scopes):
        if scope is None:
            break
        if isinstance(scope, DeviceSpec):
            # The inner scopes have spoken already: their fields win.
            op.device = scope.make_merged_spec(DeviceSpec.from_string(op.device)).to_string()
            continue
        chosen = scope(op)
        if chosen is not None:
            spec = chosen if isinstance(chosen, DeviceSpec) else DeviceSpec.from_string(str(chosen))
            op.device = spec.to_string()
    return op.device
