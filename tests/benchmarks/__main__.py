"""The table: ``python -m tests.benchmarks [--repeat N] [--peers PYTHON]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from ._measure import Row
from .clusters import all_rows

ROOT = Path(__file__).resolve().parents[2]
PEERS = ("tensorflow", "dask", "ray", "torch")
EXTRAS = ("tensorflow", "torch")
NAMES = {"tensorflow": "TensorFlow", "torch": "torch"}


def measure(module: str, name: str, pythons: list[str], repeat: int) -> Any:
    """Run peers.py or extras.py with the first interpreter that has what it needs.

    Returns what it found, or a sentence that says why there is nothing.
    """
    reason = "not installed"
    for python in pythons:
        if not python or not Path(python).exists():
            continue
        done = subprocess.run(
            [Path(python).absolute(), "-m", f"tests.benchmarks.{module}", name, str(repeat)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return json.loads(done.stdout)
        if "is not installed" not in done.stderr:
            reason = done.stderr.strip().splitlines()[-1]
    return reason


def render(rows: list[Row], peers: dict[str, dict[str, float] | str]) -> Table:
    """Lay the rows out, with the peers that could be measured beside them."""
    measured = {name: values for name, values in peers.items() if isinstance(values, dict)}
    title = f"medians; Python {platform.python_version()}, {os.cpu_count()} cores"
    table = Table(title=title, title_justify="left")
    table.add_column("what", no_wrap=True)
    for column in ("ours", "unit", "budget", *measured):
        table.add_column(column, justify="left" if column == "unit" else "right")
    for measured_row in rows:
        row = measured_row.beside(measured.get(measured_row.against, {}).get(measured_row.what))
        budget = ""
        if row.budget is not None:
            budget = f"{'>=' if row.at_least else '<='} {row.budget:.3g}"
        elif row.ratio is not None:
            budget = f"{row.ratio:g} x {NAMES[row.against]}'s"
        value = f"{row.value:.2f}" if row.within else f"[red]{row.value:.2f}[/red]"
        others = (values.get(row.what) for values in measured.values())
        table.add_row(
            row.what,
            value,
            row.unit,
            budget,
            *("" if other is None else f"{other:.2f}" for other in others),
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--repeat", type=int, default=20, help="how often 2+2 is started")
    parser.add_argument("--peers", default="", help="an interpreter that has the peers")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()

    # A file has no width of its own; 80 columns would break the lines.
    console = Console(width=None if sys.stdout.isatty() else 120)
    rows: list[Row] = []
    peers: dict[str, dict[str, float] | str] = {}
    columns = SpinnerColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        now = progress.add_task("measuring")
        for row in all_rows(options.repeat):
            rows.append(row)
            progress.update(now, description=f"measured: {row.what}")
        pythons = [options.peers, sys.executable]
        for name in EXTRAS:
            progress.update(now, description=f"measuring ours with {name}")
            found = measure("extras", name, pythons, options.repeat)
            rows += [] if isinstance(found, str) else [Row(**row) for row in found]
        for name in PEERS:
            progress.update(now, description=f"measuring {name}")
            peers[name] = measure("peers", name, pythons, options.repeat)
    console.print(render(rows, peers))
    for name, values in peers.items():
        if isinstance(values, str):
            console.print(f"{name}: {values} (make bench-peers)", highlight=False)
    if any(isinstance(values, dict) for values in peers.values()):
        console.print(
            "The peers' servers do more than ours. TensorFlow's live in the test's process and are"
            " never stopped; Dask has 4 workers and a scheduler; Ray has 4 nodes; torch's ranks are"
            " those of torch.multiprocessing.spawn.",
            highlight=False,
        )
    if options.json:
        figures = {row.what: row.value for row in rows}
        options.json.write_text(json.dumps({"ours": figures, **peers}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
