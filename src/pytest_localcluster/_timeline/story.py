"""What happened in a test: groups of rows with bars and marks, and arrows from bar to bar.

Times are nanoseconds of the monotonic clock. Nothing here knows how it will be shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Arrow", "Bar", "Group", "Mark", "Row", "Story", "duration", "size"]


@dataclass(eq=False)
class Bar:
    """Something that took its time.

    Attributes:
        kind: what it is, such as ``op``.
        name: what it is called.
        begin: when it began.
        end: when it ended, or when the story does if it never did.
        facts: more of it, by label.
        failed: whether it failed.
        open: whether nobody has seen its end.
        depth: which line of its row it is in: bars of a row may overlap.
    """

    kind: str
    name: str
    begin: int
    end: int
    facts: dict[str, str] = field(default_factory=dict)
    failed: bool = False
    open: bool = False
    depth: int = 0


@dataclass(eq=False)
class Mark:
    """Something that happened at a moment."""

    kind: str
    name: str
    at: int
    facts: dict[str, str] = field(default_factory=dict)
    failed: bool = False


@dataclass(eq=False)
class Row:
    """Bars and marks of one sort."""

    name: str
    bars: list[Bar] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    def stack(self) -> int:
        """Give bars that overlap lines of their own; return how many there are."""
        ends: list[int] = []
        for bar in sorted(self.bars, key=lambda bar: (bar.begin, -bar.end)):
            for depth, end in enumerate(ends):
                if end <= bar.begin:
                    bar.depth, ends[depth] = depth, bar.end
                    break
            else:
                bar.depth = len(ends)
                ends.append(bar.end)
        return max(1, len(ends))


@dataclass(eq=False)
class Group:
    """The rows of one task, or of the test."""

    name: str
    note: str
    rows: list[Row] = field(default_factory=list)

    def row(self, name: str) -> Row:
        """Return the row of that name, new if there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        self.rows.append(Row(name))
        return self.rows[-1]


@dataclass(eq=False)
class Arrow:
    """Something that went from one bar to another: a ``tensor``, a ``request`` or an ``answer``."""

    kind: str
    name: str
    source: Bar
    left: int
    target: Bar
    came: int
    size: int = 0


@dataclass(eq=False)
class Story:
    """All of it.

    Attributes:
        test: the test's node id.
        outcome: ``passed``, ``failed``, ``skipped`` or ``interrupted``.
        failure: what the test's report says, if it failed.
        begin: when the test began, where the clock of a page begins.
        end: when it was over.
        left_out: what is missing, in sentences.
    """

    test: str
    outcome: str
    failure: str
    begin: int
    end: int
    groups: list[Group] = field(default_factory=list)
    arrows: list[Arrow] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def bars(self) -> Iterator[tuple[Group, Row, Bar]]:
        """Yield every bar, and where it is."""
        for group in self.groups:
            for row in group.rows:
                for bar in row.bars:
                    yield group, row, bar

    def marks(self) -> Iterator[tuple[Group, Row, Mark]]:
        """Yield every mark, and where it is."""
        for group in self.groups:
            for row in group.rows:
                for mark in row.marks:
                    yield group, row, mark


def duration(nanoseconds: int) -> str:
    """Return a time as one reads it: ``812 us``, ``3.25 ms``, ``1.20 s``."""
    for unit, scale in (("s", 1e9), ("ms", 1e6)):
        if nanoseconds >= scale:
            return (
                f"{nanoseconds / scale:.3g} {unit}"
                if nanoseconds < 1e12
                else f"{nanoseconds / scale:.0f} {unit}"
            )
    return f"{nanoseconds / 1e3:.3g} \u00b5s"


def size(count: int) -> str:
    """Return a number of bytes as one reads it: ``64 KiB``."""
    if count < 1024:
        return f"{count} bytes"
    for unit, scale in (("KiB", 1 << 10), ("MiB", 1 << 20)):
        if count < scale << 10:
            return f"{count / scale:.3g} {unit}"
    return f"{count / (1 << 30):.3g} GiB"
