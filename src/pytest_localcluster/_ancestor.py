"""The function that this package descends from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._cluster import LocalCluster
from ._config import ClusterConfig
from ._observer import observer
from .errors import SpecError

if TYPE_CHECKING:
    from ._server import Server

__all__ = ["create_local_cluster"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

SCOPES = ("function", "class", "module", "package", "session")


def create_local_cluster(
    num_workers: int,
    num_ps: int,
    protocol: str = "grpc",
    worker_config: Any = None,
    ps_config: Any = None,
    *,
    scope: str | None = None,
    **config: Any,
) -> tuple[list[Server], list[Server]]:
    """Start a cluster as ``tf.test.create_local_cluster`` does.

    Called while a fixture is being set up, its servers live as long as that fixture; called in a
    test, until the test ends, or with a ``scope`` as long as that; otherwise until the interpreter
    exits, or ``server.cluster.stop()``.
    Under pytest it begins with what the command line and the ini file ask for, as fixtures do.

    Args:
        num_workers: tasks of job ``worker``.
        num_ps: tasks of job ``ps``.
        protocol: ``"grpc"``.
        worker_config: a ConfigProto for every worker.
        ps_config: a ConfigProto for every ps.
        scope: how long it lives, by pytest's scopes: "function", "class", "module", "package" or
            "session" of the running test. For a cache that keeps servers for later tests, which
            find them as the last test left them.
        config: any other field of ClusterConfig.

    Returns:
        ``(worker_servers, ps_servers)``, each by task index.

    Raises:
        SpecError: asked for what cannot exist.
        StartError: a task did not come up.
        ImportError: portpicker cannot be imported.
    """
    if scope is not None and scope not in SCOPES:
        raise SpecError(
            f"no scope {scope!r}", remedy=f"use one of {', '.join(map(repr, SCOPES))}, or None"
        )
    watcher = observer()
    defaults = ClusterConfig() if watcher is None else watcher.defaults()
    wanted = defaults.replace(
        workers=num_workers,
        ps=num_ps,
        protocol=protocol,
        worker_config=worker_config,
        ps_config=ps_config,
        **config,
    )
    cluster = LocalCluster(wanted)
    if watcher is not None:
        watcher.created(cluster, scope)
    cluster.start()
    return cluster.workers, cluster.ps
