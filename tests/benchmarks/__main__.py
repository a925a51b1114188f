"""The table: ``python -m tests.benchmarks [--repeat N] [--peers PYTHON] [--write PAGE]``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from . import clusters, early, links, machine, recording, scale, shares, suites
from ._host import host
from ._measure import Row
from .figures import NAMES, Figures, curve_of
from .page import write

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("tensorflow", "torch")
WITH_CURVES = ("tensorflow", "dask")
LAUNCHERS = ("process", "thread")

Tell = Callable[[str], None]


def measure(module: str, name: str, pythons: list[str], repeat: int) -> Any:
    """Run a module with the first interpreter that has what it needs.

    Returns what it found, or a sentence that says why there is nothing.
    """
    reason = "not installed (make bench-peers)"
    for python in pythons:
        done = subprocess.run(
            [python, "-m", f"tests.benchmarks.{module}", name, str(repeat)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return json.loads(done.stdout)
        if "is not installed" not in done.stderr:
            last = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
            reason = f"{module} ended with {last[0]}"
    return reason


def our_rows(repeat: int) -> Iterator[Iterator[Row]]:
    """Yield what measures ours, one part after the other."""
    yield machine.bare(repeat)
    for launcher in LAUNCHERS:
        yield clusters.lives(launcher, repeat)
        yield clusters.hundredth(launcher)
    yield clusters.sizes(repeat)
    for launcher in LAUNCHERS:
        yield clusters.steps(launcher, repeat)
        yield clusters.sessions(launcher, repeat)
    yield shares.of_births(repeat)
    yield shares.of_sessions(repeat)
    yield recording.steps(repeat)
    yield clusters.large(repeat)
    yield links.passing(repeat)
    for launcher in LAUNCHERS:
        yield links.lives(launcher, repeat)
    yield links.verbs(repeat)
    yield early.unused(repeat)
    yield early.first(repeat)
    yield suites.ours(sys.executable, repeat)


def run(repeat: int, pythons: list[str], parts: set[str], tell: Tell) -> Figures:
    """Measure the parts that are asked for, each with the first of ``pythons`` that can."""
    figures = Figures(repeat, host(pythons[0]))

    def missing(name: str, reason: str) -> None:
        reasons = figures.missing.setdefault(name, [])
        if reason not in reasons:
            reasons.append(reason)

    for rows in our_rows(repeat) if "rows" in parts else ():
        for row in rows:
            figures.rows.append(row)
            tell(f"measured: {row.what}")
    for name in EXTRAS if "extras" in parts else ():
        tell(f"measuring ours with {name}")
        found = measure("extras", name, pythons, repeat)
        figures.rows += [] if isinstance(found, str) else [Row(**row) for row in found]
    for name in NAMES if "peers" in parts else ():
        tell(f"measuring {name}")
        found = measure("peers", name, pythons, repeat)
        if isinstance(found, str):
            missing(name, found)
        else:
            figures.peers[name] = {what: (value, laps) for what, (value, laps) in found.items()}
    for name in suites.PEERS if "suites" in parts else ():
        tell(f"measuring a suite with {name}")
        try:
            figures.peers.setdefault(name, {}).update(suites.peer(name, pythons[0]))
        except RuntimeError as error:
            missing(name, str(error))
    for curve in scale.curves(repeat) if "curves" in parts else ():
        figures.add_curve(curve)
        tell(f"measured: {curve.what}")
    for name in WITH_CURVES if "curves" in parts else ():
        tell(f"measuring the curves of {name}")
        found = measure("scale_peers", name, pythons, repeat)
        if isinstance(found, str):
            missing(name, found)
            continue
        for fields in found:
            figures.add_curve(curve_of(fields))
    return figures


def render(figures: Figures) -> Table:
    """Lay the rows out, with the peers that could be measured beside them."""
    lines = figures.lines()
    facts = (figures.host[name] for name in ("CPU", "cores", "Python"))
    title = "medians; {}, {} cores, {}".format(*facts)
    table = Table(title=title, title_justify="left")
    for column in lines[0] if lines else ():
        words = column in ("what", "unit", "met")
        table.add_column(column, justify="left" if words else "right", no_wrap=column == "what")
    for line in lines:
        table.add_row(*line.values(), style="red" if line["met"] == "no" else None)
    return table


def main() -> None:
    all_parts = ("rows", "extras", "peers", "suites", "curves")
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--repeat", type=int, default=20, help="of how many laps medians are")
    parser.add_argument("--peers", default="", help="an interpreter that has the peers")
    parser.add_argument("--only", nargs="+", choices=all_parts, default=all_parts, help="measure")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--write", type=Path, help="write this page, its plots and its figures")
    options = parser.parse_args()
    if options.write and find_spec("matplotlib") is None:
        parser.error("--write draws plots with matplotlib: `make bench-docs` installs it")
    # Our own code is this clone's, whatever the peers' interpreter has installed.
    os.environ["PYTHONPATH"] = str(ROOT / "src")
    peers = [str(Path(options.peers).absolute())] if Path(options.peers).is_file() else []

    # A file has no width of its own; 80 columns would break the lines.
    console = Console(width=None if sys.stdout.isatty() else 140)
    columns = SpinnerColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        now = progress.add_task("measuring")
        pythons = [*peers, sys.executable]
        figures = run(
            options.repeat,
            pythons,
            set(options.only),
            lambda text: progress.update(now, description=text),
        )
    console.print(render(figures))
    for name, reasons in figures.missing.items():
        for reason in reasons:
            console.print(f"{NAMES[name]}: {reason}", highlight=False)
    if options.json:
        figures.write(options.json)
    if options.write:
        write(figures, options.write)


if __name__ == "__main__":
    main()
