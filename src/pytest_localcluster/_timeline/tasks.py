"""What happened in one task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._launch.reports import describe_exit
from .story import Bar, Group, Mark, size

if TYPE_CHECKING:
    from .._ring import Note
    from .lane import Lane, Life
    from .steps import Steps

__all__ = ["Told"]

_WORDS = {
    "ready": "ready",
    "stop": "asked to stop",
    "suspend": "suspended",
    "resume": "resumed",
    "reset": "reset",
    "launch": "launched",
}
_FAULTS = ("kill", "suspend", "resume")
_STATES = {
    "launch": "starting",
    "ready": "running",
    "suspend": "suspended",
    "resume": "running",
    "stop": "stopping",
}


class Told:
    """One task, as far as its story is told.

    Args:
        lane: what is known of it.
        group: its rows.
    """

    def __init__(self, lane: Lane, group: Group) -> None:
        self.lane = lane
        self.group = group
        self.name = str(lane.server.task)

    def tell_life(self, end: int) -> None:
        """Tell how it started and ended, and what was done to it."""
        row = self.group.row("life")
        moments = list(self.lane.moments)
        for moment in moments:
            name = _WORDS.get(moment.what, f"{moment.what} {moment.name}".strip())
            if moment.what != "launch":
                kind = "fault" if moment.what in _FAULTS else moment.what
                row.marks.append(Mark(kind, name, moment.at))
        for number, life in enumerate(self.lane.lives):
            # An end that is noticed when it is told was before that, and has its place in the page.
            over = None if life.ended is None else min(life.ended, end)
            if over is None:
                later = self.lane.lives[number + 1 :]
                over = later[0].began if later else end
            states = [m for m in moments if life.began <= m.at < over and m.what in _STATES]
            # A state lasts until the next one; what is there before the launch is told is starting.
            begins = [life.began, *(m.at for m in states if m.what != "launch")]
            names = ["starting", *(_STATES[m.what] for m in states if m.what != "launch")]
            for state, since, until in zip(names, begins, [*begins[1:], over], strict=True):
                kind = {"starting": "start", "suspended": "fault"}.get(state, "life")
                row.bars.append(Bar(kind, state, since, until))
            if life.ended is not None:
                row.marks.append(self._end_of(life, over))

    def _end_of(self, life: Life, at: int) -> Mark:
        assert life.ended is not None
        how = describe_exit(life.exitcode)
        before = [m for m in self.lane.moments if life.began <= m.at <= life.ended]
        kills = [m.name for m in before if m.what == "kill"]
        if any(m.what == "stop" for m in before):
            return Mark("end", f"stopped: {how}", at)
        if kills:
            return Mark("death", f"{how}, after the test's {kills[-1]}", at)
        return Mark("death", f"died on its own: {how}", at, failed=True)

    def tell_calls(self, end: int) -> None:
        """Tell which functions it ran: one after the other, in the order in which it got them."""
        free = 0
        for call in self.lane.calls:
            begin = max(call.begin, free)
            over = max(begin, end if call.end is None else call.end)
            bar = Bar("function", call.name, begin, over, failed=bool(call.error))
            bar.open = call.end is None
            if call.error:
                bar.facts["error"] = call.error
            self.group.row("functions").bars.append(bar)
            free = over

    def tell_lines(self) -> None:
        """Tell what it printed."""
        for line in self.lane.lines:
            self.group.row("log").marks.append(Mark("log", line.name, line.at))

    def tell_notes(self, notes: Sequence[Note], over: int, steps: Steps) -> None:
        """Tell what it noted itself, in a life that was over at that moment."""
        done = {(n.step, n.name): n for n in notes if n.kind == "op"}
        for note in notes:
            if note.kind in ("hand", "bring"):
                steps.sent.append((self, note))
                continue
            if note.kind == "runs" and _overlap(done.get((note.step, note.name)), note):
                continue  # it has been noted when it was done
            bar = Bar(note.kind, note.name, note.begin, note.end or over, failed=note.failed)
            bar.open = note.end is None
            if note.step:
                bar.facts["step"] = steps.number(note.step)
            steps.add(self, note, bar)
            self._row_for(note, bar).append(bar)

    def _row_for(self, note: Note, bar: Bar) -> list[Bar]:
        """Dress a bar for its kind, and return where it belongs."""
        if note.kind in ("op", "runs"):
            bar.kind = "op"
            if note.kind == "runs":
                bar.facts["seen"] = "as it ran; it began up to 30 ms before"
            device = note.place.partition("/device:")[2]
            return self.group.row(f"device {device}" if device else "device").bars
        if note.kind == "more":
            bar.name = f"{note.size} more operations, not noted one by one"
            return self.group.row("steps").bars
        if note.kind == "recv":
            bar.name = note.name
            bar.facts["from"] = note.place
            if note.size:
                bar.facts["size"] = size(note.size)
            return self.group.row("receives").bars
        if note.kind == "call":
            bar.name = f"waits for {note.place}"
            return self.group.row("waits").bars
        if note.kind == "part":
            bar.name = f"part of {bar.facts['step']}"
            bar.facts["for"] = note.place
        return self.group.row("steps").bars


def _overlap(one: Note | None, other: Note) -> bool:
    return one is not None and one.begin <= other.begin <= (one.end or other.begin)
