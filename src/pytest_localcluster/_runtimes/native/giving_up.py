"""The end of a step whose master has hung up, and will tell nobody."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ..._proto.worker_pb2 import CleanupGraphRequest
from ...errors import CancelledError, OpError, UnavailableError
from .statuses import status_of

if TYPE_CHECKING:
    from ..._proto.worker_pb2 import RunGraphRequest
    from .._threads import Threads
    from .parts import Part
    from .peers import Peers
    from .rendezvous import Steps

__all__ = ["give_up"]

# How long a task that shall end a step may take to answer; nobody waits for it.
_TIDY = 2.5


def give_up(
    steps: Steps, threads: Threads, peers: Peers, part: Part | None, request: RunGraphRequest
) -> None:
    """End a step here, and wherever values of it are asked for.

    A task that is asked may never have heard of the step, nor ever will: what waits for it here,
    and there, would do so for ever.

    Args:
        steps: this task's.
        threads: where other tasks are called from.
        peers: those.
        part: what ran; None if there is no such part.
        request: what was asked for.
    """
    status = status_of(CancelledError("the master ended the step, or died"))
    steps.end(request.step_id, status)
    if part is None:
        return
    asked = {arrival.holder for arrival in part.arrivals.values()}
    if any(feed.value.WhichOneof("kind") == "stored" for feed in request.feed):
        asked.add(part.master)
    message = CleanupGraphRequest(step_id=request.step_id, status=status)

    def end_there(task: str) -> None:
        with suppress(OpError):  # it is dead, and nobody waits for it
            peers.call(peers.find(task), "CleanupGraph", message, _TIDY)

    for task in filter(None, asked):
        with suppress(UnavailableError):  # this task is stopping
            threads.run(end_there, task)
