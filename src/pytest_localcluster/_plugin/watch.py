"""Every cluster that lives in this pytest process: whose it is, and what it did during this test.

The watch is the process's :class:`Observer`, so it sees each cluster, however it was started:
by a fixture, by ``create_local_cluster`` in a helper, by a ``with`` statement in a test.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Generator, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .._core.text import file_name, printable

if TYPE_CHECKING:
    from .._cluster import LocalCluster
    from .._config import ClusterConfig
    from .._server import Server
    from ..errors import ServerExited
    from .debugging import Debugging
    from .options import Options
    from .timeline import Timelines
    from .watched import Watched

__all__ = ["WATCH", "Watch", "add_note", "stopped_tasks"]

_PACKAGE = __name__.partition(".")[0]


class Watch:
    """Keeps track of clusters; ties each to the fixture or test that runs when it is made."""

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self._config = config
        self._plugins = config.pluginmanager
        self._options = options
        worker = getattr(config, "workerinput", {})
        self._worker = worker.get("workerid", "")
        self.run = worker.get("testrunuid", "")
        # Without pytest's own plugin for it nothing is captured either.
        self.shows_live = config.getoption("capture", "no") == "no" and not self._worker
        self.timelines: Timelines | None = None  # who is told what stops, if they are asked for
        self._live: list[Watched] = []
        self._ended: list[Watched] = []
        self._item: pytest.Item | None = None
        self._owner: pytest.Item | None = None
        self._fixtures: list[pytest.FixtureRequest] = []
        self._revived: list[tuple[str, LocalCluster]] = []
        self._started: list[LocalCluster] = []  # during this test, and by itself
        self._lasting: dict[LocalCluster, Any] = {}  # for more than one test
        self.in_call = False  # a report that is made now is of a subtest

    # -- the Observer: called by clusters

    def log_dir(self, cluster: LocalCluster) -> Path | None:
        """Return a new folder named after the running test or fixture."""
        if (node := self._lasting.get(cluster)) is not None:
            return self.new_folder(node.nodeid, shared_by="create_local_cluster")
        if self._fixtures:
            request = self._fixtures[-1]
            shared_by = "" if request.scope == "function" else request.fixturename or ""
            return self.new_folder(request.node.nodeid, shared_by=shared_by)
        return self.new_folder("outside-of-tests" if self._item is None else self._item.nodeid)

    def launched(self, cluster: LocalCluster) -> None:
        """Begin to watch a cluster; with ``-s`` show what its tasks print, as they print it."""
        from .watched import Watched

        self.begin_to_report()
        if cluster not in self._lasting:
            self._started.append(cluster)
        follower = None
        if self.shows_live:
            from .._logs import follow

            follower = follow([(f"[{s.task}]", s.log) for s in cluster.servers], _write)
        fixture = self._fixtures[-1].fixturename if self._fixtures else None
        lasts = bool(self._fixtures) and self._fixtures[-1].scope != "function"
        if cluster in self._lasting:
            fixture, lasts = None, True
        self._live.append(Watched(cluster, follower, fixture, lasts))

    def stopped(self, cluster: LocalCluster) -> None:
        """Go on showing the cluster in this test's report, and then forget it."""
        if self.timelines is not None:
            self.timelines.stopped(cluster)
        for watched in [watched for watched in self._live if watched.cluster is cluster]:
            watched.ended()
            self._live.remove(watched)
            self._ended.append(watched)
        if cluster in self._started:
            self._started.remove(cluster)

    def defaults(self) -> ClusterConfig:
        """Return what the command line and the ini file ask for."""
        return self._options.cluster_config()

    def created(self, cluster: LocalCluster, scope: str | None) -> None:
        """Let a cluster live as long as the fixture being set up, or else the test that runs.

        With a scope it lives as long as that of the test; beyond tests, as long as the run.
        """
        if scope is not None and self._owner is not None:
            node = _node_of(self._owner, scope)
            if self._fixtures and not _is_within(self._fixtures[-1].node, node):
                raise _narrower(scope, self._fixtures[-1])
            node.addfinalizer(cluster._clean_up)
            if node is not self._owner:
                self._lasting[cluster] = node
                node.addfinalizer(partial(self._lasting.pop, cluster, None))
        elif self._fixtures:
            self._fixtures[-1].addfinalizer(cluster._clean_up)
        elif self._owner is not None:
            self._owner.addfinalizer(cluster._clean_up)

    @cached_property
    def debugging(self) -> Debugging:
        """Who knows of the terminal."""
        from .debugging import Debugging

        return Debugging(self._config, self)

    def begin_to_report(self) -> None:
        """Register what adds to reports, which a suite without clusters need not pay for."""
        if not self._plugins.has_plugin("localcluster-report"):
            from .report import ClusterReport
            from .warned import TaskWarnings

            self._plugins.register(ClusterReport(self, self._options), "localcluster-report")
            self._plugins.register(TaskWarnings(self), "localcluster-warnings")

    # -- for fixtures

    @contextlib.contextmanager
    def reviving(self, fixture: str, cluster: LocalCluster) -> Iterator[None]:
        """Restart what is dead of ``cluster`` before each test that uses ``fixture``."""
        entry = (fixture, cluster)
        self._revived.append(entry)
        try:
            yield
        finally:
            self._revived.remove(entry)

    def revive(self, cluster: LocalCluster) -> None:
        """Restart what is dead of ``cluster`` for the test that runs, which is told of it."""
        restarted = cluster.restart_dead()
        if restarted and self._item is not None:
            add_note(self._item, "these tasks were restarted for this test", restarted)
        for watched in self._live:
            if watched.cluster is cluster:
                watched.deaths(known=True)

    def shared(self, cluster: LocalCluster) -> None:
        """Learn that a cluster is ours to stop, after some later test."""
        if cluster in self._started:
            self._started.remove(cluster)
        for watched in self._live:
            watched.lasts |= watched.cluster is cluster

    def new_folder(self, nodeid: str, *, shared_by: str = "") -> Path | None:
        """Make and return a new folder for the logs of a cluster; None if none are to be kept.

        It is named after the test, or after the class or module and ``shared_by``, the fixture, and
        the xdist worker. A number is added if the folder exists, from an earlier run as well.
        """
        if self._options.log_dir is None:
            return None
        name = re.sub(r"\.py(?=::|$)", "", nodeid).replace("::", ".").replace("/", ".")
        if shared_by:
            parts = ("" if name == "." else name, shared_by, self._worker)
            name = "-".join(part for part in parts if part)
        from .._logs import new_folder

        return new_folder(self._options.log_dir, file_name(name))

    # -- for the report

    def living(self) -> list[Watched]:
        """Return what lives now."""
        return list(self._live)

    def clusters(self) -> list[Watched]:
        """Return what lives now or ended during this test, in the order of their starts."""
        return [*self._ended, *self._live]

    def used_by(self, item: pytest.Item) -> list[LocalCluster]:
        """Return the clusters that live, but for those of fixtures that the test does not use."""
        names = getattr(item, "fixturenames", ())
        return [
            watched.cluster
            for watched in list(self._live)
            if watched.fixture is None
            or watched.fixture in names
            or watched.cluster._held.since == item.nodeid
        ]

    def started_in(self, nodeid: str) -> list[LocalCluster]:
        """Return the clusters that this test has started, and that run on."""
        found = [cluster for cluster in self._started if cluster._held.since == nodeid]
        self._started.clear()
        return found

    def deaths(self, *, known: bool = False) -> list[ServerExited]:
        """Return the tasks that died on their own during this test and are not reported yet."""
        return [death for watched in self.clusters() for death in watched.deaths(known=known)]

    # -- hooks

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._test_is_over(item.nodeid)  # the last try, where a plugin runs a test again
        self._item, self._owner = item, item
        names = getattr(item, "fixturenames", ())
        for fixture, cluster in self._revived:
            if fixture in names:
                self.revive(cluster)
        for watched in self._live:
            watched.begin()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        self.in_call = True
        try:
            return (yield)
        finally:
            self.in_call = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self) -> None:
        self._owner = None  # who is being torn down cannot take over a cluster any more

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._test_is_over(nodeid)
        self._item = None

    def _test_is_over(self, nodeid: str) -> None:
        if self._item is not None:
            for watched in self._ended:
                watched.test_is_over(nodeid)
        self._forget_ended()
        if (stopped := _stopped()) is not None:
            stopped.forget_reads()

    def _forget_ended(self) -> None:
        for watched in self._ended:
            watched.tidy()
        self._ended.clear()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        __tracebackhide__ = True  # nobody's failing fixture should show this frame
        self._fixtures.append(request)
        try:
            return (yield)
        finally:
            self._fixtures.pop()

    def close(self) -> None:
        """Stop what nobody stopped."""
        for watched in reversed(self._live[:]):
            from ..errors import ClusterError

            try:
                watched.cluster._clean_up()
            except ClusterError as error:
                # The run is over: nothing is left that could fail.
                sys.stderr.write(printable(f"{error}\n", sys.stderr))
        self._forget_ended()


