"""What the n-th cluster of a process is, and what happens to it: by the seed, and nothing else."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytest_localcluster import CommandRuntime, ServicerRuntime, TensorFlowRuntime
from tests.servicers.services import add_echo

from .faults import ENDINGS, FAULTS, LINK_ENDINGS, LINK_FAULTS, THREAD_FAULTS

__all__ = ["Plan", "draw"]

PROGRAM = Path(__file__).parents[1] / "conformance/program.py"
SERVE = [sys.executable, "-S", str(PROGRAM), "{port}"]
JOBS = ("worker", "ps", "chief", "store")

# A program is a new interpreter, and TensorFlow's forkserver has half a gigabyte.
KINDS = {"native": 82, "servicers": 9, "command": 5, "mixed": 4}
TENSORFLOW = 0.003

WAYS = {"with": 5, "factory": 3, "ancestor": 2}
FIRST_WAYS = {"local": 5, "shared": 2, "with": 2, "factory": 1}
"""How the first cluster of a test is had: ``local_cluster`` gives one, and no more."""

SHARED = {"workers": 2, "ps": 1, "jobs": {}, "runtime": "native", "launcher": "process"}


@dataclass(frozen=True)
class Plan:
    """One cluster to be.

    Attributes:
        name: ``seed/run/worker/n``, of which all the rest follows.
        kind: what its tasks serve, in one word.
        way: how it is had.
        fields: what it is asked to be.
        faults: what happens to it, by name.
    """

    name: str
    kind: str
    way: str
    fields: dict[str, Any]
    faults: tuple[str, ...]

    def chance(self) -> random.Random:
        """Return what decides on everything else."""
        return random.Random(f"{self.name}/life")

    def __str__(self) -> str:
        fields = dict(self.fields)
        tasks = {"worker": fields.pop("workers"), "ps": fields.pop("ps"), **fields.pop("jobs")}
        parts = [f"{count} {job}" for job, count in tasks.items()]
        parts += [self.kind, fields["launcher"], *(["links"] if fields["links"] else []), self.way]
        return f"{self.name} ({', '.join(parts)})"


def draw(name: str, *, first: bool, tensorflow: bool = False) -> Plan:
    """Return the plan of this name.

    Args:
        name: ``seed/run/worker/n``.
        first: whether it is the first of its test.
        tensorflow: whether it may be a cluster of TensorFlow's, if that can be imported.
    """
    chance = random.Random(name)
    way = _weighed(chance, FIRST_WAYS if first else WAYS)
    if way == "shared":  # what one test leaves is for the next one
        faults = _faults(chance, tasks=3, thread=False, linked=True)
        return Plan(name, "native", way, {**SHARED, "links": True}, faults)
    kind = _weighed(chance, KINDS)
    if chance.random() < TENSORFLOW and tensorflow and find_spec("tensorflow"):
        kind = "tensorflow"
    workers = chance.choices(range(5), (1, 6, 5, 2, 1))[0]
    ps = chance.choices(range(4), (2, 6, 2, 1))[0]
    jobs = {"chief": 1} if chance.random() < 0.08 else {}
    if kind == "mixed" or chance.random() < 0.04:
        jobs["store"] = chance.randint(1, 2)
    if way == "ancestor" and not workers + ps:
        way = "with"  # it would return nobody to reach the cluster by
    tasks = workers + ps + sum(jobs.values())
    thread = kind in ("native", "servicers") and chance.random() < 0.15
    links = tasks <= 5 and chance.random() < 0.2  # 5 tasks have 20 links, with ports of their own
    fields = {
        "workers": workers,
        "ps": ps,
        "jobs": jobs,
        "runtime": _runtime(kind, workers, ps, jobs),
        "launcher": "thread" if thread else "process",
        "links": links,
    }
    linked = links and tasks > 1 and kind == "native"
    return Plan(name, kind, way, fields, _faults(chance, tasks, thread=thread, linked=linked))


def _weighed(chance: random.Random, weights: dict[str, int]) -> str:
    return chance.choices(list(weights), list(weights.values()))[0]


def _runtime(kind: str, workers: int, ps: int, jobs: dict[str, int]) -> Any:
    services = ServicerRuntime(dict.fromkeys(JOBS, add_echo))
    program = CommandRuntime(dict.fromkeys(JOBS, SERVE))
    if kind == "mixed":
        all_jobs = {"worker": "native", "ps": program, "chief": "native", "store": services}
        there = {"worker": workers, "ps": ps, **jobs}
        return {job: runtime for job, runtime in all_jobs.items() if job in there}
    tensorflow = TensorFlowRuntime(coordinators=())
    runtimes = {"servicers": services, "command": program, "tensorflow": tensorflow}
    return runtimes.get(kind, "native")


def _faults(chance: random.Random, tasks: int, *, thread: bool, linked: bool) -> tuple[str, ...]:
    """Return up to two faults that a cluster outlives, and one that it is left with."""
    possible, endings = [*THREAD_FAULTS], ["stop twice"]
    if not thread:
        possible += [*FAULTS]
        endings += [*ENDINGS]
    if linked:
        possible += [*LINK_FAULTS, *LINK_FAULTS]  # few clusters have links at all
        endings += [*LINK_ENDINGS]
    count = chance.choices(range(3), (2, 5, 2))[0]
    ending = chance.random() < 0.4
    found = [*chance.choices(possible, k=count), *chance.choices(endings, k=int(ending))]
    return tuple(found) if tasks else ("stop twice",) * ending
