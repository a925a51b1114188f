"""Draw docs/red-report.svg: what pytest shows of a red test with a cluster. ``make picture``.

The test is real, and so is the report: it is run here, in a folder of its own, and its output is
drawn by rich. ``python tools/picture.py FILE`` draws it there.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100
TEST = """\
import pytest

from pytest_localcluster import current_task


def train(rate):
    task, weight = current_task().task, 1.0
    for step in range(4):
        weight -= rate * (1 + task.index) * 2 * weight
        print(f"step {step}: weight {weight:g}")
    return abs(weight)


@pytest.mark.cluster(workers=2, ps=0)
def test_training_converges(local_cluster):
    losses = local_cluster.run(train, 0.6)
    assert max(losses) < 0.1
"""


def report() -> str:
    """Return the output of a pytest that runs the test, in colour.

    Raises:
        SystemExit: the test did not fail as it should.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_training.py").write_text(TEST, encoding="utf-8")
        # What would change the report: options from outside, and a CI, whose summary says more.
        changing = re.compile("PYTEST_|(CI|BUILD_NUMBER)$")
        own = {name: value for name, value in os.environ.items() if not changing.match(name)}
        options = ["--color=yes", "-p", "no:cacheprovider", "-p", "no:asyncio", "-c", os.devnull]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, "--rootdir", folder, "test_training.py"],
            cwd=folder,
            env={**own, "COLUMNS": str(WIDTH)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 1:
        raise SystemExit(done.stdout + done.stderr)
    failures = re.search(r"\n[^\n]*= FAILURES =.*", done.stdout, flags=re.DOTALL)
    return failures[0].strip() if failures else ""


def draw(text: str, file: Path) -> None:
    """Write ``text``, which has a terminal's colours in it, as a picture."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ pytest", style="bold"), Text.from_ansi(text), sep="\n")
    picture = console.export_svg(title="a red test", theme=MONOKAI, unique_id="report")
    # The reader's own monospaced font will do; a picture fetches nothing.
    picture = re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    file.write_text(picture.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    draw(report(), Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/red-report.svg")
