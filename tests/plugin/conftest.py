"""pytest inside of tests: in this process where no cluster starts, else in one of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_localcluster import LocalCluster, __version__
from pytest_localcluster._handover import file_of
from tests.plugin.typist import Typist

Run = Callable[..., pytest.RunResult]

INI = """
[pytest]
asyncio_default_fixture_loop_scope = function
addopts = -p no:cacheprovider -p no:hypothesispytest
"""


@pytest.fixture(autouse=True)
def clean_environment(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide from the inner pytest that the outer one may be a worker of xdist, or run in a CI."""
    xdist = "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"
    # In a CI pytest's summary repeats each error in full.
    for name in (*xdist, "CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeini(INI)


@pytest.fixture
def ini(pytester: pytest.Pytester) -> Callable[[str], object]:
    """Add to the inner pytest's ini file."""
    return lambda text: pytester.makeini(INI + text)


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Run pytest in a process of its own."""
    return lambda *args: pytester.runpytest_subprocess(*args, timeout=100)


@pytest.fixture(params=["plain", "xdist"])
def run_both(request: pytest.FixtureRequest, run: Run) -> Run:
    """Run pytest in a process of its own, without and with xdist."""
    mode = ["-n", "2", "--dist=loadfile"] if request.param == "xdist" else ["-p", "no:xdist"]
    return lambda *args: run(*mode, *args)


@pytest.fixture
def at_a_terminal(pytester: pytest.Pytester) -> Iterator[Callable[..., Typist]]:
    """Run pytest at a terminal, where somebody types."""
    started: list[Typist] = []

    def start(*args: str) -> Typist:
        started.append(Typist(*args))
        return started[-1]

    yield start
    for typist in started:
        typist.close()


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """Start a cluster that is not of the inner pytest."""
    with LocalCluster(workers=2, ps=1, jobs={"chief": 1}) as cluster:
        yield cluster


@pytest.fixture
def path(cluster: LocalCluster, tmp_path: Path) -> Path:
    """Write its file."""
    path = tmp_path / "cluster.json"
    file_of(cluster, __version__).write(path)
    return path
