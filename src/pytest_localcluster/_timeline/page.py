"""A story as one HTML page that needs nothing else: no network, no file beside it.

What matters most is in the page as text: how the test ended, what happened to the tasks. The lanes
are drawn from the data by the page's script, as far as one zooms in. All text of the test's and its
tasks' is escaped: here, and in the script, which only ever sets text.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from functools import cache
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from .story import duration, size

if TYPE_CHECKING:
    from .story import Arrow, Bar, Group, Mark, Story

__all__ = ["MOST_BARS", "page_of"]

MOST_BARS = 5000
MOST_ARROWS = 4000
MOST_LINES = 1500
"""How many bars, arrows and lines of logs a page shows, the last ones; a trace has all."""

_MANY = ("op", "more", "recv", "call", "part", "step", "session", "function", "fixture")
"""The kinds of bars of which there may be many."""

_FAILURE = 20_000  # characters
_LONGEST = 300
_TABLE = 500
"""How many moments the table has, the last ones."""


def page_of(story: Story) -> str:
    """Return the page."""
    data, left_out = _data(story)
    facts = {
        "TITLE": escape(story.test),
        "OUTCOME": escape(story.outcome),
        "SECONDS": escape(duration(story.end - story.begin)),
        "FAILURE": _failure(story),
        "LEFT_OUT": "".join(f"<li>{escape(text)}</li>" for text in left_out),
        "MOMENTS": "".join(_moments(story)),
        "STYLE": _file("page.css"),
        "SCRIPT": _file("page.js"),
        # No text of it can end the element that it is in, or begin another.
        "DATA": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    }
    pieces = _file("page.html").split("@@")
    return "".join(facts[piece] if n % 2 else piece for n, piece in enumerate(pieces))


@cache
def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _failure(story: Story) -> str:
    if not story.failure:
        return ""
    text = story.failure
    if len(text) > _FAILURE:
        text = f"...\n{text[-_FAILURE:]}"
    return f"<details open><summary>How it failed</summary><pre>{escape(text)}</pre></details>"


def _moments(story: Story) -> Iterator[str]:
    """Yield the rows of the table of what happened: all but lines of logs, and what failed."""
    found: list[tuple[int, str, str, bool]] = []
    for group, _, mark in story.marks():
        if mark.kind != "log":
            found.append((mark.at, group.name, mark.name, mark.failed))
    for group, row, bar in story.bars():
        name = _short(bar.name)
        if bar.failed:
            error = bar.facts.get("error", "")
            found.append((bar.end, group.name, f"{name} failed {_short(error)}".strip(), True))
        elif bar.kind == "fault" and row.name == "faults":
            found.append((bar.begin, group.name, name, False))
        elif bar.kind == "phase":
            found.append((bar.begin, group.name, f"{name} begins", False))
    found.sort(key=lambda row: row[0])
    for at, whose, what, failed in found[-_TABLE:]:
        kind = ' class="failed"' if failed else ""
        time = (at - story.begin) / 1e6
        yield (
            f'<tr{kind}><td><button type="button" data-at="{time:.4f}">{time:.3f} ms</button></td>'
            f"<td>{escape(whose)}</td><td>{escape(what)}</td></tr>\n"
        )


def _data(story: Story) -> tuple[dict[str, Any], list[str]]:
    """Return what the script draws, and what is left out."""
    left_out = list(story.left_out)
    bars = [bar for _, _, bar in story.bars()]
    many = [bar for bar in bars if bar.kind in _MANY]
    keep = {id(bar) for bar in bars if bar.kind not in _MANY or bar.failed or bar.open}
    keep |= {id(bar) for bar in heapq.nlargest(MOST_BARS, many, key=lambda bar: bar.end)}
    lines = [mark for _, _, mark in story.marks() if mark.kind == "log"]
    shown = {id(mark) for mark in heapq.nlargest(MOST_LINES, lines, key=lambda mark: mark.at)}
    if len(keep) < len(bars):
        left_out.append(f"on this page: the first {len(bars) - len(keep)} bars; the trace has them")
    if len(shown) < len(lines):
        left_out.append(f"on this page: the first {len(lines) - len(shown)} lines of logs")
    numbers: dict[int, int] = {}
    groups = [_group(story, group, keep, shown, numbers) for group in story.groups]
    arrows = [
        arrow
        for arrow in story.arrows
        if id(arrow.source) in numbers and id(arrow.target) in numbers
    ]
    last = sorted(arrows, key=lambda arrow: arrow.came)[-MOST_ARROWS:]
    data = {
        "length": _ms(story, story.end),
        "groups": groups,
        "arrows": [_arrow(story, arrow, numbers) for arrow in last],
    }
    return data, left_out


def _group(
    story: Story, group: Group, keep: set[int], shown: set[int], numbers: dict[int, int]
) -> dict[str, Any]:
    rows = []
    for row in group.rows:
        bars = [bar for bar in row.bars if id(bar) in keep]
        for bar in bars:
            numbers[id(bar)] = len(numbers)
        marks = [mark for mark in row.marks if mark.kind != "log" or id(mark) in shown]
        if bars or marks:
            rows.append(
                {
                    "name": row.name,
                    "lines": 1 + max((bar.depth for bar in bars), default=0),
                    "bars": [_bar(story, bar) for bar in bars],
                    "marks": [_mark(story, mark) for mark in marks],
                }
            )
    return {"name": group.name, "note": group.note, "rows": rows}


def _bar(story: Story, bar: Bar) -> list[Any]:
    flags = bar.failed + 2 * bar.open
    facts = {label: _short(text) for label, text in bar.facts.items()}
    begin, end = _ms(story, bar.begin), _ms(story, bar.end)
    return [begin, end, bar.kind, _short(bar.name), bar.depth, flags, facts]


def _mark(story: Story, mark: Mark) -> list[Any]:
    facts = {label: _short(text) for label, text in mark.facts.items()}
    return [_ms(story, mark.at), mark.kind, _short(mark.name), int(mark.failed), facts]


def _arrow(story: Story, arrow: Arrow, numbers: dict[int, int]) -> list[Any]:
    source, target = numbers[id(arrow.source)], numbers[id(arrow.target)]
    much = size(arrow.size) if arrow.size else ""
    left, came = _ms(story, arrow.left), _ms(story, arrow.came)
    return [source, left, target, came, arrow.kind, _short(arrow.name), much]


def _ms(story: Story, moment: int) -> float:
    return round((moment - story.begin) / 1e6, 4)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
