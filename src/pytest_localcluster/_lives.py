"""All lives of a cluster at once: coming up and going down, each within one deadline for all."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from ._clock import Deadline
from ._terminal import in_use
from .errors import StopError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._life import Life

__all__ = ["end_all", "wait_all_ready"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

_PAUSES = (0.002, 0.02)
"""The first and the last pause between two looks at what sends no event."""

_LOOK = 0.05
"""The longest wait for an event, in seconds."""


def wait_all_ready(lives: Sequence[Life], deadline: Deadline) -> None:
    """Wait until all tasks serve.

    Whatever fails, fails at once, however long the others may still take.

    Raises:
        StartError: one of them did not come up, or died while others did.
    """
    news = _News(lives)
    starting = dict.fromkeys(lives)
    changed: Sequence[Life] = lives
    while True:
        for life in changed:
            if life.come_up():
                starting.pop(life, None)
            news.follow(life)
        if not starting:
            return
        if deadline.expired() and in_use():
            deadline = Deadline(deadline.seconds)  # whoever types needs it more
        elif deadline.expired():
            raise next(iter(starting)).late(deadline)
        changed = news.wait(list(starting), deadline)


class _News:
    """What happens to several tasks, as it happens."""

    def __init__(self, lives: Sequence[Life]) -> None:
        self._poller = select.poll()
        self._lives: dict[int, Life] = {}
        self._pause = _PAUSES[0]
        for life in lives:
            self.follow(life)

    def follow(self, life: Life) -> None:
        """Look at what tells of this task now: a descriptor of it may have been closed."""
        process = life.process
        assert process is not None
        current = set(process.news())
        known = {fd for fd, whose in self._lives.items() if whose is life}
        for fd in known - current:
            self._poller.unregister(fd)
            del self._lives[fd]
        for fd in current - known:
            self._poller.register(fd, select.POLLIN)
            self._lives[fd] = life

    def wait(self, starting: list[Life], deadline: Deadline) -> list[Life]:
        """Return the tasks to look at again, as soon as there is one, or the deadline passes."""
        silent = [life for life in starting if life.sends_no_event]
        left = deadline.remaining()
        if silent:
            left = self._pause if left is None else min(self._pause, left)
            self._pause = min(self._pause * 1.5, _PAUSES[1])
        if not self._lives:
            assert starting[0].process is not None
            starting[0].process.await_start(left)
            return starting
        # Another thread that asks for a pid takes in what this one waits for: look again alone.
        left = _LOOK if left is None else min(_LOOK, left)
        found = self._poller.poll(left * 1000)
        return list(dict.fromkeys([*(self._lives[fd] for fd, _ in found), *silent])) or starting


def end_all(lives: Sequence[Life], seconds: float) -> None:
    """Ask all to end, kill at half time what is left, be done in ``seconds``.

    Raises:
        StopError: names what would not die.
    """
    soft, hard = Deadline(seconds / 2), Deadline(seconds)
    failures = []
    for life in lives:
        life.ask_to_stop()
    for life in lives:
        life.await_end(soft)
    for life in lives:
        try:
            life.finish(hard)
        except StopError as error:
            failures.append(error)
    if len(failures) > 1:
        names = tuple(name for failure in failures for name in failure.survivors)
        raise StopError(
            f"{len(failures)} tasks would not stop: {', '.join(names)}",
            survivors=names,
            evidence="\n".join(str(failure) for failure in failures),
        )
    for failure in failures:
        raise failure
