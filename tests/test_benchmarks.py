"""The benchmarks' page: it shows what a run has found, and nobody wrote it by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import page
from tests.benchmarks._curves import Curve, power, sweep
from tests.benchmarks._measure import Row
from tests.benchmarks.figures import Figures, read

PAGE = Path(__file__).resolve().parent.parent / "docs/benchmarks.md"


def curve(who: str, cost: float, plot: str = "tasks-start", launcher: str = "thread") -> Curve:
    """Return one that grows with the power ``cost``."""
    return Curve(
        plot, who, launcher, [(size, 2.0 * size**cost, 20) for size in (1, 2, 4, 8, 16, 32)]
    )


@pytest.fixture
def figures() -> Figures:
    found = Figures(repeat=20, host={"CPU": "one of a kind", "cores": "2"})
    found.rows = [
        Row("start", 11.0, budget=12, laps=20),
        Row("stop", 6.25, budget=5, laps=20),
        Row("rate", 3.0, "GiB/s", at_least=True, ratio=1.5, laps=20),
        Row("step", 1.0, ratio=0.6, laps=20),
        Row("ranks", 100.0, ratio=0.5, against="torch", laps=20),
        Row("first start", 1234.5),
    ]
    found.peers = {
        "tensorflow": {"rate": (1.0, 20), "step": (1.5, 7)},
        "dask": {"start": (900, 20)},
    }
    found.missing = {"ray": ["not installed"]}
    for one in (curve("ours", 1), curve("tensorflow", 2)):
        found.add_curve(one)
    return found


def test_each_row_tells_whether_its_budget_is_met(figures: Figures) -> None:
    table = page.page_of(figures).partition("## The table\n\n")[2].partition("\n\n")[0]
    growth = "growth of starting a cluster, against tasks, thread"
    assert table.splitlines() == [
        "| what | ours | unit | budget | met | TensorFlow | Dask |",
        "| --- | ---: | --- | ---: | --- | ---: | ---: |",
        "| start | 11 | ms | <= 12 | yes |  | 900 |",
        "| stop | 6.25 | ms | <= 5 | no |  |  |",
        "| rate | 3 | GiB/s | >= 1.5 (1.5 x TensorFlow's) | yes | 1 |  |",
        "| step | 1 | ms | <= 0.9 (0.6 x TensorFlow's) | no | 1.5 |  |",
        "| ranks | 100 | ms | <= 0.5 x torch's | not told |  |  |",
        "| first start | 1234 | ms |  |  |  |  |",
        f"| {growth} | 1 | power | <= 1.1 | yes | 2 |  |",
    ]


def test_the_page_tells_on_what_it_was_measured_and_what_was_not(figures: Figures) -> None:
    curves = figures.curves
    curves[0].skipped = {64: "needs 6 GiB of memory, and 3.0 were free"}
    curves[0].points[-1] = (32, 1000.0, 3)
    text = page.page_of(figures)
    assert "| CPU | one of a kind |" in text
    fewer = "\nFewer repetitions:\n\n- first start, ours: 1\n- step, TensorFlow: 7\n"
    assert fewer in text
    assert "\nRay: not installed.\n" in text
    assert "![Starting a cluster, against tasks](benchmarks/tasks-start.svg)" in text
    assert "- ours, threads: from 16 to 32 it grows with the power 5.0.\n" in text
    assert "threads: fewer repetitions where there was no time for more, 3 at the least.\n" in text
    assert "- ours, threads: 64 was left out: it needs 6 GiB of memory, and 3.0 were free." in text


def test_a_peer_that_has_one_launcher_is_compared_with_both_of_ours() -> None:
    found = Figures(repeat=20)
    for launcher in ("process", "thread"):
        found.add_curve(curve("ours", 1, launcher=launcher))
    found.add_curve(curve("tensorflow", 2, launcher="thread"))
    found.add_curve(curve("dask", 3, launcher="process"))
    found.add_curve(curve("dask", 0.5, launcher="thread"))
    assert [(line["TensorFlow"], line["Dask"]) for line in found.lines()] == [
        ("2", "3"),
        ("2", "0.5"),
    ]


def test_the_power_of_a_curve() -> None:
    assert curve("ours", 1.5).power == pytest.approx(1.5)
    assert power([(1, 1.0, 1), (2, 2.0, 1)]) is None
    bent = Curve("tensors", "ours", "process", [(1, 50.0, 1), (2, 50.0, 1), *curve("", 1).points])
    assert bent.power == pytest.approx(1)  # a cost that is there anyway hides no growth


def test_a_sweep_measures_in_turn_until_time_is_over() -> None:
    measured = []

    def measure(size: int) -> dict[str, list[float]]:
        measured.append(size)
        return {"first": [size / 1000], "again": [0.001, 0.003]}

    assert dict(sweep(measure, (1, 5), 2)) == {
        "first": [(1, 1.0, 2), (5, 5.0, 2)],
        "again": [(1, 2.0, 4), (5, 2.0, 4)],
    }
    assert measured == [1, 5, 1, 5]
    assert dict(sweep(measure, (1,), 2, seconds=-1))["first"] == [(1, 1.0, 1)]


def test_what_is_written_is_read_again(tmp_path: Path, figures: Figures) -> None:
    figures.curves[0].skipped = {64: "no room"}
    figures.write(tmp_path / "figures.json")
    again = read(tmp_path / "figures.json")
    assert page.page_of(again) == page.page_of(figures)
    assert again.rows == figures.rows
    assert again.curves == figures.curves


def test_the_page_of_the_manual_is_drawn_from_its_figures() -> None:
    figures = read(PAGE.with_suffix("") / "figures.json")
    assert PAGE.read_text(encoding="utf-8") == page.page_of(figures), "make bench-page"
    drawn = {path.stem for path in PAGE.with_suffix("").glob("*.svg")}
    assert drawn == {curve.plot for curve in figures.curves}


@pytest.mark.needs("matplotlib")
def test_equal_figures_make_equal_plots(tmp_path: Path, figures: Figures) -> None:
    for name in ("one", "two"):
        page.write(figures, tmp_path / f"{name}.md")
    one, two = ((tmp_path / name / "tasks-start.svg").read_bytes() for name in ("one", "two"))
    assert one == two
    text = one.decode()
    assert "TensorFlow, threads (2.00)" in text
    assert "ours, threads (1.00)" in text
    assert len(one) < 30_000
    stored = json.loads((tmp_path / "one/figures.json").read_text(encoding="utf-8"))
    assert stored["rows"][0]["what"] == "start"
