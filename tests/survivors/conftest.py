"""Runs of pytest that are ended, each in a folder of its own; nothing of them outlives its test."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.survivors.runs import Run

Start = Callable[..., Run]
Record = Callable[[float], None]

_SECONDS = "seconds until nobody was left"


@pytest.fixture(autouse=True, scope="session")
def sigint_means_something() -> None:
    """Whoever is started in the background of a script ignores it, and so do all below."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Note how long it took after the end of a run until nobody was left."""
    return lambda seconds: request.node.user_properties.append((_SECONDS, seconds))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.getreports("passed")
    recorded = [
        value for report in reports for name, value in report.user_properties if name == _SECONDS
    ]
    if recorded:
        longest = max(map(float, recorded))
        terminalreporter.write_line(f"{_SECONDS}: {longest:.2f} at most, of {len(recorded)} ends")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a run of a suite: ``start(suite, *args, **environ)``."""
    with ExitStack() as stack:

        def run(suite: str, *args: str, **environ: str) -> Run:
            folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            return stack.enter_context(Run(folder, suite, *args, **environ))

        yield run
