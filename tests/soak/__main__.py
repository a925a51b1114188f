"""Soaks the machine with clusters, and prints what came of it: ``make soak``.

Two runs of pytest make clusters of all kinds, work with them and have faults come over them until
the time is over, while a stranger takes ports. It fails if two ever had the same port, something
was left, something hung, or a test failed. The same seed gives the same clusters and faults; in
which order those of different processes meet is up to the machine.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import FrameType

from pytest_localcluster._clock import Deadline, now, poll

from .report import Findings, read
from .runs import TOO_LONG, Runs
from .witness import Settings

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PROGRESS = 30.0
MANY, TAIL = 5, 60
"""How many things of a kind that went wrong are printed, and how many lines of each."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.soak")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--workers", type=int, default=4, help="of xdist; 0 is without xdist")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave record and outputs there")
    options = parser.parse_args()
    for signum in ENDINGS:
        signal.signal(signum, _end)
    print(
        f"soak of {options.seconds:g} s, seed {options.seed}: {options.workers} xdist workers, "
        f"a run beside them, a stranger; {os.cpu_count()} cores",
        flush=True,
    )
    run = partial(soak, seconds=options.seconds, workers=options.workers, seed=options.seed)
    if options.keep:
        options.keep.mkdir(parents=True)
        return run(options.keep.absolute())
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        return run(Path(folder))


def soak(folder: Path, seconds: float, workers: int, seed: int) -> int:
    """Run it in a folder; return the exit status."""
    began, record = now(), folder / "record.jsonl"
    settings = Settings(seed, "", seconds, began + seconds, str(record))
    with Runs(folder, settings) as runs:
        try:
            runs.start(workers)
            wait(runs, Deadline(seconds + 2 * TOO_LONG), record, began)
        except KeyboardInterrupt:
            for signum in ENDINGS:
                signal.signal(signum, signal.SIG_IGN)  # there is an end to bring about
            print("interrupted", flush=True)
            return 130
        stuck = runs.stuck()
        findings = Findings(read(record), began, seconds)
        findings.hangs += [f"{name} does not end:\n{runs.output(name)}" for name in stuck]
        findings.leaks += [] if stuck else runs.leftovers()
    show(findings)
    evidence = {
        "collision": findings.collisions,
        "leak": findings.leaks,
        "hang": findings.hangs,
        "failure": findings.failures,
        "ended badly": [f"{name}\n{runs.output(name)}" for name in runs.broken()],
    }
    for what, texts in evidence.items():
        for text in texts[:MANY]:
            first, *rest = text.rstrip().splitlines()
            print("", f"{what}: {first}", *rest[-TAIL:], sep="\n")
        if texts[MANY:]:
            print(f"\n{what}: {len(texts) - MANY} more")
    return int(any(evidence.values()))


def wait(runs: Runs, deadline: Deadline, record: Path, began: float) -> None:
    """Wait until all runs have ended; say now and then how far they are."""
    while not runs.over() and not deadline.expired():
        if poll(runs.over, Deadline(PROGRESS), interval=0.02):
            return
        lines = read(record)
        made = sum(line["what"] == "cluster" for line in lines)
        failed = sum(line["what"] == "failure" for line in lines)
        print(f"{now() - began:5.0f} s: {made} clusters, {failed} failures", flush=True)


def show(findings: Findings) -> None:
    for name, text in findings.table():
        print(f"  {name:16}{text}")


def _end(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
