"""What a test module defines is at home in a task, and in the processes that a task starts."""

from __future__ import annotations

import enum
import multiprocessing
import pickle
import typing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock

import pytest

from pytest_localcluster import LocalCluster
from tests.conformance.conftest import PROCESSES

pytestmark = pytest.mark.usefixtures("python")

counter = 0


class Colour(enum.Enum):
    RED = 1


class Sample(NamedTuple):
    x: float


@dataclass
class Pair:
    left: Sample
    right: Pair | None = None


def square(x: int) -> int:
    return x * x


def ask_square(x: int) -> int:
    return square(x)


def round_trip(value: Any) -> bool:
    again = pickle.loads(pickle.dumps(value))
    return again is value if isinstance(value, (type, enum.Enum)) else bool(again == value)


def pool_of(method: str) -> list[int]:
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return list(pool.map(square, [1, 2, 3]))


@pytest.mark.parametrize(
    "value",
    [Sample, square, Sample(1.0), Colour.RED, Pair(Sample(1.0))],
    ids=lambda v: f"{v}"[:9],
)
def test_what_the_test_module_defines_pickles_in_a_task(
    cluster: LocalCluster, value: object
) -> None:
    assert cluster.run(round_trip, value) == [True, True]


def test_a_class_is_the_same_class_in_every_call(cluster: LocalCluster) -> None:
    ps = cluster.ps[0]
    assert ps.run(lambda: id(Sample)) == ps.run(lambda: id(Sample))
    assert ps.run(lambda: Pair(Sample(1.0))) == Pair(Sample(1.0))
    assert ps.run(lambda: Sample) is Sample


def test_type_hints_and_patches_find_the_module(cluster: LocalCluster) -> None:
    def look() -> tuple[int, int, bool]:
        with mock.patch(f"{__name__}.square", return_value=-1):
            patched = ask_square(3)
        return patched, ask_square(3), typing.get_type_hints(Pair)["left"] is Sample

    assert cluster.ps[0].run(look) == (-1, 9, True)


def test_a_changed_global_is_seen_by_the_next_call(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster.ps[0].run(lambda: counter) == 0
    monkeypatch.setattr(f"{__name__}.counter", 5)
    assert cluster.ps[0].run(lambda: counter) == 5


@pytest.mark.parametrize("launcher", PROCESSES, indirect=True)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_a_task_find_the_test_module(cluster: LocalCluster, method: str) -> None:
    assert cluster.ps[0].run(pool_of, method, timeout=60) == [1, 4, 9]
