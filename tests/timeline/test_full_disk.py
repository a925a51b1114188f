"""A disk without space for what tasks record: the test goes on, and page and report say so."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system with space for logs, but for no record."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


TEST = """
import numpy as np
import pytest
from pytest_localcluster import Session, Variable, device, variables_initializer

@pytest.mark.cluster(workers=1, ps=1)
def test_steps(local_cluster):
    with device("/job:ps/task:0"):
        weights = Variable(np.zeros(3), name="weights")
    with Session(local_cluster.workers[0].target) as session:
        session.run(variables_initializer([weights]))
        for _ in range(100):
            session.run(weights.assign_add(np.ones(3)))
    assert local_cluster.ps[0].variables()["weights"].tolist() == [100.0] * 3
    assert 0, "for the page"
"""


def test_a_full_disk_is_no_death(
    pytester: pytest.Pytester, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(small_disk))
    pytester.makepyfile(TEST)
    result = pytester.runpytest_subprocess(
        "--cluster-timeline=failed", f"--basetemp={pytester.path}/base"
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E * for the page*",
            "without the steps of /job:worker/task:0, /job:ps/task:0: no space was left on the *",
        ]
    )
    (page,) = pytester.path.rglob("*.html")
    text = page.read_text(encoding="utf-8")
    assert "/job:ps/task:0: steps, operations and tensors: no space was left on the disk" in text
