"""A story as a trace: the Chrome trace-event format, which Perfetto and chrome://tracing open.

Each group is a process, each line of a row a thread, since the slices of a thread may only nest. A
bar is a slice, a mark an instant, an arrow a flow from within one slice to within another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .story import size

if TYPE_CHECKING:
    from .story import Bar, Story

__all__ = ["trace_of"]


def trace_of(story: Story) -> str:
    """Return the trace as JSON."""
    other = {"test": story.test, "outcome": story.outcome, "left out": "; ".join(story.left_out)}
    events = list(_events(story))
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms", "otherData": other})


def _events(story: Story) -> Iterator[dict[str, Any]]:
    places: dict[int, dict[str, int]] = {}  # by bar: its process and thread
    tid = len(
        story.groups
    )  # of the last one: no thread has a number that another has, or a process
    for pid, group in enumerate(story.groups, 1):
        name = f"{group.name} ({group.note})" if group.note else group.name
        yield _meta("process_name", pid, pid, name=name)
        yield _meta("process_sort_index", pid, pid, sort_index=pid)
        for row in group.rows:
            first = tid + 1
            for line in range(1 + max((bar.depth for bar in row.bars), default=0)):
                tid = first + line
                yield _meta(
                    "thread_name", pid, tid, name=row.name if not line else f"{row.name} +{line}"
                )
                yield _meta("thread_sort_index", pid, tid, sort_index=tid)
            for bar in row.bars:
                where = places[id(bar)] = {"pid": pid, "tid": first + bar.depth}
                yield {
                    "ph": "X",
                    "name": bar.name or bar.kind,
                    "cat": bar.kind,
                    "ts": _time(story, bar.begin),
                    "dur": (bar.end - bar.begin) / 1000,
                    "args": _facts(bar),
                    **where,
                }
            for mark in row.marks:
                yield {
                    "ph": "i",
                    "s": "t",
                    "name": mark.name or mark.kind,
                    "cat": mark.kind,
                    "ts": _time(story, mark.at),
                    "pid": pid,
                    "tid": first,
                    "args": mark.facts,
                }
    for number, arrow in enumerate(story.arrows, 1):
        if id(arrow.source) not in places or id(arrow.target) not in places:
            continue
        common = {"name": arrow.name or arrow.kind, "cat": arrow.kind, "id": number}
        args = {"size": size(arrow.size)} if arrow.size else {}
        for ph, bar, at in (("s", arrow.source, arrow.left), ("f", arrow.target, arrow.came)):
            # It binds to the slice that has this moment in it, without the end.
            at = max(bar.begin, min(bar.end - 1, at))
            end = {"bp": "e"} if ph == "f" else {}
            yield {
                "ph": ph,
                "ts": _time(story, at),
                "args": args,
                **common,
                **end,
                **places[id(bar)],
            }


def _meta(what: str, pid: int, tid: int, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args}


def _time(story: Story, moment: int) -> float:
    return (moment - story.begin) / 1000


def _facts(bar: Bar) -> dict[str, str]:
    more = {"failed": "yes"} if bar.failed else {}
    more |= {"end": "not seen"} if bar.open else {}
    return bar.facts | more
