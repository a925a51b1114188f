"""What two processes make of the same source has one fingerprint; all else has another."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pytest_localcluster import ClusterConfig
from pytest_localcluster._fingerprint import fingerprint

# Whatever a marker may hold, made in a module of its own, with strings hashed by a seed of its own.
SOURCE = """
import functools, re
from pathlib import Path
import numpy as np
from pytest_localcluster import ClusterConfig, CommandRuntime, ConfigProto, ServicerRuntime

class Adder:
    def __init__(self, names):
        self.names = names
        self.me = self
    def add(self, server, task):
        return {"a", "b", "c"}

def closure(value):
    def add(server, task, *, default=3):
        return [value for _ in {"x", "y", "z"}]
    return add

ADDERS = {
    "worker": [closure(1), functools.partial(closure(2), default=4)],
    "ps": Adder({"one", "two", "three", "four"}).add,
}
CONFIGS = [
    ClusterConfig(),
    ClusterConfig(workers=2, jobs={"chief": 1}),
    ClusterConfig(runtime=ServicerRuntime(ADDERS)),
    ClusterConfig(runtime=CommandRuntime(ps=["a"], ready=re.compile("up", re.I))),
    ClusterConfig(runtime=CommandRuntime(ps=["a"], ready=re.compile("up"))),
    ClusterConfig(runtime=CommandRuntime(ps=["a"], ready="tcp")),
    ClusterConfig(env=lambda task: {name: "1" for name in {"A", "B"}}),
    ClusterConfig(env=lambda task: {name: "2" for name in {"A", "B"}}),
    ClusterConfig(env={name: "1" for name in {"A", "B", "C", "D"}}),
    ClusterConfig(worker_config=ConfigProto(intra_op_parallelism_threads=2)),
    ClusterConfig(worker_config=ConfigProto(intra_op_parallelism_threads=3)),
    (Path("/a"), np.arange(3), np.zeros(3), np.dtype("<f4"), 1.0, 2j, b"x", len, ..., "x".upper),
]
"""


def test_processes_agree_and_tell_all_apart(tmp_path: Path) -> None:
    (tmp_path / "same_source.py").write_text(SOURCE)
    code = (
        "from same_source import CONFIGS\n"
        "from pytest_localcluster._fingerprint import fingerprint\n"
        "print(*map(fingerprint, CONFIGS))\n"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        for seed in ("1", "2")
    ]
    assert [one.stderr for one in told] == ["", ""]
    (first, second) = (one.stdout.split() for one in told)
    assert first == second
    assert len(set(first)) == len(first) == 12


def test_what_is_equal_as_a_config_is_equal_here() -> None:
    assert fingerprint(ClusterConfig()) == fingerprint(ClusterConfig(workers=1, ps=1))
    one, other = ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert fingerprint(ClusterConfig(jobs=one)) == fingerprint(ClusterConfig(jobs=other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        ("1", b"1"),
        ((1, 2), [1, 2]),
        ((1, 2), (2, 1)),
        ((1, (2,)), (1, 2)),
        ({1: 2}, {(1, 2)}),
        (lambda: 1, lambda: 2),
        (lambda x=1: x, lambda x=2: x),
        (int, float),
        (ClusterConfig, ClusterConfig()),
    ],
)
def test_what_differs(one: Any, other: Any) -> None:
    assert fingerprint(one) != fingerprint(other)


def test_what_contains_itself() -> None:
    one: list[object] = [1]
    one.append(one)
    other: list[object] = [2]
    other.append(other)
    assert fingerprint(one) != fingerprint(other)


def test_what_nobody_can_take_apart() -> None:
    with pytest.raises(TypeError, match="pickle"):
        fingerprint([threading.Lock()])
