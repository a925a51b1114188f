"""``scope="run"``: the clusters that all workers of xdist share; without it, those of the session.

Nobody resets them: when one test begins, others may be in the middle of using them.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from .marker import param_of, scope_of
from .watch import add_note

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._cluster import LocalCluster
    from .._config import ClusterConfig
    from .._steward.link import Member
    from .options import Options
    from .watch import Watch

__all__ = ["RUN", "WHERE", "RunScope", "where_asked"]

WHERE = "_localcluster_where"
"""The attribute of the function of a cluster_fixture() of scope "run": where that is called."""

_MARKER = "local_cluster"


class RunScope:
    """What one pytest process has of the clusters of its run.

    Args:
        config: of this process.
        options: what was asked for on the command line.
        watch: knows the clusters that run.
    """

    def __init__(self, config: pytest.Config, options: Options, watch: Watch) -> None:
        self._config = config
        self._options = options
        self._watch = watch
        self._shared: list[LocalCluster] = []  # by tests, by way of the marker
        self._joined: Member | None = None
        self.of_many = hasattr(config, "workerinput")

    @property
    def _member(self) -> Member:
        from .._steward.link import Member

        if self._joined is None:
            workerinput: dict[str, Any] = getattr(self._config, "workerinput", {})
            # Runs of other interpreters and suites do not share it, even if they were given one id.
            self._joined = Member(
                workerinput["testrunuid"], sys.executable, self._config.rootpath, sys.hexversion
            )
        return self._joined

    def join(self, items: Iterable[pytest.Item]) -> None:
        """Connect to the steward if one of these tests will use it: it lasts as long as we do.

        A worker that came to it later might find another one: for its first cluster, the steward
        would have had no worker but one that crashed.
        """
        if self.of_many and any(map(_wants, items)):
            from ..errors import ClusterError

            with suppress(ClusterError):  # the test that needs it will be told
                self._member.join()

    def leave(self) -> None:
        """Take leave of it: no test will use it any more. Idempotent."""
        if self._joined is not None:
            self._joined.leave()

    def prepare(self, config: ClusterConfig) -> None:
        """Have the steward get ready to start a cluster."""
        from .._steward.cluster import prepare

        prepare(self._member, config, self._options.port_range)

    def new(self, config: ClusterConfig, name: str, where: str) -> LocalCluster:
        """Return the cluster of that config, not started yet.

        Args:
            config: what it is.
            name: of the fixture.
            where: that is defined; clusters of one config are two if they are from two places.
        """
        if self.of_many:
            from .._steward.cluster import RunCluster

            return RunCluster(
                config,
                self._member,
                name=f"run-{name}",
                where=where,
                logs=self._options.log_dir,
                ports=self._options.port_range,
            )
        from .._cluster import LocalCluster

        return LocalCluster(config, log_dir=self._watch.new_folder(".", shared_by=f"run-{name}"))

    def shared(self, item: pytest.Item, config: ClusterConfig) -> LocalCluster:
        """Return the cluster that all tests with this ``config`` share, with all tasks alive."""
        cluster = next((one for one in self._shared if one.config == config), None)
        if cluster is not None and cluster._open is None:
            add_note(item, "the cluster that this test shares was replaced: a test stopped it", [])
            self._shared.remove(cluster)
            cluster = None
        if cluster is None:
            cluster = self.new(config, _MARKER, "")
            item.session.addfinalizer(cluster._clean_up)
            cluster.start()
            self._watch.shared(cluster)
            self._shared.append(cluster)
        self._watch.revive(cluster)
        return cluster


RUN = pytest.StashKey[RunScope]()


def where_asked() -> str:
    """Return where the caller was called: the same in every worker."""
    frame = sys._getframe(2)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _wants(item: pytest.Item) -> bool:
    """Tell whether a test says that it uses a cluster of the run."""
    from ..errors import SpecError

    with suppress(SpecError):  # which is told elsewhere
        uses = _MARKER in getattr(item, "fixturenames", ())
        if uses and scope_of(item, param_of(item)) == "run":
            return True
    definitions = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    return any(hasattr(found[-1].func, WHERE) for found in definitions.values() if found)
