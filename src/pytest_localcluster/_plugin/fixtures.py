"""The fixtures. Each is a few lines around ``with LocalCluster(...)``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from .marker import wanted
from .options import OPTIONS
from .run import RUN, WHERE, where_asked
from .watch import WATCH, add_note

if TYPE_CHECKING:
    from .._cluster import LocalCluster
    from .._config import ClusterConfig
    from .._ports import PortLease

__all__ = [
    "FIELDS",
    "cluster_config",
    "cluster_factory",
    "cluster_fixture",
    "lease_port",
    "local_cluster",
    "session_cluster",
]

FIELDS = "_localcluster_fields"
"""The attribute of the function of a cluster_fixture() that tells what was asked for."""

_SHARED = pytest.StashKey["list[LocalCluster]"]()


@pytest.fixture(scope="session")
def cluster_config(request: pytest.FixtureRequest) -> ClusterConfig:
    """The config that every cluster begins with; from ini and command line. Override it at will."""
    return request.config.stash[OPTIONS].cluster_config()


@pytest.fixture
def local_cluster(
    request: pytest.FixtureRequest, cluster_config: ClusterConfig
) -> Iterator[LocalCluster]:
    """The running cluster that ``@pytest.mark.cluster(...)`` describes, else 1 worker and 1 ps."""
    scope, config = wanted(request.node, _base(cluster_config), getattr(request, "param", None))
    with contextlib.ExitStack() as stack:
        attachment = request.config.stash[OPTIONS].attachment
        if scope == "function" or attachment is not None:  # which is reset for each test anyway
            cluster = stack.enter_context(_new_cluster(request, config))
        elif scope == "run":
            cluster = request.config.stash[RUN].shared(request.node, config)
        else:
            cluster = _shared_cluster(request.node, scope, config)
        unittest = sys.modules.get("unittest")
        if unittest is not None and isinstance(request.instance, unittest.TestCase):
            request.instance.local_cluster = cluster  # its tests take no arguments
        yield cluster


@pytest.fixture(scope="session")
def session_cluster(
    request: pytest.FixtureRequest, cluster_config: ClusterConfig
) -> Iterator[LocalCluster]:
    """One cluster for the whole run, from ``cluster_config``; not reset between tests."""
    with _lasting_cluster(request, _base(cluster_config)) as cluster:
        yield cluster


@pytest.fixture
def cluster_factory(
    request: pytest.FixtureRequest, cluster_config: ClusterConfig
) -> Iterator[Callable[..., LocalCluster]]:
    """Start more clusters: ``cluster_factory(workers=3)``; all stop at the end of the test."""
    base = _base(cluster_config)
    with contextlib.ExitStack() as stack:

        def start(**fields: Any) -> LocalCluster:
            return stack.enter_context(_new_cluster(request, base.replace(**fields)))

        yield start


@pytest.fixture
def lease_port() -> Iterator[Callable[[], PortLease]]:
    """``lease_port()`` returns a PortLease that nobody else gets until the test ends."""
    from .. import _ports

    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(_ports.lease_port())


def cluster_fixture(*, scope: Any = "function", **fields: Any) -> Any:
    """Return a fixture that is a running cluster, under a name and scope of your own.

    Write ``pair = cluster_fixture(scope="module", workers=2)`` in a conftest or a test module.
    Other fixtures of that scope can use it. It is not reset between the tests of its scope, since
    what those fixtures put there must last; tasks that died are restarted before the next test.

    Args:
        scope: any scope of a pytest fixture; or "run", which is "session", but one cluster for all
            workers of pytest-xdist.
        fields: fields of :class:`ClusterConfig`, on top of the fixture ``cluster_config``. An
            indirect parameter, a mapping of fields, goes on top of these.

    Raises:
        SpecError: a field that is none, or whose value cannot be.
    """
    from .._config import ClusterConfig

    # A mapping by job is checked later: its jobs may come from cluster_config.
    checked = {
        name: value
        for name, value in fields.items()
        if not (name == "runtime" and isinstance(value, Mapping))
    }
    ClusterConfig().replace(**checked)

    def cluster(
        request: pytest.FixtureRequest, cluster_config: ClusterConfig
    ) -> Iterator[LocalCluster]:
        """A running cluster, made by cluster_fixture()."""
        config = _base(cluster_config).replace(**{**fields, **getattr(request, "param", {})})
        with _lasting_cluster(request, config, where) as cluster:
            yield cluster

    setattr(cluster, FIELDS, fields)
    where = ""
    if scope == "run":
        scope, where = "session", where_asked()
        setattr(cluster, WHERE, where)
    return pytest.fixture(scope=scope)(cluster)


def _new_cluster(
    request: pytest.FixtureRequest, config: ClusterConfig, where: str = ""
) -> LocalCluster:
    attachment = request.config.stash[OPTIONS].attachment
    if attachment is not None:
        return attachment.cluster(config)
    if where:
        return request.config.stash[RUN].new(config, request.fixturename or "", where)
    from .._cluster import LocalCluster

    return LocalCluster(config)


@contextlib.contextmanager
def _lasting_cluster(
    request: pytest.FixtureRequest, config: ClusterConfig, where: str = ""
) -> Iterator[LocalCluster]:
    watch = request.config.stash[WATCH]
    with (
        _new_cluster(request, config, where) as cluster,
        watch.reviving(request.fixturename or "", cluster),
    ):
        if request.scope != "function":
            watch.shared(cluster)
        if where:
            watch.revive(cluster)  # another worker may have found it with dead tasks
        yield cluster


def _base(config: object) -> ClusterConfig:
    """Return what ``cluster_config`` gave, which anybody may have overridden with anything."""
    from .._config import ClusterConfig
    from ..errors import SpecError

    if not isinstance(config, ClusterConfig):
        raise SpecError(
            f"the fixture cluster_config returned {config!r}",
            remedy="return a pytest_localcluster.ClusterConfig",
        )
    return config


def _shared_cluster(item: pytest.Item, scope: str, config: ClusterConfig) -> LocalCluster:
    """Return the cluster that tests of ``scope`` with this ``config`` share, as if just started."""
    from .._cluster import LocalCluster
    from ..errors import ClusterError

    kind: Any = {"class": pytest.Class, "module": pytest.File, "session": pytest.Session}[scope]
    nodes = [node for node in item.listchain() if isinstance(node, kind)]
    # A function outside of a class is a class's scope of its own, as it is for pytest's fixtures.
    node = nodes[-1] if nodes else item
    clusters = node.stash.setdefault(_SHARED, [])
    for cluster in clusters:
        if cluster.config == config:
            dead = [server for server in cluster.servers if not server.is_alive()]
            why = "a task of it was not alive any more"
            if not dead:
                try:
                    cluster.reset()
                    return cluster
                except ClusterError as error:  # as good as dead
                    why = f"it could not be reset: {error}"
            clusters.remove(cluster)
            add_note(item, f"the cluster that this test shares was replaced: {why}", dead)
            cluster.stop()
            break
    folder = item.config.stash[WATCH].new_folder(node.nodeid, shared_by=f"{scope}-local_cluster")
    cluster = LocalCluster(config, log_dir=folder)
    node.addfinalizer(cluster._clean_up)
    cluster.start()
    item.config.stash[WATCH].shared(cluster)
    clusters.append(cluster)
    return cluster
