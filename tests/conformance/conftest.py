"""One suite for every launcher and runtime: each test runs for each pair that can do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pytest_localcluster import LocalCluster

MakeCluster = Callable[..., LocalCluster]


@pytest.fixture(params=["process", "thread"])
def launcher(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=["native"])
def runtime(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def make_cluster(launcher: str, runtime: str) -> Iterator[MakeCluster]:
    """Start clusters of this launcher and runtime; they stop with the test."""
    with ExitStack() as running:

        def make(**fields: Any) -> LocalCluster:
            cluster = LocalCluster(launcher=launcher, runtime=runtime, **fields)
            return running.enter_context(cluster)

        yield make


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> LocalCluster:
    return make_cluster(workers=2, ps=1)
