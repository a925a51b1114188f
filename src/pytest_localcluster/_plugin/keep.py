"""``--cluster-keep=failed``: the cluster of a test that fails is left running, to be looked at.

It is handed over when the test has failed, before anything is torn down, and goes on being the
test's own until its fixture lets go of it. See :mod:`pytest_localcluster._launch.keeping` for who
has it then.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from .._cluster import LocalCluster
    from .watch import Watch
    from .watched import Watched

__all__ = ["KeepFailed"]

_TITLE = "log of a kept cluster"
_KEPT = "kept by "

_MOST = 8
"""How many clusters a pytest process leaves running: a suite that is all red shall not fill the
machine."""


class KeepFailed:
    """Hooks of one pytest process; that of xdist's controller only counts.

    Args:
        watch: knows the clusters that run.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._kept = 0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Keep what a failed test has for itself, and say what to do with it."""
        report = yield
        if report.failed and report.when != "teardown":
            used = self._watch.used_by(item)
            for watched in self._watch.clusters():
                if watched.cluster in used and not watched.kept:
                    text = self._keep(watched, item.nodeid)
                    item.add_report_section(report.when or "call", _TITLE, text)
                    report.sections.append((f"Captured {_TITLE} {report.when}", text))
        return report

    def _keep(self, watched: Watched, nodeid: str) -> str:
        """Return what has become of a cluster."""
        from .. import __version__
        from .._attached import AttachedCluster
        from .._handover import keep
        from ..errors import ClusterError

        cluster = watched.cluster
        if isinstance(cluster, AttachedCluster):
            return f"{cluster!r} runs on: it is not of this run\n"
        if watched.lasts:
            return (
                f"{cluster!r} is not kept: it is of a fixture or marker of a wider scope, and goes "
                "on with the next tests\n  To fix this: run this test with a scope of 'function'\n"
            )
        if self._kept >= _MOST:
            return (
                f"{cluster!r} is not kept: {_MOST} others are already\n"
                "  To fix this: run this test alone, or with -x\n"
            )
        try:
            path = keep(cluster, __version__)
        except ClusterError as error:
            return f"{cluster!r} is not kept\n{error}\n"
        watched.kept = True
        self._kept += 1
        return "\n".join(_how_to(cluster, path, nodeid)) + "\n"

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say once more what runs on: nobody should find out by chance."""
        lines: dict[str, None] = {}  # in order, and once: subtests have reports of their own
        for report in terminalreporter.getreports("failed") + terminalreporter.getreports("error"):
            for title, text in report.sections:
                line = text.partition("\n")[0]
                if _TITLE in title and _KEPT in line:
                    lines[line] = None
        for line in lines:
            terminalreporter.line(line)


def _how_to(cluster: LocalCluster, path: Path, nodeid: str) -> Iterator[str]:
    """Yield how to look at a cluster that was kept, and how to end it; the first line says both."""
    command = "python -m pytest_localcluster"
    yield f"{cluster!r} is {_KEPT}{nodeid}; to end it: {command} down {path}"
    for server in cluster.servers:
        yield f"  {server!r}"
    suspended = [str(server.pid) for server in cluster.servers if server.is_suspended()]
    if suspended:
        yield f"  to wake those that are suspended: kill -CONT {' '.join(suspended)}"
    native = [s for s in cluster.servers if not s._life.place.runtime.instead_of_session]
    yield f'  what clients need, for a shell: eval "$({command} env {path})"'
    for server in native[:1]:
        yield f'  a session, in Python started from there: Session("{server.target}")'
    living = [server for server in cluster.servers if server.is_alive()]
    for server in living[:1]:
        pid = server.pid
        yield (
            f"  a debugger: gdb -p {pid}, or py-spy dump --pid {pid}; "
            f"from Python 3.14 on python -m pdb -p {pid}"
        )
        yield f"  logs: tail -f {server.log.path.with_name('*.log')}"
    yield f"  tests: pytest --cluster-attach={path}, which resets it first if all tasks are native"
