"""Clusters of the user's own services, on both launchers."""

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


@pytest.fixture
def make_cluster(launcher: str) -> Iterator[MakeCluster]:
    """Start clusters of this launcher, without tasks that are not asked for."""
    with ExitStack() as running:

        def make(runtime: Any, **fields: Any) -> LocalCluster:
            fields = {"workers": 0, "ps": 0, "launcher": launcher, **fields}
            return running.enter_context(LocalCluster(runtime=runtime, **fields))

        yield make
