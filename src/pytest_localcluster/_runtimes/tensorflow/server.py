"""Runs in a task: a ``tf.distribute.Server``, or the place of one that TensorFlow will start."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..._core.listeners import others_at
from ...errors import PortError
from . import REFUSED
from .master import clear, end_sessions

if TYPE_CHECKING:
    from ..._spec import Task
    from .. import Assignment

__all__ = ["Coordinator", "TensorFlowServer"]

# A server has 64 threads for calls to its peers, of which a test cluster needs no more than one:
# they are most of what its start and its end cost.
_FEW_THREADS = {"TF_GRPC_WORKER_CACHE_THREADS": "1", "TF_GRPC_WORKER_CACHE_QUEUES": "1"}


class Coordinator:
    """A task without a server: its address is for the one that a strategy starts there.

    Args:
        hide: the environment variables that name GPUs, of which none are to be seen.
    """

    def __init__(self, hide: Collection[str]) -> None:
        # For good, since TensorFlow looks when it is first used, which may be much later.
        os.environ.update(dict.fromkeys(hide, "-1"))

    def stop(self) -> None:
        """Do nothing: what the task runs ends with its process."""

    def reset(self) -> None:
        """Do nothing: sessions keep no state in a task that serves none."""

    def forget(self, task: Task) -> None:
        """Do nothing: TensorFlow finds a restarted peer again by itself."""


class TensorFlowServer(Coordinator):
    """One task that serves.

    Args:
        assignment: who it is.
        hide: the environment variables that name GPUs, of which none are to be seen.
        absent: the jobs of its cluster that no session may wait for, since they do not serve.

    Raises:
        PortError: its address is taken.
    """

    def __init__(
        self, assignment: Assignment, hide: Collection[str], absent: Collection[str]
    ) -> None:
        super().__init__(hide)
        import tensorflow as tf

        context = assignment.context
        task = context.task
        self._address = context.cluster_spec.task_address(task.job, task.index)
        self._masters = [
            address
            for job, addresses in context.cluster_spec.as_dict().items()
            for address in addresses
            if job not in absent
        ]
        server_def = tf.train.ServerDef.FromString(assignment.server_def)
        filters = server_def.default_session_config.device_filters
        if absent and not filters:
            # Every session has these added to its own. One without any waits for all the tasks.
            filters.extend(f"/job:{job}" for job in context.cluster_spec.jobs if job not in absent)
        try:
            with _environment(_FEW_THREADS):
                self._server = tf.distribute.Server(server_def)
        except tf.errors.UnknownError as error:
            if REFUSED not in str(error):
                raise
            raise PortError(
                f"{task} cannot serve: its port is taken{others_at(self._address)}",
                task=str(task),
                address=self._address,
                evidence=str(error),
                remedy="start the cluster again; a --cluster-port-range should hold free ports",
            ) from None

    def reset(self) -> None:
        """End the sessions of all tasks, and then clear this task's variables and queues.

        Every task does so, none knows when the others have, and to clear what a step is using, from
        whichever task, would crash. What an eager coordinator keeps here stays: it is its own, and
        nobody else can see it.
        """
        for address in self._masters:
            end_sessions(address)
        clear(self._address)


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set variables that are not set, for a while: programs of the user are not to see them."""
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
