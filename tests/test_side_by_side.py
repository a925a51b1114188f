"""Two runs at once, each with four workers: no port is ever shared, and nobody is left."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

TESTS = 60
SUITE = f"""
import json, os, time
import pytest

@pytest.mark.cluster(workers=2, ps=1)
@pytest.mark.parametrize("n", range({TESTS}))
def test_own_cluster(local_cluster, n):
    begin = time.monotonic()  # one clock for all processes of a machine
    pids = [server.run(os.getpid) for server in local_cluster.servers]
    assert pids == [server.pid for server in local_cluster.servers]
    ports = [int(server.address.rpartition(":")[2]) for server in local_cluster.servers]
    ports.append(int(local_cluster.workers[0].run(os.getenv, "MASTER_PORT")))
    with open(os.environ["RECORD"], "a") as record:  # one short line is written whole
        record.write(json.dumps([begin, time.monotonic(), ports, pids]) + "\\n")
"""


@pytest.mark.parametrize(
    "options", [[], ["--cluster-port-range=24000-24399"]], ids=["any", "range"]
)
def test_two_runs_at_once(tmp_path: Path, options: list[str]) -> None:
    record = tmp_path / "record.jsonl"
    runs = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        folder.joinpath("test_suite.py").write_text(SUITE)
        command = [sys.executable, "-m", "pytest", "-q", "-n", "4", "-p", "no:cacheprovider"]
        env = {name: value for name, value in os.environ.items() if "XDIST" not in name}
        runs.append(
            subprocess.Popen(
                [*command, *options, str(folder)],
                cwd=folder,
                env={**env, "RECORD": str(record)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    for run in runs:
        output, _ = run.communicate()
        assert f"{TESTS} passed" in output
        assert run.returncode == 0

    held = defaultdict(list)
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(lines) == 2 * TESTS
    for begin, end, ports, pids in lines:
        assert len(set(ports)) == len(ports) == 4
        for port in ports:
            held[port].append((begin, end))
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
    for port, times in held.items():
        times.sort()
        for (_, end), (begin, _) in itertools.pairwise(times):
            assert end < begin, f"port {port} was shared"
