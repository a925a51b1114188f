"""Who this code is running as: the current task, and what it has for the targets it may dial."""

from __future__ import annotations

import os
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ._spec import ClusterSpec, Task
from .errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = [
    "PAST_LINKS_VARIABLE",
    "ROOT_VARIABLE",
    "TOKEN_VARIABLE",
    "TaskContext",
    "Token",
    "address_of",
    "become",
    "current_task",
    "forget_root",
    "forget_token",
    "here",
    "register_root",
    "register_token",
    "root_for",
    "running_as",
    "stay_as",
    "token_for",
]

TOKEN_VARIABLE = "PYTEST_LOCALCLUSTER_TOKEN"
"""Carries a cluster's token to its tasks and to subprocesses started with ``cluster.environ()``."""

ROOT_VARIABLE = "PYTEST_LOCALCLUSTER_ROOT_CERTIFICATE"
"""Carries, beside the token, by what tasks that speak TLS are known: a certificate in PEM."""

PAST_LINKS_VARIABLE = "PYTEST_LOCALCLUSTER_PAST_LINKS"
"""Carries the tasks' own addresses, which a test may give to a task that sees others by links."""


class Token(str):
    """A cluster's token, which shows itself in no repr: reports print those of all locals."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<the token of a cluster>"


@dataclass(frozen=True)
class TaskContext:
    """What code inside a task knows of it: what :func:`current_task` returns.

    Attributes:
        task: which task this is.
        cluster_spec: all tasks and their addresses, as this task sees them.
        target: what a session in this task dials to reach it.
        env: the environment that the cluster gives this task (TF_CONFIG, RANK, ...); in a
            process of its own ``os.environ`` has it too.
        ports: the task's further ports, name to number, as ``ports=`` of the config asks for them.
        dir: a folder of the task's own, which lasts through restarts; None unless ``{dir}`` is used
            for the task.
    """

    task: Task
    cluster_spec: ClusterSpec
    target: str
    env: Mapping[str, str] = field(repr=False)  # it carries the token
    ports: Mapping[str, int] = field(default_factory=dict)
    dir: Path | None = None


_process_context: TaskContext | None = None
_context: ContextVar[TaskContext | None] = ContextVar("pytest_localcluster_task", default=None)
_tokens: dict[str, str] = {}
_roots: dict[str, str] = {}


def current_task() -> TaskContext:
    """Return the task that this code runs in.

    Raises:
        RuntimeError: it runs in no task.
    """
    context = here()
    if context is None:
        raise RuntimeError(
            "no task runs here: current_task() works in functions given to run() or submit(), "
            "in operations made by function(), and in services"
        )
    return context


def here() -> TaskContext | None:
    """Return the task that this code runs in; None if it runs in no task."""
    return _context.get() or _process_context


def become(context: TaskContext) -> None:
    """Make this whole process that task."""
    global _process_context
    _process_context = context


@contextmanager
def running_as(context: TaskContext) -> Iterator[None]:
    """Make this thread that task for a while."""
    previous = _context.set(context)
    try:
        yield
    finally:
        _context.reset(previous)


def stay_as(context: TaskContext) -> None:
    """Make this thread that task from now on, or all that runs in this :mod:`contextvars` one."""
    _context.set(context)


def address_of(target: str) -> str:
    """Return the ``host:port`` of a target such as ``grpc://localhost:41234``."""
    scheme, mark, address = target.partition("://")
    if not mark:
        return target
    if scheme != "grpc":
        raise SpecError(f"target {target!r} cannot be dialled", remedy="use grpc://host:port")
    return address


def register_token(address: str, token: str) -> None:
    """Let sessions of this process dial ``address`` without being told the token."""
    _tokens[address] = token


def forget_token(address: str) -> None:
    """Take back what :func:`register_token` did."""
    _tokens.pop(address, None)


def token_for(target: str) -> str | None:
    """Return the token for ``target``, None if this process knows none.

    It knows those of the clusters started here, and, from its environment, that of the cluster
    that it belongs to (as a task, or as a subprocess started with ``cluster.environ()``).
    """
    address = address_of(target)
    if address in _tokens:
        return _tokens[address]
    return _given(TOKEN_VARIABLE, address)


def register_root(address: str, root: str) -> None:
    """Let this process dial ``address``, whose task is vouched for by ``root``, over TLS."""
    _roots[address] = root


def forget_root(address: str) -> None:
    """Take back what :func:`register_root` did."""
    _roots.pop(address, None)


def root_for(address: str) -> str | None:
    """Return by what the task at ``address`` is known, in PEM; None if it does not speak TLS.

    It is known where the token is: see :func:`token_for`.
    """
    return _roots.get(address) or _given(ROOT_VARIABLE, address)


def _given(variable: str, address: str) -> str | None:
    """Return what the environment has for the cluster that it tells of, if that has ``address``."""
    context = here()
    env: Mapping[str, str] = os.environ if context is None else context.env
    value, tf_config = env.get(variable), env.get("TF_CONFIG")
    if value is None or tf_config is None:
        return None
    spec = ClusterSpec.from_tf_config(tf_config)
    known = any(address in addresses for addresses in spec.as_dict().values())
    known = known or address in env.get(PAST_LINKS_VARIABLE, "").split(",")
    return value if known else None