WATCH = pytest.StashKey[Watch]()


def _stopped() -> Any:
    """Return the module of what has stopped; None if no cluster has been here."""
    return sys.modules.get(f"{_PACKAGE}._core.stopped")


def stopped_tasks(text: str = "") -> list[str]:
    """Return what is known of stopped tasks that the running test asks for, or a text names."""
    stopped = _stopped()
    if stopped is None:
        return []
    return [str(task) for task in dict.fromkeys([*stopped.reads(), *stopped.about(text)])]


def _node_of(item: pytest.Item, scope: str) -> Any:
    """Return what of the test's surroundings a scope ends with."""
    kinds: dict[str, Any] = {
        "class": pytest.Class,
        "module": pytest.Module,
        "package": pytest.Package,
        "session": pytest.Session,
    }
    if scope == "function":
        return item
    nodes = [node for node in item.listchain() if isinstance(node, kinds[scope])]
    if scope == "class":  # a function outside of a class is one of its own, as for fixtures
        return nodes[-1] if nodes else item
    return nodes[-1] if nodes else item.session


def _is_within(node: Any, outer: Any) -> bool:
    return outer in node.listchain()


def _narrower(scope: str, fixture: pytest.FixtureRequest) -> Exception:
    from ..errors import SpecError

    return SpecError(
        f"scope={scope!r} ends before the fixture {fixture.fixturename!r}, which is being set up",
        remedy=f"leave it out, or use scope={fixture.scope!r} or a wider one",
    )


def add_note(item: pytest.Item, what: str, servers: list[Server]) -> None:
    """Have the test's report say what it does not find as the last one left it, and why."""
    lines = [f"{what}:" if servers else what]
    for server in servers:
        death = server.unexpected_death()
        asked = f"{server.task}: it was ended on purpose, or by what an earlier test was told of"
        lines.append(asked if death is None else str(death))
    item.add_report_section("setup", "log of replaced tasks", "\n".join(lines) + "\n")


def _write(text: str) -> Any:
    sys.stdout.write(printable(text, sys.stdout))
    sys.stdout.flush()
