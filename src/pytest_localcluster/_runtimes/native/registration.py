"""How the parts of a plan come to the tasks that run them: once each, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import UnavailableError
from .statuses import StepFailed

if TYPE_CHECKING:
    from ..._clock import Deadline
    from .master import Master
    from .plan import PartPlan, Plan
    from .session import Session

__all__ = ["register"]


def register(master: Master, session: Session, plan: Plan, deadline: Deadline) -> list[str]:
    """Register the parts of a plan that are not yet, side by side; return the handles of all.

    A part may be lost again at any time, by a reset: a step goes on with the handles that it got.
    One that comes to a task after its session has ended is taken back.

    Raises:
        StepFailed: a task refused its part.
        OpError: a task could not be asked.
    """
    handles = {part: part.handle for part in plan.parts}
    missing = [part for part, handle in handles.items() if handle is None]
    others = {
        part: master.threads.submit(_register_part, master, session, part, deadline)
        for part in missing[1:]
    }
    for part in missing[:1]:
        handles[part] = _register_part(master, session, part, deadline)
    for part, other in others.items():
        handles[part] = other.result()
    return [handle or "" for handle in handles.values()]


def _register_part(master: Master, session: Session, part: PartPlan, deadline: Deadline) -> str:
    with part.registering:
        handle = part.handle
        if handle is None:
            session.ask(part.task)
            try:
                if part.task == master.task:
                    handle = master.worker.register(part.request, part.hands)
                else:
                    handle = _register_there(master, part, deadline)
            finally:
                # What ended the session meanwhile may have come to that task before this did.
                if not master.has(session):
                    master.take_back(session, part.task)
            part.handle = handle
        return handle


def _register_there(master: Master, part: PartPlan, deadline: Deadline) -> str:
    address, left = master.address_of(part.task), deadline.remaining()
    try:
        answer = master.peers.call(address, "RegisterGraph", part.request, left)
    except UnavailableError:
        master.lost(part.task)
        raise
    if answer.status.code:
        raise StepFailed(answer.status)
    handle: str = answer.graph_handle
    return handle
