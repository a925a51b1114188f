"""What the record of a soak comes to."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["Findings", "read"]

Line = dict[str, Any]

HANG = 60.0
"""Seconds that no cluster should take, whatever becomes of it and however busy the machine is."""

_LEAK = "(--cluster-leak-check)"
_TIMEOUT = "Timeout (>"


def read(record: Path) -> list[Line]:
    """Return the lines of a record; those that are not whole yet are left out."""
    text = record.read_text() if record.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


class Findings:
    """What there is to say of a soak.

    Args:
        lines: the record.
        began: when it began, by the clock of the machine.
        seconds: how long it was to take.

    Attributes:
        collisions: ports that two had at the same time.
        leaks: what was left of clusters, or is complained of.
        hangs: clusters that took too long, and tests that were timed out.
        failures: the reports of all tests that failed for another reason.
    """

    def __init__(self, lines: Iterable[Line], began: float, seconds: float) -> None:
        by_kind: defaultdict[str, list[Line]] = defaultdict(list)
        for line in lines:
            by_kind[line["what"]].append(line)
        self.clusters = by_kind["cluster"]
        self._strangers = by_kind["stranger"]
        self._processes = by_kind["process"]
        self._settled = began + min(60.0, seconds / 3)
        self._seconds = seconds
        self._end = began + seconds
        self.collisions = list(self._collisions())
        self.leaks = [*self._left(), *self._lingering()]
        self.hangs = [
            f"{line['plan']} took {line['seconds']:.0f} s"
            for line in self.clusters
            if line["seconds"] > HANG
        ]
        self.failures: list[str] = []
        for failure in by_kind["failure"]:
            kind = self.failures
            if _LEAK in failure["text"] and failure["when"] == "teardown":
                kind = self.leaks
            elif _TIMEOUT in failure["text"]:
                kind = self.hangs
            where = f"{failure['run']}, {failure['when']} of {failure['test']}"
            kind.append(f"{where}:\n{failure['text']}")

    def _collisions(self) -> Iterable[str]:
        held = defaultdict(list)
        for line in (*self.clusters, *self._strangers):
            name = line.get("plan", "the stranger")
            for port in line["ports"]:
                held[port].append((line["up"], line["until"], name))
        for port, times in held.items():
            times.sort()
            last, holder = times[0][1:]
            for up, until, name in times[1:]:
                if up < last:
                    yield f"port {port}: {holder} and {name}"
                last, holder = max((last, holder), (until, name))

    def _left(self) -> Iterable[str]:
        for line in self.clusters:
            if line["left"]:
                yield f"{line['plan']}: {', '.join(line['left'])}"
        for line in self._processes:
            if line["strays"]:
                yield f"{line['run']} {line['worker']}: {', '.join(line['strays'])}"

    def _lingering(self) -> Iterable[str]:
        """Yield ports that were listened on after the end, if no other cluster had them by then."""
        others = defaultdict(list)
        for line in self.clusters:
            for port in line["ports"]:
                others[port].append(line)
        for line in self.clusters:
            for port, since, until in line["lingering"]:
                if not any(
                    other is not line and other["asked"] <= until and other["at"] >= since
                    for other in others[port]
                ):
                    after = since - line["until"]
                    yield f"{line['plan']}: port {port} is listened on {after:.3f} s after its end"

    def survived(self) -> Counter[str]:
        return Counter(name for line in self.clusters for name in line["survived"])

    def table(self) -> list[tuple[str, str]]:
        """Return what there is to see, row by row."""
        kinds = Counter(line["kind"] for line in self.clusters)
        kinds["in threads"] = sum(line["launcher"] == "thread" for line in self.clusters)
        kinds["with links"] = sum(line["links"] for line in self.clusters)
        faults = self.survived()
        ports, foreign = (
            sum(len(line["ports"]) for line in lines) for lines in (self.clusters, self._strangers)
        )
        rate = len(self.clusters) / self._seconds
        rows = [
            ("clusters", f"{len(self.clusters):6}  {rate:.1f} a second: {_counted(kinds)}"),
            ("faults survived", f"{faults.total():6}  {_counted(faults)}"),
            ("collisions", f"{len(self.collisions):6}  of {ports} ports, {foreign} of a stranger"),
            ("leaks", f"{len(self.leaks):6}"),
            ("hangs", f"{len(self.hangs):6}  {self._longest('seconds', 'longest life')}"),
            ("failed", f"{len(self.failures):6}"),
        ]
        starts = [line["start"] for line in self.clusters if line["start"] is not None]
        if starts:
            median = f"{statistics.median(starts) * 1000:6.1f} ms median"
            rows.append(("start", f"{median}, {self._longest('start', 'slowest')}"))
        return [*rows, *self._memory()]

    def _longest(self, what: str, name: str) -> str:
        line = max(self.clusters, key=lambda line: line[what] or 0, default=None)
        return "" if line is None else f"{name} {line[what] or 0:.2f} s: {line['plan']}"

    def _memory(self) -> Iterable[tuple[str, str]]:
        """Yield how much each pytest process has grown since it had settled, in MiB."""
        by_process = defaultdict(list)
        for line in self._processes:
            by_process[line["run"], line["worker"], line["pid"]].append(line)
        few = (self._end - self._settled) / 20
        for (run, worker, _), lines in sorted(by_process.items()):
            settled = [line for line in lines if line["at"] >= self._settled]
            if not settled:
                continue
            first = [line for line in settled if line["at"] <= settled[0]["at"] + few]
            last = [line for line in settled if line["at"] >= settled[-1]["at"] - few]
            parts = []
            for what, name, scale in (
                ("rss", "MiB", 2**20),
                ("helpers", "MiB of its forkservers", 2**20),
                ("descriptors", "descriptors", 1),
                ("threads", "threads", 1),
            ):
                a, b = (
                    statistics.median(line[what] for line in few) / scale for few in (first, last)
                )
                number = ".1f" if scale > 1 else ".0f"
                parts.append(f"{a:{number}} to {b:{number}} {name} ({b - a:+{number}})")
            yield f"{run} {worker}", ", ".join(parts)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common() if count)
