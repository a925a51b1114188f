"""Draws docs/benchmarks.md and its plots from a run's JSON: ``python -m tests.benchmarks.page``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from ._curves import PLOTS, STEEPEST, Curve
from .figures import NAMES, Figures, read

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/benchmarks.md"

HEAD = """\
# Benchmarks

<!-- Drawn from benchmarks/figures.json by `make bench-page`: what is changed here is lost. -->

What clusters cost, measured by one run of

```console
$ make bench-docs
```

which measures everything below and writes this page. Figures are medians of at least {repeat}
repetitions, but for those that are named below the table. Times differ between machines, and on one
machine between days: **figures compare only within one run**, and budgets in milliseconds are meant
for two cores like these.

"""

PEERS = """
The peers' servers do more than ours. TensorFlow's live in the test's process and are never stopped;
Dask has a scheduler beside its workers; Ray has as many nodes as ours are tasks; torch's ranks are
those of `torch.multiprocessing.spawn`. Peers run as many of the {tests} tests as they manage in a
minute.
"""

SHARES = """
## Where it goes

Rows that begin with "CPU of" are processor time, not wall-clock time: what each kind of process
computes for one start of a cluster, one first step, one step among many sessions. Their last row is
all of that, spread evenly over the cores: no such start or step can be faster here, and where a
budget is below it, it cannot be met without computing less.
"""

SCALE = f"""
## How costs grow

Both axes are logarithmic, and times are in milliseconds. The dotted line grows as the size does.
The number beside a name is the power of the size with which the cost grows over the upper half of
the curve: up to {STEEPEST}, it grows no faster than its work.

"""


def page_of(figures: Figures) -> str:
    """Return the page."""
    text = HEAD.format(repeat=figures.repeat)
    text += _table([{"on": name, "": value} for name, value in figures.host.items()])
    text += "\n## The table\n\n"
    text += _table(figures.lines())
    text += _fewer(figures)
    text += PEERS.format(tests=200) if any(figures.peers.values()) else ""
    for peer, reasons in figures.missing.items():
        text += "".join(f"\n{NAMES[peer]}: {reason}.\n" for reason in reasons)
    if any(row.what.startswith("CPU of") for row in figures.rows):
        text += SHARES
    if figures.curves:
        text += SCALE + "\n".join(_pictures(figures))
    return text.rstrip() + "\n"


def _fewer(figures: Figures) -> str:
    """Return which figures are medians of fewer repetitions, and of how many."""
    few = [(row.what, "ours", row.laps) for row in figures.rows if row.unit != "power"]
    ours = {what for what, _, _ in few}
    for peer, found in figures.peers.items():
        few += [(what, NAMES[peer], laps) for what, (_, laps) in found.items() if what in ours]
    lines = [f"- {what}, {who}: {n}\n" for what, who, n in few if n < figures.repeat]
    return "\nFewer repetitions:\n\n" + "".join(lines) if lines else ""


def _table(lines: list[dict[str, str]]) -> str:
    if not lines:
        return "Nothing was measured.\n"
    columns = list(lines[0])
    right = {column for column in columns if column not in ("what", "unit", "met", "on", "")}
    rules = ("---:" if column in right else "---" for column in columns)
    rows = [columns, list(rules), *(list(line.values()) for line in lines)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _pictures(figures: Figures) -> Iterator[str]:
    for plot in PLOTS.values():
        curves = [curve for curve in figures.curves if curve.plot == plot.slug]
        if not curves:
            continue
        title = plot.title[0].upper() + plot.title[1:]
        text = f"### {title}\n\n![{title}](benchmarks/{plot.slug}.svg)\n"
        notes = [note for curve in curves for note in _notes(curve, figures.repeat)]
        yield text + ("\n" + "\n".join(f"- {note}" for note in notes) + "\n" if notes else "")


def _notes(curve: Curve, repeat: int) -> Iterator[str]:
    """Yield what a reader of the curve should know: where it is steep, thin or ends early."""
    name, jump = label(curve), curve.jump
    if curve.who == "ours" and jump is not None and jump[0] > 1.5:
        power, low, high = jump
        yield f"{name}: from {low:,} to {high:,} it grows with the power {power:.1f}."
    few = sorted({laps for _, _, laps in curve.points if laps < repeat})
    if few:
        yield f"{name}: fewer repetitions where there was no time for more, {few[0]} at the least."
    for size, reason in curve.skipped.items():
        yield f"{name}: {size:,} was left out: it {reason}."


def label(curve: Curve) -> str:
    """Return the name of a curve in its plot."""
    where = {"process": "processes", "thread": "threads"}[curve.launcher]
    return f"{NAMES.get(curve.who, curve.who)}, {where}"


def write(figures: Figures, page: Path) -> None:
    """Write the page, and beside it the folder with its plots and what they were drawn from."""
    from ._draw import draw

    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.svg"):
        stale.unlink()
    for plot in PLOTS.values():
        curves = [curve for curve in figures.curves if curve.plot == plot.slug]
        if curves:
            draw(plot, curves, folder / f"{plot.slug}.svg")
    figures.write(folder / "figures.json")
    page.write_text(page_of(figures), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.page", description=__doc__)
    parser.add_argument("page", nargs="?", type=Path, default=PAGE, help="what to write")
    options = parser.parse_args()
    write(read(options.page.with_suffix("") / "figures.json"), options.page)


if __name__ == "__main__":
    main()
