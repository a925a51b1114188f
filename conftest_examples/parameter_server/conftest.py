"""The digits to learn, a progress bar for each worker, and a summary at the end of the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sklearn.datasets import load_digits

from pytest_localcluster import LocalCluster


@dataclass
class Report:
    """What a training run shows at the end, when its cluster has stopped."""

    cluster: LocalCluster | None = None
    results: dict[str, str] = field(default_factory=dict)


REPORT = pytest.StashKey[Report]()


@pytest.fixture(scope="session")
def digits() -> tuple[Any, ...]:
    """1797 handwritten digits of 8 x 8 pixels, shuffled, every fourth one held out.

    Returns images (float64, 64 pixels each, 0 to 1) and labels to train with, then to test with.
    """
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order] / 16, labels[order]
    held_out = np.arange(len(labels)) % 4 == 0
    return images[~held_out], labels[~held_out], images[held_out], labels[held_out]


@pytest.fixture
def progress() -> Iterator[Progress]:
    """Shows live with ``pytest -s``."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn()) as progress:
        yield progress


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    return request.config.stash.setdefault(REPORT, Report())


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    report = config.stash.get(REPORT, Report())
    cluster = report.cluster
    if cluster is None or cluster.start_seconds is None or cluster.stop_seconds is None:
        return
    terminalreporter.section("asynchronous SGD, 2 workers and 2 parameter servers")
    for name, value in {
        **report.results,
        "cluster start": f"{cluster.start_seconds * 1000:.1f} ms",
        "cluster stop": f"{cluster.stop_seconds * 1000:.1f} ms",
    }.items():
        terminalreporter.line(f"{name:>20}  {value}")
