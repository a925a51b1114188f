"""What all tests share: they leave no process and no thread behind, and say what they need.

``@pytest.mark.needs("torch", "redis-server")``: modules or programs without which a test is skipped
or, with ``--extras=required``, is an error.
"""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from importlib.util import find_spec

import psutil
import pytest

from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._launch.child import SPARE
from tests.families import guards_elsewhere

# A suite of its own, which `make sample` runs outside of the clone.
collect_ignore = ["sample_project"]

Living = psutil.Process | threading.Thread


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--extras",
        choices=["optional", "required"],
        default="optional",
        help="what becomes of a test that needs what is not installed: skipped, or an error",
    )
    parser.addoption(
        "--fuzz-cases",
        type=int,
        default=20_000,
        help="how many calls that no client makes the native runtime is sent",
    )
    parser.addoption("--fuzz-seed", type=int, default=1, help="which calls these are")


def pytest_configure() -> None:
    # Whoever imports Ray first has it read these. Without a token it makes one, and leaves it in
    # the user's home; and on a busy machine it takes nodes for dead.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_health_check_failure_threshold", "60")


def pytest_runtest_setup(item: pytest.Item) -> None:
    names = [name for mark in item.iter_markers("needs") for name in mark.args]
    missing = [name for name in names if not (shutil.which(name) or find_spec(name))]
    if not missing:
        return
    reason = f"needs {', '.join(missing)}: make test-all"
    if item.config.getoption("--extras") == "required":
        raise ModuleNotFoundError(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def first_seen() -> dict[Living, str]:
    """Remember after which module each process and thread was first seen."""
    return {}


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left(first_seen: dict[Living, str]) -> Iterator[None]:
    """Fail the run if there are processes or threads in the end that were not there at first.

    Only in the end, since fixtures of wide scopes may bring up in one test what others use.
    """
    before = _living()
    yield
    gc.collect()  # TensorFlow's ClusterCoordinator ends its threads when it is collected
    poll(lambda: _living() <= before, Deadline(10))
    left = {one: first_seen.get(one, "the last module") for one in _living() - before}
    assert not left, f"left behind, and the module after which each was first seen: {left}"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Be a Ray cluster of three nodes, which the tests find by the environment, as any suite does.

    If the environment has one already, it is that.
    """
    from pytest_localcluster._launch.ray import shutdown

    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    if "RAY_ADDRESS" in os.environ:
        yield
        shutdown()
        return
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **node})
        try:
            for _ in range(2):
                cluster.add_node(**node)
            cluster.wait_for_nodes()
            patch.setenv("RAY_ADDRESS", cluster.address)
            yield
        finally:
            shutdown()
            cluster.shutdown()


@pytest.fixture(scope="module", autouse=True)
def seen(request: pytest.FixtureRequest, first_seen: dict[Living, str]) -> Iterator[None]:
    """Note what there is after a module."""
    yield
    for one in _living():
        first_seen.setdefault(one, request.node.nodeid)


def _living() -> set[Living]:
    """Return all threads, and all processes below this one that are no guards, forkservers, spares.

    A guard and its child, the forkserver, are started when first needed, and end with the run, and
    so do the spares.
    """
    processes: set[psutil.Process] = set()
    elsewhere = guards_elsewhere()
    for child in (*psutil.Process().children(), *elsewhere):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "pytest_localcluster._launch.guard" not in " ".join(child.cmdline()):
                processes |= {child, *child.children(recursive=True)}
                continue
            for forkserver in child.children():
                below = forkserver.children(recursive=True)
                processes.update(one for one in below if one.name() != SPARE.decode())
    return processes | set(threading.enumerate())
