"""What tests of ``scope="run"`` share: the conftest of inner runs, and what that has noted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_localcluster._clusterfile import ProcessId

__all__ = ["conftest", "living", "notes", "tasks"]

CONFTEST = """
import json, os, signal
from pathlib import Path
import pytest
from pytest_localcluster import *
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._clusterfile import ProcessId
from pytest_localcluster._steward import link

def note(**facts):
    with open("notes", "a") as file:
        file.write(json.dumps({"worker": os.getpid(), **facts}) + "\\n")

def started(listener, original=link._start):
    original(listener)
    note(steward=True)

link._start = started

def seen(cluster):
    "Note who is in a cluster, by pid and birth."
    processes = [ProcessId.of(server.pid) for server in cluster.servers]
    steward = cluster._steward
    note(tasks=[[p.pid, p.born] for p in processes], steward=[steward.pid, steward.born])
    return [server.pid for server in cluster.servers]

def wait_for(check):
    assert poll(check, Deadline(60))

def once():
    "Tell whether this was not called before, by whichever worker."
    try:
        Path("once").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

def starter():
    return json.loads(Path("notes").read_text().splitlines()[0])["worker"]
"""


def notes(pytester: pytest.Pytester) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (pytester.path / "notes").read_text().splitlines()]


def tasks(pytester: pytest.Pytester) -> set[tuple[tuple[int, str], ...]]:
    """Return the sets of processes that tests have seen, each by pid and birth."""
    found = (note["tasks"] for note in notes(pytester) if "tasks" in note)
    return {tuple((pid, born) for pid, born in one) for one in found}


def living(pytester: pytest.Pytester) -> list[int]:
    """Return who is left of all tasks and stewards that tests have seen."""
    seen = {tuple(note["steward"]) for note in notes(pytester) if "tasks" in note}
    seen.update(process for one in tasks(pytester) for process in one)
    return [pid for pid, born in seen if ProcessId(pid, born).lives()]


@pytest.fixture(autouse=True)
def conftest(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
