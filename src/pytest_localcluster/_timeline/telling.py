"""Puts a story together from what the recorder was told and what tasks have noted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from .._clock import Deadline, poll
from .._ring import complete_until, has_no_space, read_notes
from .steps import Steps
from .story import Arrow, Bar, Group, Row, Story
from .tasks import Told

if TYPE_CHECKING:
    from .._cluster import LocalCluster
    from .lane import Lane
    from .recorder import Recorder, Step

__all__ = ["tell_story"]

_ROWS = (
    "phases",
    "fixtures",
    "sessions",
    "life",
    "faults",
    "functions",
    "steps",
    "waits",
    "receives",
    "device",
    "log",
)

_PATIENCE = 0.1
"""Seconds for tasks that live to note what they did last; one that is suspended will not."""

MOST_NOTES = 60_000
"""How many notes of all tasks a story has, the last ones."""


def tell_story(
    recorder: Recorder,
    clusters: Collection[LocalCluster],
    test: str,
    outcome: str,
    failure: str,
    end: int,
) -> Story:
    """Return what happened to some clusters since the test began."""
    story = Story(test, outcome, failure, recorder.began, end)
    lanes = recorder.lanes(clusters)
    numbers = sorted({lane.cluster for lane in lanes})
    _await_notes(lanes, end)
    recorder.look()
    own = _own_group(recorder, end)
    told = [Told(lane, Group(_name(lane, numbers), _note(lane))) for lane in _in_order(lanes)]
    each = MOST_NOTES // max(1, len(told))
    steps = Steps()
    for one in told:
        one.lane.learn_exitcode()
        one.tell_life(end)
        one.tell_calls(end)
        one.tell_lines()
        for life in one.lane.lives:
            notes, lost = read_notes(life.notes, recorder.began)
            if cut := max(0, len(notes) - each):
                notes = notes[cut:]
            if lost + cut:
                what = "older steps, operations and tensors"
                story.left_out.append(f"{one.group.name}: up to {lost + cut} {what}")
            if has_no_space(life.notes):
                why = "no space was left on the disk for its record"
                story.left_out.append(f"{one.group.name}: steps, operations and tensors: {why}")
            one.tell_notes(notes, life.ended or end, steps)
        if one.lane.left_out:
            story.left_out.append(f"{one.group.name}: {one.lane.left_out} lines of its log")
    _tell_faults(recorder, told, end)
    _tell_steps(own, recorder.steps, told, steps, story)
    story.arrows += steps.arrows()
    story.groups = [own, *(one.group for one in told)]
    for group in story.groups:
        for row in group.rows:
            _clip(row, story.begin)
        group.rows = sorted((r for r in group.rows if r.bars or r.marks), key=_rank)
        for row in group.rows:
            row.stack()
    return story


def _await_notes(lanes: Sequence[Lane], end: int) -> None:
    """Wait until tasks that live have noted what they did before the end."""
    living = [lane.lives[-1].notes for lane in lanes if lane.lives and lane.server.is_alive()]
    noting = [notes for notes in living if notes.exists() and not has_no_space(notes)]
    poll(lambda: all(complete_until(notes) >= end for notes in noting), Deadline(_PATIENCE))


def _clip(row: Row, begin: int) -> None:
    """Take away what was before the test."""
    row.bars = [bar for bar in row.bars if bar.end >= begin]
    for bar in row.bars:
        bar.begin = max(bar.begin, begin)
    row.marks = [mark for mark in row.marks if mark.at >= begin]


def _rank(row: Row) -> tuple[int, str]:
    return _ROWS.index(row.name.partition(" ")[0]), row.name


def _in_order(lanes: Sequence[Lane]) -> list[Lane]:
    order = {
        id(server): n for lane in lanes for n, server in enumerate(lane.server.cluster.servers)
    }
    return sorted(lanes, key=lambda lane: (lane.cluster, order.get(id(lane.server), -1)))


def _name(lane: Lane, numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return str(lane.server.task)
    return f"cluster {numbers.index(lane.cluster) + 1} {lane.server.task}"


def _note(lane: Lane) -> str:
    runtime = type(lane.server._life.place.runtime).__name__.removesuffix("Runtime").lower()
    return f"{runtime} at {lane.server.address}"


def _own_group(recorder: Recorder, end: int) -> Group:
    group = Group("the test", "")
    for phase in recorder.phases:
        row = group.row("fixtures" if phase.fixture else "phases")
        kind = "fixture" if phase.fixture else "phase"
        bar = Bar(kind, phase.name, phase.begin, phase.end or end, failed=phase.failed)
        bar.open = phase.end is None
        row.bars.append(bar)
    return group


def _tell_faults(recorder: Recorder, told: Sequence[Told], end: int) -> None:
    for fault in recorder.faults:
        for one in told:
            if one.lane.server.cluster is fault.cluster and one.lane.server.task in fault.tasks:
                bar = Bar("fault", fault.what, fault.begin, fault.end or end)
                bar.open = fault.end is None
                one.group.row("faults").bars.append(bar)


def _tell_steps(
    own: Group,
    run: Collection[Step],
    told: Sequence[Told],
    steps: Steps,
    story: Story,
) -> None:
    """Tell the steps of sessions in the test, and which steps of masters they were."""
    by_target = {one.lane.server.target: one for one in told}
    for step in run:
        one = by_target.get(step.target)
        if one is None:
            continue  # of a cluster that this test does not use
        name = step.name.removeprefix("a step for ")
        bar = Bar("session", name, step.begin, step.end or story.end, failed=bool(step.error))
        bar.open = step.end is None
        bar.facts["target"] = one.group.name
        if step.error:
            bar.facts["error"] = step.error
        own.row("sessions").bars.append(bar)
        master = steps.master(one, step)
        if master is not None:
            bar.facts["step"] = master.facts["step"]
            story.arrows.append(Arrow("request", "", bar, bar.begin, master, master.begin))
            if not master.open and not bar.open:
                story.arrows.append(Arrow("answer", "", master, master.end, bar, bar.end))
