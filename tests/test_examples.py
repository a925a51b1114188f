"""Every example of conftest_examples, run by pytest as its reader would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "conftest_examples"

# How many tests pass in each, and what its reader sees.
CASES: dict[str, tuple[int, list[str]]] = {
    "any_program": (3, []),
    "chaos": (1, []),
    "faults": (1, []),
    "first_test": (1, []),
    "on_ray": (1, []),
    "own_services": (4, []),
    "parallel": (8, []),
    "parameter_server": (1, ["held-out accuracy", "steps/s", "cluster start", "cluster stop"]),
    "partition": (1, []),
    "shared_cluster": (5, []),
    "tensorflow": (3, []),
    "torch_all_reduce": (2, []),
    "whole_run": (9, []),
}
# What some need beside pytest-localcluster[test]. `make examples` runs the others only.
NEEDS = {
    "any_program": ("redis", "redis-server"),
    "on_ray": ("ray",),
    "tensorflow": ("tensorflow",),
    "torch_all_reduce": ("torch",),
}


def cases() -> list[Any]:
    return [
        pytest.param(example, marks=pytest.mark.needs(*NEEDS[example]) if example in NEEDS else ())
        for example in CASES
    ]


def run(example: str, *args: str) -> str:
    # The examples are a suite of their own: nothing of the outer run reaches them.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args, example],
        cwd=EXAMPLES,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_no_example_is_forgotten() -> None:
    assert CASES.keys() == {path.parent.name for path in EXAMPLES.glob("*/conftest.py")}


@pytest.mark.parametrize("example", cases())
def test_an_example(example: str) -> None:
    passed, shown = CASES[example]
    output = run(example)
    assert f" {passed} passed" in output
    for text in shown:
        assert text in output


@pytest.mark.parametrize("example", ["parallel", "whole_run"])
def test_an_example_in_parallel(example: str) -> None:
    output = run(example, "-n", "2")
    assert "2 workers" in output
    assert f" {CASES[example][0]} passed" in output


def test_training_shows_its_progress() -> None:
    output = run("parameter_server", "-s")
    assert "worker 0" in output
    assert "worker 1" in output
    assert "400/400" in output
