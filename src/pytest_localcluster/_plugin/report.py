"""What a test's report says of clusters: what their tasks printed, and which died on their own."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

from .watch import stopped_tasks

if TYPE_CHECKING:
    from ..errors import ServerExited
    from .options import Options
    from .watch import Watch

__all__ = ["ClusterReport"]

LIMIT = 32 * 1024
"""How many bytes of one task's log a report shows, the last ones."""


_PACKAGE = __name__.partition(".")[0] + "."

_SUBTESTS = pytest.StashKey[list[tuple[str, str]]]()
"""The sections of a test's subtests that have failed."""


class ClusterReport:
    """Hooks of one pytest process; registered with its first cluster."""

    def __init__(self, watch: Watch, options: Options) -> None:
        self._watch = watch
        self._options = options

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        failure = None
        if call.excinfo is None and call.when != "setup":  # then the test has yet to run
            failure = self._fail_for_deaths(call)
        # The outcome is known only after this: unittest's failures and strict xfails are none yet.
        # The report's own list is what is shown, sent on by xdist and written to junit xml; the
        # item's makes the sections part of the test's later reports, from which junit takes them.
        report = yield
        if call.when == "setup" and _SUBTESTS in item.stash:
            del item.stash[_SUBTESTS]  # of the last try, where a plugin runs a test again
        subtest = self._watch.in_call and call.when == "call"
        shown = item.stash.get(_SUBTESTS, None)
        failed = report.failed or (shown is not None and report.when == "call" and not subtest)
        sections: list[tuple[str, str]] = []
        if failed:
            for watched in self._watch.clusters():
                watched.failed = True
            sections += self._deaths(call.excinfo.value if call.excinfo else None, failure)
            if chaos := [text for watched in self._watch.clusters() for text in watched.chaos()]:
                sections.append(("log of chaos", "\n".join(chaos) + "\n"))
            if tasks := stopped_tasks(report.longreprtext):
                sections.append(("log of stopped clusters", "\n".join(tasks) + "\n"))
        # What a subtest printed that passes is shown with what follows it.
        wanted = failed if self._options.logs == "failed" else self._options.logs == "all"
        if wanted and (failed or not subtest):
            sections += self._logs()
        if shown is not None and report.when == "call":  # each has its own report
            report.sections = [section for section in report.sections if section not in shown]
        for title, text in sections:
            item.add_report_section(report.when or "call", title, text)
            report.sections.append((f"Captured {title} {report.when}", text))
        if subtest and report.failed:
            item.stash.setdefault(_SUBTESTS, []).extend(
                (f"Captured {title} {report.when}", text) for title, text in sections
            )
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_exception_interact(
        self, node: pytest.Item | pytest.Collector, call: pytest.CallInfo[object]
    ) -> None:
        """Have ``--pdb`` stop in the test's own line, as the report shows it."""
        if call.excinfo is None or not node.config.getoption("usepdb", False):
            return
        # Reports go by a module's __tracebackhide__ too, pytest's pdb only by what looks like a
        # variable of the frame.
        for frame, _ in traceback.walk_tb(call.excinfo.value.__traceback__):
            name = str(frame.f_globals.get("__name__"))
            if name.startswith(_PACKAGE) and frame.f_globals.get("__tracebackhide__"):
                frame.f_locals["__tracebackhide__"] = True

    def _fail_for_deaths(self, call: pytest.CallInfo[None]) -> BaseException | None:
        """Let the test fail if tasks died in it on their own; return the failure."""
        deaths = self._watch.deaths(known=True)
        if not deaths:
            return None
        try:
            pytest.fail("\n".join(map(str, deaths)), pytrace=False)
        except pytest.fail.Exception as failure:
            call.excinfo = pytest.ExceptionInfo.from_current()
            return failure

    def _deaths(
        self, error: BaseException | None, failure: BaseException | None
    ) -> Iterator[tuple[str, str]]:
        """Yield what ``error``, the failure of the test, does not say of deaths."""
        texts = [str(d) for d in self._watch.deaths(known=True) if not _tells(error, d)]
        if failure is not None and error is not failure:
            # unittest keeps a failure to itself until its report is made, and then it hides ours.
            texts.insert(0, str(failure))
        if texts:
            yield "log of deaths", "\n".join(texts)

    def _logs(self) -> Iterator[tuple[str, str]]:
        """Yield what each task printed since the test, or its last report, began."""
        number = 0
        for watched in self._watch.clusters():
            printed = list(watched.printed(LIMIT))
            number += bool(printed)
            which = f" of cluster {number}" if number > 1 else ""
            for server, text, cut in printed:
                where = f"the whole log: {server.log.path}\n" if watched.cluster.log_dir else ""
                if cut:
                    where = where or "--cluster-log-dir=DIR keeps the whole log\n"
                    where = f"{cut} bytes before this are left out; {where}"
                yield f"log {server.task}{which}", f"{server!r}\n{where}{text}"

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the logs of passed tests, if asked for and if ``-rP`` does not do it."""
        if self._options.logs != "all" or "P" in terminalreporter.reportchars.replace("A", "P"):
            return
        for report in terminalreporter.stats.get("passed", []):
            sections = [section for section in report.sections if "log /job:" in section[0]]
            if sections:
                terminalreporter.section(f"logs of {report.nodeid}")
            for title, text in sections:
                terminalreporter.section(title, "-")
                terminalreporter.line(text.rstrip("\n"))


def _tells(error: BaseException | None, death: ServerExited) -> bool:
    """Tell whether ``error`` is, or was caused by, an error that reports this death already."""
    from ..errors import ClusterError

    while error is not None:
        if isinstance(error, ClusterError) and error.task == death.task:
            return True
        error = error.__cause__ or error.__context__
    return False
