"""What a run pays before its first cluster: the plugin's import and hooks, and the first start."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ._measure import Row

# Each run is a fresh interpreter.
PYTEST = ["-q", "-p", "no:cacheprovider"]

IMPORT = """
import json, time, pytest, argparse, dataclasses
start = time.perf_counter()
import pytest_localcluster.plugin
print(json.dumps({"import": time.perf_counter() - start}))
"""

FIRST_START = """
import json, time
from pytest_localcluster import LocalCluster
cluster = LocalCluster(workers=2, ps=2)
start = time.perf_counter()
cluster.start()
print(json.dumps({"start": time.perf_counter() - start}))
cluster.stop()
"""

# Runs pytest in its own process and adds up the processor time of what is ours: the plugin's
# import, each of its hooks, and children if any. What a whole run takes with it and without differs
# by less than two runs do. Hooks that call others of ours, and generators, which are entered
# more than once, count once.
UNUSED = """
import contextlib, functools, importlib.metadata, inspect, io, json, resource, sys, time
import pytest

spent, depth = 0.0, 0

@contextlib.contextmanager
def ours():
    global spent, depth
    depth += 1
    start = time.process_time()
    try:
        yield
    finally:
        depth -= 1
        if not depth:
            spent += time.process_time() - start

def timed(function):
    if inspect.isgeneratorfunction(function):
        @functools.wraps(function)
        def wrapper(*args):
            with ours():
                steps = function(*args)
                next(steps)
            try:
                result = yield
            except BaseException as error:
                resume, value = steps.throw, error
            else:
                resume, value = steps.send, result
            with ours():
                try:
                    resume(value)
                except StopIteration as stop:
                    return stop.value
    else:
        @functools.wraps(function)
        def wrapper(*args):
            with ours():
                return function(*args)
    return wrapper

def load(entry_point, load=importlib.metadata.EntryPoint.load):
    if entry_point.module.partition(".")[0] != "pytest_localcluster":
        return load(entry_point)
    with ours():
        plugin = load(entry_point)
    for name, value in vars(plugin).copy().items():
        if name.startswith("pytest_") and callable(value):
            setattr(plugin, name, timed(value))
    return plugin

class Registered:
    def pytest_plugin_registered(self, plugin, manager):
        if type(plugin).__module__.partition(".")[0] != "pytest_localcluster":
            return
        for caller in manager.get_hookcallers(plugin) or ():
            for implementation in caller.get_hookimpls():
                if implementation.plugin is plugin:
                    implementation.function = timed(implementation.function)

importlib.metadata.EntryPoint.load = load
with contextlib.redirect_stdout(io.StringIO()):
    status = pytest.main(sys.argv[1:], plugins=[Registered()])
children = resource.getrusage(resource.RUSAGE_CHILDREN)
spent += children.ru_utime + children.ru_stime
assert status == 0 and "pytest_localcluster.plugin" in sys.modules
print(json.dumps({"spent": spent}))
"""

# Notes how long the fixture of each test takes to set up.
NOTES = """
import json, os, time
import pytest

noted = []

@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    start = time.perf_counter()
    try:
        return (yield)
    finally:
        if fixturedef.argname == "local_cluster":
            noted.append(time.perf_counter() - start)

def pytest_unconfigure(config):
    with open(os.environ["NOTES"], "w") as notes:
        json.dump(noted, notes)
"""
OTHERS = {
    "waiting": "time.sleep(0.1)",
    "working": "end = time.monotonic() + 0.1\n    while time.monotonic() < end: pass",
}
SUITE = """
import time
import pytest

@pytest.mark.parametrize("n", range(10))
def test_other(n):
    {other}

@pytest.mark.cluster(workers=2, ps=2)
@pytest.mark.parametrize("n", range(3))
def test_cluster(local_cluster, n):
    pass
"""


def told(code: str, *args: str) -> dict[str, float]:
    """Run a program; return what it printed last, in milliseconds."""
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, check=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {name: seconds * 1000 for name, seconds in found.items()}


def median(what: str, found: list[float], **fields: Any) -> Row:
    return Row(what, statistics.median(found), laps=len(found), **fields)


def unused(repeat: int) -> Iterator[Row]:
    """What a suite pays that uses no cluster."""
    imports = [told(IMPORT)["import"] for _ in range(repeat)]
    yield median("import of the plugin", imports, budget=5)
    with tempfile.TemporaryDirectory() as folder:
        test = Path(folder, "test_nothing.py")
        test.write_text("def test_nothing(): pass\n", encoding="utf-8")
        spent = [told(UNUSED, *PYTEST, str(test))["spent"] for _ in range(repeat)]
    yield median("CPU added to a run that uses none", spent, budget=5)


def first(repeat: int) -> Iterator[Row]:
    """What the first start pays more than others: by itself, and after a second of other tests."""
    starts = [told(FIRST_START)["start"] for _ in range(repeat)]
    yield median("first start of 2+2, process", starts)
    for kind, other in OTHERS.items():
        waits = [longer(other) for _ in range(repeat)]
        yield median(f"first wait, after 1 s of others {kind}", waits, budget=30)


def longer(other: str) -> float:
    """Return how many ms longer the first test with a cluster waits for it than the second."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "conftest.py").write_text(NOTES, encoding="utf-8")
        Path(folder, "test_it.py").write_text(SUITE.format(other=other), encoding="utf-8")
        notes = Path(folder, "notes.json")
        subprocess.run(
            [sys.executable, "-m", "pytest", *PYTEST, folder],
            cwd=folder,
            env=os.environ | {"NOTES": str(notes)},
            capture_output=True,
            check=True,
        )
        waits = json.loads(notes.read_text(encoding="utf-8"))
    return float(waits[0] - waits[1]) * 1000
