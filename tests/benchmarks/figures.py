"""What a run has found: rows, curves and peers, written as JSON and read again."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._curves import PLOTS, STEEPEST, Curve
from ._measure import Figure, Row

NAMES = {"tensorflow": "TensorFlow", "dask": "Dask", "ray": "Ray", "torch": "torch"}


@dataclass
class Figures:
    """Everything that the table, the page and its plots show.

    Attributes:
        repeat: how many laps were asked for.
        host: name and value of each fact of the machine.
        rows: our own figures.
        peers: by peer and row, its figure and of how many laps.
        missing: by peer, why something of it was not measured.
        curves: ours and the peers'.
    """

    repeat: int
    host: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    peers: dict[str, dict[str, Figure]] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)

    def add_curve(self, curve: Curve) -> None:
        """Take a curve, and the row that tells how it grows."""
        self.curves.append(curve)
        power = curve.power
        if power is None:
            return
        if curve.who == "ours":
            self.rows.append(Row(curve.what, power, "power", budget=STEEPEST))
        else:
            found = self.peers.setdefault(curve.who, {})
            found[curve.what] = power, 1
            # Ours in processes and in threads are both compared with the only one that it may have.
            for row in self.rows:
                if _same(row, curve):
                    found.setdefault(row.what, (power, 1))

    def lines(self) -> list[dict[str, str]]:
        """Return the lines of the table, each by column."""
        measured = [name for name in NAMES if self.peers.get(name)]
        return [self._line(row, measured) for row in self.rows]

    def _line(self, row: Row, measured: list[str]) -> dict[str, str]:
        peer = self.peers.get(row.against, {}).get(row.what)
        row = row.beside(None if peer is None else peer[0])
        sign, of = (">=" if row.at_least else "<="), ""
        if row.ratio is not None:
            of = f"{shown(row.ratio)} x {NAMES[row.against]}'s"
        if row.budget is None:
            budget, met = of and f"{sign} {of}", "not told" if of else ""
        else:
            budget = f"{sign} {shown(row.budget)}" + (f" ({of})" if of else "")
            met = "yes" if row.met else "no"
        line = {"what": row.what, "ours": shown(row.value), "unit": row.unit}
        line |= {"budget": budget, "met": met}
        for name in measured:
            figure = self.peers[name].get(row.what)
            line[NAMES[name]] = "" if figure is None else shown(figure[0])
        return line

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(self), indent=1)
        path.write_text(text + "\n", encoding="utf-8")


def read(path: Path) -> Figures:
    """Read what :meth:`Figures.write` has written."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found["rows"] = [Row(**row) for row in found["rows"]]
    found["curves"] = [curve_of(curve) for curve in found["curves"]]
    return Figures(**found)


def curve_of(fields: dict[str, Any]) -> Curve:
    """Return a curve as JSON has it: without tuples, and with strings for keys."""
    points = [tuple(point) for point in fields["points"]]
    skipped = {int(size): reason for size, reason in fields["skipped"].items()}
    return Curve(**fields | {"points": points, "skipped": skipped})


def shown(value: float) -> str:
    """Return a number with three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _same(row: Row, curve: Curve) -> bool:
    return row.what.startswith(f"growth of {PLOTS[curve.plot].title},")
