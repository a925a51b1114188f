"""What all tests share: they leave no process and no thread behind."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psutil
import pytest

from pytest_localcluster._clock import Deadline, poll

Living = psutil.Process | threading.Thread


@pytest.fixture(scope="session")
def first_seen() -> dict[Living, str]:
    """Remember after which module each process and thread was first seen."""
    return {}


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left(first_seen: dict[Living, str]) -> Iterator[None]:
    """Fail the run if there are processes or threads in the end that were not there at first.

    Only in the end, since fixtures of wide scopes may bring up in one test what others use.
    """
    before = _living()
    yield
    poll(lambda: _living() <= before, Deadline(10))
    left = {one: first_seen.get(one, "the last module") for one in _living() - before}
    assert not left, f"left behind, and the module after which each was first seen: {left}"


@pytest.fixture(scope="module", autouse=True)
def seen(request: pytest.FixtureRequest, first_seen: dict[Living, str]) -> Iterator[None]:
    """Note what there is after a module."""
    yield
    for one in _living():
        first_seen.setdefault(one, request.node.nodeid)


def _living() -> set[Living]:
    """Return all threads, and all processes below this one but those that fork tasks.

    The forkservers are started when first needed, and end with the run.
    """
    processes = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.update(child.children(recursive=True))
            if "pytest_localcluster" not in " ".join(child.cmdline()):
                processes.add(child)
    return processes | set(threading.enumerate())
