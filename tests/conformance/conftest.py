"""One suite for every launcher and runtime: each test runs for each pair that can do it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pytest_localcluster import (
    CommandRuntime,
    LocalCluster,
    Server,
    ServicerRuntime,
    TensorFlowRuntime,
)
from pytest_localcluster._runtimes import find_runtime
from tests.reach import listens

MakeCluster = Callable[..., LocalCluster]

JOBS = ("worker", "ps", "chief")

IMPOSSIBLE = {
    (
        "thread",
        "tensorflow",
    ): "TensorFlow's servers can never be stopped but by their process's end",
    ("thread", "command"): "a program is a process of its own",
}


def add_nothing(server: object, task: object) -> None:
    """Leave the task with the health service alone."""


def make_runtime(name: str) -> Any:
    """Return a runtime of that kind for whatever jobs the tests ask for."""
    if name == "servicers":
        return ServicerRuntime(dict.fromkeys(JOBS, add_nothing))
    if name == "command":
        program = Path(__file__).with_name("program.py")
        command = (sys.executable, "-S", program, "{host}", "{port}")
        return CommandRuntime(dict.fromkeys(JOBS, command))
    if name == "tensorflow":
        # Every task is to listen, also the chief; and nobody else is on the tests' network.
        return TensorFlowRuntime(coordinators=(), insecure=True)
    return find_runtime(name)


# A start has actors and imports to wait for, which on a busy machine takes its time.
RAY = pytest.param("ray", marks=[pytest.mark.needs("ray"), pytest.mark.timeout(400)])
PROCESSES = ["process", RAY]
"""The launchers whose tasks are processes."""


@pytest.fixture(params=["process", "thread", RAY])
def launcher(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "ray":
        request.getfixturevalue("ray_cluster")
    return name


@pytest.fixture(
    params=[
        "native",
        "servicers",
        "command",
        pytest.param("tensorflow", marks=pytest.mark.needs("tensorflow")),
    ]
)
def runtime(request: pytest.FixtureRequest, launcher: str) -> str:
    name: str = request.param
    if (launcher, name) in IMPOSSIBLE:
        pytest.skip(IMPOSSIBLE[launcher, name])
    return name


@pytest.fixture
def python(runtime: str) -> None:
    """Skip where tasks run no functions."""
    if runtime == "command":
        pytest.skip("a program runs no functions of the test")


@pytest.fixture
def make_cluster(launcher: str, runtime: str) -> Iterator[MakeCluster]:
    """Start clusters of this launcher and runtime; they stop with the test."""
    with ExitStack() as running:

        def make(**fields: Any) -> LocalCluster:
            if launcher == "ray":
                fields = {"start_timeout": 180, **fields}
            cluster = LocalCluster(launcher=launcher, runtime=make_runtime(runtime), **fields)
            return running.enter_context(cluster)

        yield make


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> LocalCluster:
    return make_cluster(workers=2, ps=1)


def works(server: Server) -> bool:
    """Tell whether a task does what it is there for."""
    if isinstance(server._life.place.runtime, CommandRuntime):
        return listens(server.address)
    return server.run(lambda: 1, timeout=20) == 1 and listens(server.address)
