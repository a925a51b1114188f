"""One plot as SVG: the same bytes for the same curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from ._curves import Curve, Plot
from .page import label

# Ids are hashed with the salt, which is random otherwise; text stays text, which is small.
STYLE: Any = {"svg.hashsalt": "benchmarks", "svg.fonttype": "none", "font.size": 9}
COLOURS = {"ours": "#c2410c", "tensorflow": "#1d4ed8", "dask": "#15803d"}
LINES = {"process": "-", "thread": "--"}


def draw(plot: Plot, curves: Sequence[Curve], path: Path) -> None:
    """Draw curves of one plot, and the slope of a cost that grows as the size does."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.set(xscale="log", yscale="log", xlabel=plot.size, ylabel="ms")
        axes.grid(visible=True, color="#e5e5e5", linewidth=0.6)
        for curve in curves:
            power = "" if curve.power is None else f" ({curve.power:.2f})"
            axes.plot(
                [size for size, _, _ in curve.points],
                [cost for _, cost, _ in curve.points],
                LINES[curve.launcher],
                color=COLOURS[curve.who],
                marker=".",
                label=label(curve) + power,
            )
        # Through the end of our first curve, over the upper half of its sizes.
        points = curves[0].points
        upper = [size for size, _, _ in points[len(points) // 2 :]]
        last, cost, _ = points[-1]
        slope = [cost * size / last for size in upper]
        axes.plot(upper, slope, ":", color="#737373", label="as the size")
        sizes = sorted({size for curve in curves for size, _, _ in curve.points})
        ticks = [size for size in sizes if _round(size)][:: 2 if plot.size == "bytes" else 1]
        axes.set_xticks(ticks, [_words(size, plot.size) for size in ticks])
        axes.minorticks_off()  # they are most of the file
        figure.legend(frameon=False, fontsize=8, loc="outside right upper")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    # No blanks at the ends of lines: nobody's editor should change what was drawn.
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def _round(size: int) -> bool:
    return size & (size - 1) == 0 or str(size).strip("0") == "1"


def _words(size: int, unit: str) -> str:
    if unit != "bytes":
        return f"{size:,}"
    power = (size.bit_length() - 1) // 10
    return f"{size >> 10 * power} {('B', 'KiB', 'MiB', 'GiB')[power]}"
