"""Objects of tests that go into a task though pickle does not take them as they are."""

from __future__ import annotations

import functools
import unittest
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_localcluster import LocalCluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=1, ps=0) as cluster:
        yield cluster


class Loader:
    """Has a lazy property, which holds a lock on Python 3.11."""

    @functools.cached_property
    def rows(self) -> list[int]:
        """The rows."""
        return [1, 2]

    @functools.singledispatchmethod
    def size(self, value: object) -> int:
        return 0

    @size.register
    def _(self, value: list) -> int:  # type: ignore[type-arg]
        return len(value)


@functools.singledispatch
def depth(value: object) -> int:
    """Return how deep it is nested."""
    return 0


@depth.register
def depth_of_list(value: list) -> int:  # type: ignore[type-arg]
    return 1 + max(map(depth, value), default=0)


@depth.register
def depth_of_loader(value: Loader) -> int:
    return 100


def test_lazy_properties(cluster: LocalCluster) -> None:
    loader = Loader()
    assert cluster.run(lambda: (Loader().rows, loader.rows, Loader.rows.__doc__)) == [
        ([1, 2], [1, 2], "The rows.")
    ]
    assert "rows" not in vars(loader)

    class Local(Loader):
        @functools.cached_property
        def more(self) -> list[int]:
            return self.rows * 2

    assert cluster.run(lambda: Local().more) == [[1, 2, 1, 2]]


def test_dispatchers(cluster: LocalCluster) -> None:
    def named(function: Any) -> object:
        return function.__name__

    assert cluster.run(depth, [[1]]) == [2]
    assert cluster.run(lambda: (depth(Loader()), depth([[]]), depth(1))) == [(100, 2, 0)]
    assert cluster.run(lambda: (named(depth), depth.__doc__, depth.dispatch(bool)(True))) == [
        ("depth", "Return how deep it is nested.", 0)
    ]
    assert cluster.run(lambda: (Loader().size([1]), Loader().size(1))) == [(1, 0)]


def test_a_dispatcher_of_a_function(cluster: LocalCluster) -> None:
    class Local:
        pass

    @functools.singledispatch
    def name(value: object) -> str:
        return "object"

    @name.register(Local)
    def _(value: Local) -> str:
        return "local"

    assert cluster.run(lambda: (name(Local()), name(1))) == [("local", "object")]


@pytest.mark.cluster(workers=1, ps=1)
@pytest.mark.usefixtures("local_cluster")
class TestCases(unittest.TestCase):
    local_cluster: LocalCluster

    def setUp(self) -> None:
        self.number = 4
        self.addCleanup(lambda: None)

    def rank(self) -> tuple[int, str]:
        self.assertEqual(self.number, 4)  # noqa: PT009
        return self.number, self.local_cluster.ps[0].address

    def test_a_method(self) -> None:
        expected = [(4, self.local_cluster.ps[0].address)]
        assert self.local_cluster.run(self.rank) == expected
        with self.subTest():
            assert self.local_cluster.run(lambda: self.rank()) == expected

    def test_an_assertion(self) -> None:
        with pytest.raises(AssertionError, match="1 != 2"):
            self.local_cluster.run(self.assertEqual, 1, 2)

    def test_what_the_test_adds(self) -> None:
        self.held: Any = (number for number in (1, 2))
        with pytest.raises(TypeError, match="self.held is a generator"):
            self.local_cluster.run(self.rank)


@pytest.mark.cluster(workers=1, ps=1)
@pytest.mark.usefixtures("local_cluster")
class TestAsyncCases(unittest.IsolatedAsyncioTestCase):
    local_cluster: LocalCluster

    def rank(self) -> str:
        return self.id()

    async def test_a_method(self) -> None:
        assert self.local_cluster.run(self.rank) == [self.id()]
        assert "Exception ignored" not in self.local_cluster.workers[0].log.text()


class TestMarked:
    @pytest.mark.parametrize("held", [(number for number in (1, 2))])
    def test_marks_stay(self, cluster: LocalCluster, held: object) -> None:
        assert cluster.run(lambda: type(self).__name__) == ["TestMarked"]
