"""Whole suites: many tests with a fresh cluster of three and one step each, in two xdist workers.

The same for the peers, as many tests as they manage in a minute. A test that fails does not count.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ._measure import Figure, Row

TESTS = 200
SECONDS = 60
WHAT = f"{TESTS} tests with a fresh 2+1, -n 2"

OURS = """
import pytest
from pytest_localcluster import Variable, device

@pytest.mark.cluster(workers=2, ps=1)
@pytest.mark.parametrize("n", range({tests}))
def test_step(local_cluster, n):
    with device("/job:ps/task:0"):
        total = Variable(n)
    with local_cluster.session() as session:
        session.run(total.initializer)
"""

TENSORFLOW = """
import pytest
import tensorflow as tf

@pytest.mark.parametrize("n", range({tests}))
def test_step(n):
    workers, _ps = tf.test.create_local_cluster(num_workers=2, num_ps=1)
    with tf.Graph().as_default(), tf.device("/job:ps/task:0"):
        total = tf.compat.v1.get_variable("total", initializer=n)
        with tf.compat.v1.Session(workers[0].target) as session:
            session.run(total.initializer)
"""

DASK = """
import pytest
from distributed import Client, LocalCluster

@pytest.mark.parametrize("n", range({tests}))
def test_step(n):
    three = dict(n_workers=3, threads_per_worker=1, dashboard_address=None)
    with LocalCluster(**three) as cluster, Client(cluster) as client:
        assert client.submit(abs, n).result() == n
"""

# Its head has fixed ports unless it is given others, and two workers of xdist would meet there.
RAY = """
import portpicker
import pytest
import ray
from ray.cluster_utils import Cluster

@ray.remote
def same(n):
    return n

@pytest.mark.parametrize("n", range({tests}))
def test_step(n):
    port = portpicker.pick_unused_port()
    head = dict(num_cpus=1, gcs_server_port=port, dashboard_agent_listen_port=None)
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address)
        assert ray.get(same.remote(n)) == n
    finally:
        ray.shutdown()
        cluster.shutdown()
"""

PEERS = {"tensorflow": TENSORFLOW, "dask": DASK, "ray": RAY}

# Skips what is begun after the time is over, and notes when a test has passed.
CONFTEST = """
import os, time
import pytest

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}

def pytest_runtest_setup(item):
    if time.monotonic() > float(os.environ["UNTIL"]):
        pytest.skip("time is over")

def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed and "PYTEST_XDIST_WORKER" not in os.environ:
        print("passed at", time.monotonic(), flush=True)
"""


def run(python: str, suite: str, seconds: float, *options: str) -> tuple[int, float]:
    """Run a suite; return how many tests passed, and the seconds from its start to its end.

    To the last test that passed, for a run that does not end by itself.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_many.py").write_text(suite.format(tests=TESTS), encoding="utf-8")
        Path(folder, "conftest.py").write_text(CONFTEST, encoding="utf-8")
        start = time.monotonic()
        process = subprocess.Popen(
            [python, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-n", "2", *options],
            cwd=folder,
            env=os.environ | {"UNTIL": str(start + seconds)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=seconds + 60)
            end = time.monotonic()
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            end = None
    passed = [float(moment) for moment in re.findall(r"passed at ([\d.]+)", output)]
    if not passed:
        raise RuntimeError(f"no test of the suite passed; its last words: {output[-300:]}")
    return len(passed), (end or passed[-1]) - start


def ours(python: str, repeat: int) -> Iterator[Row]:
    """Our own, several times."""
    rates = []
    for _ in range(max(1, repeat // 4)):
        passed, seconds = run(python, OURS, SECONDS)
        assert passed == TESTS, f"{passed} of {TESTS} passed"
        rates.append(passed / seconds)
    rates.sort()
    rate = rates[len(rates) // 2]
    yield Row(WHAT, rate, "tests/s", budget=60, at_least=True, laps=len(rates))


def peer(name: str, python: str) -> dict[str, Figure]:
    """Return a peer's tests per second."""
    passed, seconds = run(python, PEERS[name], SECONDS, "-p", "no:localcluster")
    return {WHAT: (passed / seconds, 1)}
