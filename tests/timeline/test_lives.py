"""What is told of tasks whatever they run: lives, faults, functions, what they print and when."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic_ns

import pytest

from pytest_localcluster import CommandRuntime, LocalCluster, ServicerRuntime
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._timeline.recorder import Recorder
from pytest_localcluster._timeline.story import Bar, Mark, Row, Story
from tests.timeline.conftest import Start, Tell

PS, WORKER = "/job:ps/task:0", "/job:worker/task:0"
SOON = 5_000_000_000
"""Nanoseconds that are many times what it takes, also on a busy machine."""


def row(story: Story, task: str, name: str) -> Row:
    (group,) = (group for group in story.groups if group.name == task)
    return next((row for row in group.rows if row.name == name), Row(name))


def states(story: Story, task: str) -> list[str]:
    return [bar.name for bar in row(story, task, "life").bars]


def marks(story: Story, task: str) -> list[str]:
    return [mark.name for mark in sorted(row(story, task, "life").marks, key=lambda m: m.at)]


@pytest.mark.parametrize("launcher", ["process", "thread"])
def test_a_life_in_peace(start: Start, tell: Tell, launcher: str) -> None:
    before = monotonic_ns()
    cluster = start(workers=1, ps=0, launcher=launcher)
    up = monotonic_ns()
    cluster.stop()
    story = tell(cluster)
    starting, running, stopping = row(story, WORKER, "life").bars
    assert [starting.name, running.name, stopping.name] == ["starting", "running", "stopping"]
    assert before <= starting.begin < starting.end == running.begin <= up
    assert up <= running.end == stopping.begin < stopping.end <= story.end
    assert marks(story, WORKER) == ["ready", "asked to stop", "stopped: exited with status 0"]
    assert not any(mark.failed for _, _, mark in story.marks())


def test_faults_and_deaths(start: Start, tell: Tell) -> None:
    cluster = start(workers=2, ps=1)
    ps, one, two = cluster.ps[0], *cluster.workers
    ps.suspend()
    ps.resume()
    ps.kill()
    ps.restart()
    one.run(lambda: os.getppid())
    died = monotonic_ns()
    os.kill(one.pid or 0, signal.SIGSEGV)
    assert one.join(30, check=False) == -signal.SIGSEGV
    two.kill(signal.SIGTERM)
    two.join(30)
    cluster.stop()
    story = tell(cluster)
    assert states(story, PS) == [
        *("starting", "running", "suspended", "running"),
        *("starting", "running", "stopping"),
    ]
    assert marks(story, PS) == [
        "ready",
        "suspended",
        "resumed",
        "kill SIGKILL",
        "was killed by SIGKILL, after the test's SIGKILL",
        "ready",
        "asked to stop",
        "stopped: exited with status 0",
    ]
    assert marks(story, WORKER)[-1] == "died on its own: was killed by SIGSEGV"
    assert marks(story, "/job:worker/task:1")[-2:] == [
        "kill SIGTERM",
        "was killed by SIGTERM, after the test's SIGTERM",
    ]
    failed = [mark for _, _, mark in story.marks() if mark.failed]
    assert [mark.name for mark in failed] == ["died on its own: was killed by SIGSEGV"]
    assert died <= failed[0].at <= died + SOON


def test_faults_between_tasks(start: Start, tell: Tell) -> None:
    cluster = start(workers=2, ps=1, links=True)
    with cluster.partition("worker", "ps"):
        inside = monotonic_ns()
    outside = monotonic_ns()
    cluster.delay(cluster.workers[0], cluster.ps[0], 0.001)
    story = tell(cluster)
    assert {group.name for group in story.groups} == {
        *("the test", PS, WORKER, "/job:worker/task:1"),
    }, "what runs the links is none of the tasks"
    cut, slow = row(story, WORKER, "faults").bars
    assert cut.name == f"partition between {WORKER}, /job:worker/task:1 and {PS}"
    assert cut.begin <= inside <= cut.end <= outside <= slow.begin
    assert (cut.open, slow.open, slow.end) == (False, True, story.end)
    (other,) = row(story, "/job:worker/task:1", "faults").bars
    assert other.name == cut.name


def test_functions(start: Start, tell: Tell) -> None:
    cluster = start(workers=1, ps=0)
    worker = cluster.workers[0]

    def refuse() -> None:
        raise KeyError("none")

    # The second one waits for the first, which is no part of how long it takes.
    first = worker.submit(lambda: threading.Event().wait(0.05))
    second = worker.submit(refuse)
    first.result(30)
    with pytest.raises(KeyError):
        second.result(30)
    worker.submit(lambda: threading.Event().wait())
    story = tell(cluster)
    one, two, three = row(story, WORKER, "functions").bars
    assert (one.name, two.name) == (
        "test_functions.<locals>.<lambda>",
        "test_functions.<locals>.refuse",
    )
    assert one.end - one.begin > 50_000_000
    assert one.end <= two.begin <= two.end <= three.begin <= three.end
    assert (one.failed, two.failed, two.facts["error"]) == (False, True, "KeyError: 'none'")
    assert (three.open, two.open) == (True, False)


def test_lines_at_their_moment(start: Start, tell: Tell) -> None:
    cluster = start(workers=2, ps=0)
    one, two = cluster.workers
    begun = monotonic_ns()
    said = one.run(lambda: (print("first"), monotonic_ns())[1])
    again = two.run(lambda: (print("second\nthird"), monotonic_ns())[1])
    two.run(print, "rest", end="", flush=True)
    cluster.stop()
    story = tell(cluster)
    (first,) = row(story, WORKER, "log").marks
    second, third, rest = row(story, "/job:worker/task:1", "log").marks
    assert [mark.name for mark in (first, second, third, rest)] == [
        "first",
        "second",
        "third",
        "rest",
    ]
    assert begun <= first.at <= said + SOON
    assert said <= second.at <= again + SOON
    assert second.at <= third.at <= rest.at


def test_a_flood_of_lines_is_bounded(start: Start, tell: Tell) -> None:
    cluster = start(workers=1, ps=0)
    cluster.run(lambda: print("\n".join(map(str, range(100_000)))))
    cluster.stop()
    story = tell(cluster)
    lines = row(story, WORKER, "log").marks
    assert len(lines) <= 2000
    assert lines[-1].name == "99999"
    assert story.left_out == [f"{WORKER}: {100_000 - len(lines)} lines of its log"]


def test_servicers_and_commands(start: Start, tell: Tell) -> None:
    command = CommandRuntime(ps=["sh", "-c", "echo up; exec sleep 1000"], ready=re.compile("up"))
    cluster = start(
        workers=1,
        ps=1,
        runtime={"worker": ServicerRuntime(worker=lambda server: None), "ps": command},
    )
    cluster.workers[0].run(print, "served")
    cluster.ps[0].kill()
    story = tell(cluster)
    notes = {group.name: group.note.partition(" ")[0] for group in story.groups}
    assert notes == {"the test": "", WORKER: "servicer", PS: "command"}
    assert [mark.name for mark in row(story, WORKER, "log").marks] == ["served"]
    assert [mark.name for mark in row(story, PS, "log").marks] == ["up"]
    assert marks(story, PS)[-1] == "was killed by SIGKILL, after the test's SIGKILL"


def test_a_death_that_is_noticed_when_it_is_told(start: Start, tell: Tell) -> None:
    cluster = start(workers=1, ps=1)
    cluster.ps[0].kill()
    story = tell(cluster)
    death = row(story, PS, "life").marks[-1]
    assert death.kind == "death"
    assert death.at <= story.end
    assert row(story, PS, "life").bars[-1].end <= story.end


def test_only_what_the_test_saw(start: Start, tell: Tell, recorder: Recorder) -> None:
    wide = start(workers=1, ps=0)
    wide.run(print, "before")
    recorder.begin()
    wide.run(print, "now")
    own = start(workers=1, ps=0)
    own.stop()
    story = tell(wide, own)
    assert [group.name for group in story.groups] == [
        *("the test", f"cluster 1 {WORKER}", f"cluster 2 {WORKER}")
    ]
    assert states(story, f"cluster 1 {WORKER}") == ["running"]
    assert [m.name for m in row(story, f"cluster 1 {WORKER}", "log").marks] == ["now"]
    assert len(row(story, f"cluster 1 {WORKER}", "functions").bars) == 1
    assert all(bar.begin >= story.begin for _, _, bar in story.bars())
    recorder.stopped(own)
    recorder.forget(own)
    assert not any(lane.server.cluster is own for lane in recorder.lanes([wide]))


def test_nothing_is_left(start: Start, recorder: Recorder) -> None:
    cluster = start(workers=2, ps=1)
    (folder,) = {Path(lane.lives[0].notes).parent for lane in recorder.lanes([cluster])}
    assert len(list(folder.iterdir())) == 3
    cluster.stop()
    recorder.stopped(cluster)
    assert not [t for t in threading.enumerate() if t.name == "pytest-localcluster-timeline"]
    recorder.forget(cluster)
    assert list(folder.iterdir()) == []
    recorder.close()
    assert not folder.exists()


def test_a_start_that_fails(recorder: Recorder, tell: Tell) -> None:
    cluster = LocalCluster(workers=1, ps=0, runtime=CommandRuntime(worker=["false"]))
    with pytest.raises(Exception, match="exited with status 1"):
        cluster.start()
    recorder.stopped(cluster)
    story = tell(cluster)
    assert "starting" in states(story, WORKER)
    assert marks(story, WORKER)[-1] == "died on its own: exited with status 1"


def test_a_death_is_seen_without_descriptors_of_processes(
    start: Start, tell: Tell, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    cluster = start(workers=1, ps=0)
    os.kill(cluster.workers[0].pid or 0, signal.SIGKILL)
    (lane,) = recorder.lanes([cluster])
    assert poll(lambda: lane.lives[0].ended, Deadline(30))
    cluster.workers[0].join(30, check=False)


def test_a_fork_of_the_test_process_records_nothing() -> None:
    code = (
        "import os\n"
        "from pytest_localcluster import _moments\n"
        "from pytest_localcluster._timeline.recorder import Recorder\n"
        "_moments.record(Recorder())\n"
        "pid = os.fork()\n"
        "if not pid: os._exit(_moments.recorder() is not None)\n"
        "assert _moments.recorder() is not None and os.waitpid(pid, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bars_that_overlap_have_lines_of_their_own() -> None:
    made = Row("it")
    spans = [(0, 10), (2, 4), (4, 6), (3, 5), (10, 12), (0, 3)]
    made.bars = [Bar("op", str(span), *span) for span in spans]
    assert made.stack() == 3
    for one in made.bars:
        for other in made.bars:
            overlap = one is not other and one.begin < other.end and other.begin < one.end
            assert not overlap or one.depth != other.depth
    made.marks = [Mark("log", "x", 1)]
    assert Row("empty").stack() == 1
