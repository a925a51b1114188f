"""How the parts of a plan come to the tasks that run them: once each, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import UnavailableError
from .statuses import StepFailed

if TYPE_CHECKING:
    from ..._clock import Deadline
    from .master import Master
    from .plan import PartPlan, Plan

__all__ = ["register"]


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
            part.handle = master.worker.register(part.request, part.hands)
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
