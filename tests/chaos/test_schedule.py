"""What a seed makes of a chaos(): always the same, and what it takes and refuses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_localcluster import ClusterError, LocalCluster, SpecError, Task, UnsupportedError
from pytest_localcluster._chaos import BETWEEN_TASKS, KINDS, OF_TASKS, schedule

W0, W1, PS0 = Task("worker", 0), Task("worker", 1), Task("ps", 0)
ALL = [W0, W1, PS0]


def draw(seed: int | str, count: int = 200, **changes: Any) -> list[Any]:
    arguments: dict[str, Any] = {"kinds": KINDS, "every": 0.5, "tasks": ALL, "everyone": ALL}
    return list(itertools.islice(schedule(seed, **(arguments | changes)), count))


def test_a_seed_fixes_it_on_every_machine() -> None:
    assert draw(7) == draw(7)
    assert [str(one) for one in draw(7, 3)] == [
        "after 0.412 s: kill /job:worker/task:0, for 0.075 s",
        (
            "after 0.661 s: delay of 0.021 s between /job:ps/task:0 and "
            "/job:worker/task:0, /job:worker/task:1, for 0.047 s"
        ),
        "after 0.293 s: suspend /job:worker/task:0, for 0.209 s",
    ]


def test_another_seed_makes_another() -> None:
    assert draw(7) != draw(8)
    assert draw("seven") != draw(7)


def test_everything_happens_in_time() -> None:
    found = draw(1)
    assert {one.kind for one in found} == set(KINDS)
    assert all(0.25 <= one.after <= 0.75 and 0 <= one.lasts <= 0.5 for one in found)
    for one in found:
        assert bool(one.others) == (one.kind in BETWEEN_TASKS)
        if one.others:
            assert sorted([*one.tasks, *one.others], key=str) == sorted(ALL, key=str)
        else:
            assert len(one.tasks) == 1
        assert bool(one.seconds) == (one.kind == "delay")


def test_some_kinds_and_some_tasks() -> None:
    found = draw(1, kinds=["suspend", "drop"], tasks=[W0, W1])
    assert {one.kind for one in found} == {"suspend", "drop"}
    assert {task for one in found for task in one.tasks} == {W0, W1}
    assert all(PS0 in one.others for one in found if one.others)


@pytest.fixture(scope="module")
def threads() -> Iterator[LocalCluster]:
    with LocalCluster(workers=1, ps=1, launcher="thread") as cluster:
        yield cluster


@pytest.mark.parametrize("every", [0, -1.0, float("inf"), float("nan"), True, "often", None])
def test_a_pause_that_cannot_be(threads: LocalCluster, every: Any) -> None:
    with pytest.raises(SpecError, match="is no pause\n.*use seconds, more than 0"):
        threads.chaos(1, every=every)


@pytest.mark.parametrize("seed", [None, 1.5, True, b"seed"])
def test_a_seed_that_cannot_be(threads: LocalCluster, seed: Any) -> None:
    with pytest.raises(SpecError, match="gives no schedule\n.*use a number, or text"):
        threads.chaos(seed)


def test_a_kind_that_there_is_not(threads: LocalCluster) -> None:
    with pytest.raises(SpecError, match="'murder' is no kind of fault\n.*the kinds are kill, susp"):
        threads.chaos(1, kinds=["murder"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_this_cluster_cannot_do(threads: LocalCluster, kind: str) -> None:
    with pytest.raises(UnsupportedError, match=f"cannot do '{kind}'\n.*launcher='process'.*links"):
        threads.chaos(1, kinds=kind)


def test_no_kind_at_all(threads: LocalCluster) -> None:
    with pytest.raises(UnsupportedError, match="nothing can be done to this cluster"):
        threads.chaos(1)
    with pytest.raises(UnsupportedError, match="nothing can be done to this cluster"):
        threads.chaos(1, kinds=[])


def test_a_task_that_there_is_not(threads: LocalCluster) -> None:
    with pytest.raises(SpecError, match="has no job 'chief'"):
        threads.chaos(1, tasks="chief")


def test_what_a_cluster_can_do_is_what_happens_by_default() -> None:
    with LocalCluster(workers=1, ps=1) as cluster:
        assert cluster.chaos(1).kinds == OF_TASKS
    with LocalCluster(workers=1, ps=1, launcher="thread", links=True) as cluster:
        assert cluster.chaos(1).kinds == BETWEEN_TASKS
    with pytest.raises(ClusterError, match="does not run: it cannot be disturbed"):
        cluster.chaos(1)


def test_one_task_has_nobody_to_be_cut_off_from() -> None:
    with LocalCluster(workers=1, ps=0, links=True) as cluster:
        assert cluster.chaos(1).kinds == OF_TASKS
        with pytest.raises(UnsupportedError, match="cannot do 'drop'"):
            cluster.chaos(1, kinds=["drop"])
