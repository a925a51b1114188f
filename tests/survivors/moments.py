"""Kills pytest at random moments, and measures how long somebody is left: ``make kill-moments``.

Prints the moments by what the run was doing, and the longest time. It fails if that is more than a
second. The same seed gives the same moments; what the run does then is up to the machine.
"""

from __future__ import annotations

import argparse
import random
import select
import sys
import tempfile
from collections import Counter
from pathlib import Path

from pytest_localcluster._clock import now
from tests.survivors.runs import Run

PROMISED = 1.0

SUITE = """
import os
from pathlib import Path
import pytest

def phase(name):
    Path("phase").write_text(name)

@pytest.fixture(params=range(2))
def clusters(request):
    phase("starting")
    with (
        LocalCluster(workers=2, ps=2, stop_timeout=0.5) as tasks,
        LocalCluster(launcher="thread"),
        LocalCluster(
            workers=0, ps=1, stop_timeout=0.5, runtime=CommandRuntime(
                ps=["sh", "-c", DEAF_PROGRAM], ready=lambda ps: "up" in ps.log.text()
            ),
        ),
    ):
        yield tasks
        phase("stopping")

def test_it(clusters):
    phase("running")
    for server in clusters.servers:
        for start in (child_in_group, child_in_session, daemon):
            server.run(start)
    clusters.workers[0].suspend()
    clusters.workers[1].run(be_deaf)
    phase("stopping")
"""


def run_for(folder: Path, seconds: float | None) -> tuple[str, float, list[str]]:
    """Run the suite, and kill it after so many seconds.

    Returns:
        What it was doing, how long after its end something was left, and what still is.
    """
    with Run(folder, SUITE) as run:
        select.select([run.watch(run.process.pid)], [], [], seconds)
        run.process.kill()
        took = run.seconds_until_nothing_is_left()
        phase = folder / "phase"
        done = "importing" if not phase.exists() else phase.read_text() or "starting"
        return done, took, run.leftovers()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="make kill-moments")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=4)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    phases: Counter[str] = Counter()
    longest, left = 0.0, []
    with tempfile.TemporaryDirectory() as folder:

        def new() -> Path:
            return Path(tempfile.mkdtemp(dir=folder))

        began = now()
        run_for(new(), None)
        whole = now() - began
        for _ in range(options.count):
            done, took, leftovers = run_for(new(), moments.uniform(0, whole))
            phases[done] += 1
            longest = max(longest, took)
            left += leftovers
    print(f"a run of {whole:.1f} s, killed at {options.count} moments (seed {options.seed}):")
    print("  " + ", ".join(f"{count} {phase}" for phase, count in phases.most_common()))
    print(
        f"  nobody and nothing left after {longest:.2f} s at most; left for good: {left or 'none'}"
    )
    return int(longest > PROMISED or bool(left))


if __name__ == "__main__":
    sys.exit(main())
