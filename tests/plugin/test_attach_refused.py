"""``--cluster-attach``: what cannot be attached to is a usage error, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_localcluster import (
    LocalCluster,
)
from tests.plugin.conftest import Run


def refused(result: pytest.RunResult, *lines: str) -> None:
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --cluster-attach = *{lines[0]}*", *lines[1:]])


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_file_that_is_none(
    pytester: pytest.Pytester, path: Path, tmp_path: Path, run: Run
) -> None:
    pytester.makepyfile("def test_it(): pass")
    refused(
        run(f"--cluster-attach={tmp_path / 'none'}"),
        f"the cluster file {tmp_path / 'none'} cannot be read: No such file or directory",
        "*To fix this: its cluster may have ended*",
    )
    path.write_text("{")
    refused(run(f"--cluster-attach={path}"), f"{path} is no cluster file: Expecting*")


def test_a_cluster_that_has_ended(
    pytester: pytest.Pytester, cluster: LocalCluster, path: Path, run: Run
) -> None:
    pytester.makepyfile("def test_it(): pass")
    cluster.ps[0].kill()
    refused(
        run(f"--cluster-attach={path}"),
        "the cluster does not serve",
        f"  | /job:ps/task:0: its process, pid {cluster.ps[0].pid}, has ended",
        "  To fix this: start it anew*",
    )
    cluster.stop()
    change(path, tasks={})
    refused(
        run(f"--cluster-attach={path}"),
        "the cluster does not serve",
        "  | /job:worker/task:0: nobody serves there",
    )


def test_a_cluster_that_does_not_answer(
    pytester: pytest.Pytester, cluster: LocalCluster, path: Path, run: Run
) -> None:
    with cluster.workers[1].suspended():
        refused(
            run(f"--cluster-attach={path}"),
            "the cluster does not serve",
            "  | /job:worker/task:1: it does not answer: it may be suspended",
        )


def test_a_cluster_that_is_another(
    pytester: pytest.Pytester, cluster: LocalCluster, path: Path, run: Run
) -> None:
    change(path, token="another")
    refused(
        run(f"--cluster-attach={path}"),
        "the cluster does not serve",
        "  | /job:worker/task:0: who serves there has another token",
    )
    spec = cluster.spec.as_dict()
    change(path, token=str(cluster._token), cluster={**spec, "worker": spec["worker"][::-1]})
    refused(
        run(f"--cluster-attach={path}"),
        "the cluster does not serve",
        "  | /job:worker/task:0: it says that it is /job:worker/replica:0/task:1/device:CPU:0",
    )


def test_several_workers_of_xdist(pytester: pytest.Pytester, path: Path, run: Run) -> None:
    pytester.makepyfile("def test_it(local_cluster): pass")
    message = "2 processes would reset the one cluster beneath each other's tests"
    for args in (["-n", "2"], ["--dist=load", "--tx", "2*popen"]):
        result = run(f"--cluster-attach={path}", *args)
        refused(result, message, "  To fix this: run them in one process, with -n 0")
    run(f"--cluster-attach={path}", "-n", "1").assert_outcomes(passed=1)


def test_several_runs(pytester: pytest.Pytester, path: Path, run: Run) -> None:
    pytester.makepyfile(
        """
        import subprocess, sys

        def test_it(local_cluster, pytestconfig):
            args = [arg for arg in pytestconfig.invocation_params.args if "attach" in arg]
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *args, "--co"], capture_output=True, text=True
            )
            assert done.returncode == 4
            assert "another run is attached to this cluster" in done.stderr
        """
    )
    run(f"--cluster-attach={path}").assert_outcomes(passed=1)
    run(f"--cluster-attach={path}").assert_outcomes(passed=1)
