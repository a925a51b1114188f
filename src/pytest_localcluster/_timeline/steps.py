"""The steps of a story, and what went from task to task in them."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .story import Arrow, Bar

if TYPE_CHECKING:
    from .._ring import Note
    from .recorder import Step
    from .tasks import Told

__all__ = ["Steps"]

Where = tuple[str, int, int]
"""A task, the number of its cluster, and the id of a step."""


class Steps:
    """The steps of all masters, and what went from task to task in them."""

    def __init__(self) -> None:
        self.sent: list[tuple[Told, Note]] = []
        self._numbers: dict[int, str] = {}
        self._masters: dict[int, tuple[Told, Bar]] = {}
        self._parts: dict[Where, Bar] = {}
        self._operations: dict[tuple[str, int, int, str], Bar] = {}
        self._receives: list[tuple[Told, Note, Bar]] = []
        self._calls: list[tuple[Told, Note, Bar]] = []
        self._by_begin: dict[int, list[tuple[int, Bar]]] = defaultdict(list)

    def number(self, step_id: int) -> str:
        """Return what a step is called here: the ids of masters are huge."""
        return self._numbers.setdefault(step_id, f"step {len(self._numbers) + 1}")

    def add(self, told: Told, note: Note, bar: Bar) -> None:
        """Learn of a bar that belongs to a step."""
        where = told.name, told.lane.cluster, note.step
        if note.kind == "step":
            self._masters[note.step] = told, bar
            self._by_begin[id(told)].append((note.begin, bar))
        elif note.kind == "part":
            self._parts[where] = bar
        elif note.kind in ("op", "runs"):
            self._operations[(*where, note.name)] = bar
        elif note.kind == "recv":
            self._receives.append((told, note, bar))
        elif note.kind == "call":
            self._calls.append((told, note, bar))

    def master(self, told: Told, step: Step) -> Bar | None:
        """Return the master's bar of a session's step."""
        if step.step_id:
            return self._master_of(step.step_id)
        # It failed, and what it was called nobody has said: it is the first that began within it.
        bars = sorted(self._by_begin[id(told)], key=lambda pair: pair[0])
        at = bisect.bisect_left(bars, step.begin, key=lambda pair: pair[0])
        if at < len(bars) and (step.end is None or bars[at][0] <= step.end):
            return bars[at][1]
        return None

    def arrows(self) -> Iterator[Arrow]:
        """Yield what went from task to task."""
        carried = set()  # the bars of parts whose request, or answer, brought a tensor
        for one, note in self.sent:
            here = one.name, one.lane.cluster, note.step
            there = note.place, one.lane.cluster, note.step
            part, master = self._parts.get(there), self._master_of(note.step)
            if part is None or master is None:
                continue
            carried.add((id(part), note.kind))
            otherwise, target = (master, part) if note.kind == "hand" else (part, master)
            whose = here if note.kind == "hand" else there
            source = self._source(whose, note.name, otherwise) or otherwise
            came = part.begin if note.kind == "hand" else note.begin
            left = _left(source, note.begin)
            yield Arrow("tensor", note.name, source, left, target, max(left, came), note.size)
        for one, note, bar in self._calls:
            part = self._parts.get((note.place, one.lane.cluster, note.step))
            if part is None:
                continue
            if (id(part), "hand") not in carried:
                yield Arrow("request", "", bar, bar.begin, part, max(bar.begin, part.begin))
            if (id(part), "bring") not in carried and not part.open and not bar.open:
                yield Arrow("answer", "", part, part.end, bar, max(part.end, bar.end))
        for one, note, bar in self._receives:
            if bar.open or bar.failed:
                continue
            holder = note.place, one.lane.cluster, note.step
            origin = self._source(holder, note.name, self._part_or_master(holder))
            if origin is not None:
                left = _left(origin, bar.end)
                yield Arrow("tensor", note.name, origin, left, bar, bar.end, note.size)

    def _master_of(self, step_id: int) -> Bar | None:
        found = self._masters.get(step_id)
        return None if found is None else found[1]

    def _part_or_master(self, where: Where) -> Bar | None:
        name, _, step_id = where
        if where not in self._parts and step_id in self._masters:
            told, bar = self._masters[step_id]
            return bar if told.name == name else None
        return self._parts.get(where)

    def _source(self, where: Where, key: str, otherwise: Bar | None) -> Bar | None:
        """Return the operation that a tensor is of."""
        name = key[1:] if key.startswith("^") else key.rpartition(":")[0]
        return self._operations.get((*where, name), otherwise)


def _left(source: Bar, latest: int) -> int:
    """Return when a tensor left: when its operation was done, if that was before it came."""
    return max(source.begin, min(source.end, latest))
