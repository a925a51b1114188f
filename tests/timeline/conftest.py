"""Clusters whose every moment is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from time import monotonic_ns
from typing import Any

import pytest

from pytest_localcluster import LocalCluster, _moments
from pytest_localcluster._timeline.recorder import Recorder
from pytest_localcluster._timeline.story import Story
from pytest_localcluster._timeline.telling import tell_story

Start = Callable[..., LocalCluster]
Tell = Callable[..., Story]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Record all that happens in this test."""
    recorder = Recorder()
    previous = _moments.record(recorder)
    yield recorder
    _moments.record(previous)
    recorder.close()


@pytest.fixture
def start(recorder: Recorder) -> Iterator[Start]:
    """Start a cluster that is recorded."""
    with ExitStack() as stack:

        def start(**fields: Any) -> LocalCluster:
            cluster = LocalCluster(**fields)
            stack.callback(recorder.stopped, cluster)
            return stack.enter_context(cluster)

        yield start


@pytest.fixture
def tell(recorder: Recorder) -> Tell:
    """Return the story of some clusters, up to now."""

    def tell(*clusters: LocalCluster, test: str = "test_it", failure: str = "") -> Story:
        for cluster in clusters:
            if cluster._open is None:
                recorder.stopped(cluster)  # as the plugin does when it hears of it
        outcome = "failed" if failure else "passed"
        return tell_story(recorder, clusters, test, outcome, failure, monotonic_ns())

    return tell
