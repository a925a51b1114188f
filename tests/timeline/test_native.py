"""What native tasks note: steps, operations, tensors from task to task, to the end."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_localcluster import (
    LocalCluster,
    Variable,
    constant,
    device,
    function,
    group,
    placeholder,
)
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._ring import Note, read_notes
from pytest_localcluster._runtimes.native.recorded import _EACH
from pytest_localcluster._timeline.recorder import Recorder
from pytest_localcluster._timeline.story import Bar, Story
from pytest_localcluster.errors import OpError, UnavailableError
from tests.timeline.conftest import Start, Tell

PS, ONE, TWO = "/job:ps/task:0", "/job:worker/task:0", "/job:worker/task:1"


def bars(story: Story, task: str, row: str) -> list[Bar]:
    (found,) = (group for group in story.groups if group.name == task)
    return [bar for r in found.rows if r.name.startswith(row) for bar in r.bars]


def names(story: Story, task: str, row: str = "device") -> list[str]:
    return [bar.name for bar in bars(story, task, row)]


def tensors(story: Story) -> set[tuple[str, str, str]]:
    """Return what went from which task to which."""
    where = {id(bar): g.name for g, _, bar in story.bars()}
    return {
        (arrow.name, where[id(arrow.source)], where[id(arrow.target)])
        for arrow in story.arrows
        if arrow.kind == "tensor"
    }


def noted(recorder: Recorder, cluster: LocalCluster, task: str) -> list[Note]:
    (lane,) = (lane for lane in recorder.lanes([cluster]) if str(lane.server.task) == task)
    return read_notes(lane.lives[-1].notes).found


@pytest.mark.parametrize("launcher", ["process", "thread"])
def test_a_step_over_three_tasks(start: Start, tell: Tell, launcher: str) -> None:
    cluster = start(workers=2, ps=1, launcher=launcher)
    with device(PS):
        w = Variable(np.ones(1000), name="w")
        read = w.read()
    with device(ONE):
        doubled: Any = np.multiply(read, 2.0)
    with device(TWO):
        result: Any = np.add(doubled, 1.0)
    with cluster.session() as session:
        session.run(w.initializer)
        session.run(result)
    cluster.stop()
    story = tell(cluster)
    assert story.left_out == []
    assert {"w/read"} < set(names(story, PS))
    assert names(story, ONE) == [doubled.op.name]
    assert names(story, TWO) == [result.op.name]
    assert tensors(story) == {
        ("w/read:0", PS, ONE),
        (f"{doubled.op.name}:0", ONE, TWO),
    }
    first, second = bars(story, ONE, "steps")
    assert (first.facts["step"], second.facts["step"]) == ("step 1", "step 2")
    seen = bars(story, "the test", "sessions")
    assert [bar.facts["step"] for bar in seen] == ["step 1", "step 2"]
    # Clocks are one: what a session waits for lies within its waiting, and so on down to the op.
    for outer, inner in ((seen[1], second), (second, bars(story, ONE, "device")[0])):
        assert outer.begin <= inner.begin <= inner.end <= outer.end
    assert not any(bar.failed or bar.open for _, _, bar in story.bars())
    for arrow in story.arrows:
        assert arrow.source.begin <= arrow.left <= arrow.came <= arrow.target.end, arrow


def test_a_tensor_has_its_size_however_it_goes(start: Start, tell: Tell) -> None:
    cluster = start(workers=2, ps=1)
    large = 1 << 19
    with device(PS):
        big, small = constant(np.ones(large)), constant(np.ones(2))
        both: Any = np.add(big, 1.0), np.subtract(small, 1.0)
    with device(TWO):
        results: Any = np.negative(both[0]), np.abs(both[1])
    with device(ONE):
        ends = [np.sum(one) for one in results]
    with cluster.session() as session:
        session.run(ends)
    sizes = {arrow.name: arrow.size for arrow in tell(cluster).arrows if arrow.kind == "tensor"}
    for tensor, size in ((both[0], large * 8), (both[1], 16)):
        assert sizes[f"{tensor.op.name}:0"] == size
    assert set(sizes) == {f"{tensor.op.name}:0" for tensor in (*both, *results)}


def test_of_many_operations_the_first_are_noted_and_all_are_counted(
    start: Start, tell: Tell
) -> None:
    cluster = start(workers=1, ps=0)
    with device(ONE):
        chain = constant(np.ones(2))
        for _ in range(_EACH + 40):
            chain = chain + 1.0
    with cluster.session() as session:
        assert session.run(chain)[0] == _EACH + 41
    cluster.stop()
    story = tell(cluster)
    assert len(names(story, ONE)) == _EACH
    (more,) = (bar for bar in bars(story, ONE, "steps") if bar.kind == "more")
    assert more.name == "41 more operations, not noted one by one"  # with the constant


def test_a_long_operation_is_noted_however_many_there_are(
    start: Start, tell: Tell, recorder: Recorder, tmp_path: Path
) -> None:
    cluster = start(workers=1, ps=0)
    go = tmp_path / "go"

    def wait(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        assert poll(go.exists, Deadline(30))
        return value

    with device(ONE):
        chain = constant(np.ones(2))
        for _ in range(_EACH):
            chain = chain + 1.0
        end = function(wait)(chain)
    with cluster.session() as session, ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.run, end)
        assert poll(
            lambda: any(n.kind == "runs" for n in noted(recorder, cluster, ONE)), Deadline(30)
        )
        go.touch()
        running.result(30)
    cluster.stop()
    *_, last = bars(tell(cluster), ONE, "device")
    assert (last.name, last.open) == (end.op.name, False)
    assert last.facts["seen"].startswith("as it ran")


def test_what_failed(start: Start, tell: Tell) -> None:
    cluster = start(workers=1, ps=1)

    def refuse(value: object) -> object:
        raise ValueError("no such luck")

    with device(PS):
        bad = function(refuse)(constant(1.0))
    with cluster.session() as session, pytest.raises(OpError, match="no such luck"):
        session.run(bad)
    cluster.stop()
    story = tell(cluster)
    failed = {(group.name, bar.kind) for group, _, bar in story.bars() if bar.failed}
    assert failed == {
        ("the test", "session"),
        (ONE, "step"),
        (ONE, "call"),
        (PS, "part"),
        (PS, "op"),
    }
    (seen,) = bars(story, "the test", "sessions")
    assert "no such luck" in seen.facts["error"]
    assert seen.facts["step"] == "step 1"  # though its answer had no number


def test_what_ran_when_a_task_was_killed(start: Start, tell: Tell, recorder: Recorder) -> None:
    cluster = start(workers=1, ps=1)

    def hang(value: object) -> object:
        print("here", flush=True)
        return threading.Event().wait()

    with device(PS):
        stuck = function(hang)(np.add(constant(1.0), 1.0))
    with cluster.session() as session, ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.run, stuck)
        assert poll(lambda: "here" in cluster.ps[0].log.text(), Deadline(30))
        assert poll(
            lambda: any(n.kind == "runs" for n in noted(recorder, cluster, PS)), Deadline(30)
        )
        cluster.ps[0].kill()
        with pytest.raises(UnavailableError):
            running.result(30)
    story = tell(cluster)
    add, hung = (bar for bar in bars(story, PS, "device") if "Const" not in bar.name)
    assert (add.open, hung.open, hung.name) == (False, True, stuck.op.name)
    (life,) = (lane.lives[-1] for lane in recorder.lanes([cluster]) if lane.server.task.job == "ps")
    assert hung.end == life.ended
    (part,) = bars(story, PS, "steps")
    assert part.open


def test_what_runs_at_the_end_is_noted_once_if_it_ends(
    start: Start, tell: Tell, recorder: Recorder, tmp_path: Path
) -> None:
    cluster = start(workers=1, ps=0)
    go = tmp_path / "go"

    def wait(value: float) -> float:
        assert poll(go.exists, Deadline(30))
        return value

    with device(ONE):
        long = function(wait)(placeholder(np.float64, ()))
    fed = long.op.inputs[0]
    with cluster.session() as session, ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.run, long, {fed: 1.0})
        assert poll(
            lambda: any(n.kind == "runs" for n in noted(recorder, cluster, ONE)), Deadline(30)
        )
        go.touch()
        assert running.result(30) == 1.0
    cluster.stop()
    (bar,) = bars(tell(cluster), ONE, "device")
    assert (bar.name, bar.open, "seen" in bar.facts) == (long.op.name, False, False)


def test_steps_of_many_sessions(start: Start, tell: Tell) -> None:
    cluster = start(workers=2, ps=1)
    with device(PS):
        total = Variable(np.zeros(()), name="total")
        step = total.assign_add(constant(1.0))
    with cluster.session() as session:
        session.run(total.initializer)
    with ThreadPoolExecutor(4) as pool:

        def work(number: int) -> None:
            with cluster.session(cluster.workers[number % 2]) as session:
                for _ in range(5):
                    session.run(group(step))

        list(pool.map(work, range(4)))
    story = tell(cluster)
    masters = [*bars(story, ONE, "steps"), *bars(story, TWO, "steps")]
    assert len([bar for bar in masters if bar.kind == "step"]) == 21
    assert len(bars(story, PS, "steps")) == 21
    for _, row, one in story.bars():
        for other in row.bars:
            same_line = other is not one and other.depth == one.depth
            assert not (same_line and one.begin < other.begin < one.end), (row.name, one, other)


def test_a_task_that_cannot_note_anything_serves(
    start: Start, tell: Tell, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = Path("/nowhere/at/all")
    monkeypatch.setattr(recorder, "_new_file", lambda: nowhere)
    cluster = start(workers=1, ps=0)
    with cluster.session() as session:
        assert session.run(constant(1.0)) == 1.0
    assert bars(tell(cluster), ONE, "steps") == []


def test_a_task_that_is_not_asked_imports_nothing_for_it() -> None:
    with LocalCluster(workers=1, ps=0) as cluster:
        (loaded,) = cluster.run(lambda: sorted(sys.modules))
    ours = [name for name in loaded if name.startswith("pytest_localcluster")]
    assert "pytest_localcluster._runtimes.native.executor" in ours
    unwanted = ("_ring", "recorded", "scribe", "_timeline")
    assert [name for name in ours if name.endswith(unwanted)] == []
