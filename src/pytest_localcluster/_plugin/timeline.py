"""``--cluster-timeline``: a page and a trace of what happened to the clusters of a test.

Recording begins with the first cluster; both files are written when the test has been torn down,
and the report that is made of its failure says already where they will be.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from .. import _moments
from .._clock import now_ns
from .._core import text as names
from .._timeline.recorder import Phase, Recorder

if TYPE_CHECKING:
    from pathlib import Path

    from .._cluster import LocalCluster
    from .watch import Watch

__all__ = ["Timelines"]

_TITLE = "log of a timeline"
_NONE = "there is no timeline"
_MOST = 10
"""How many pages the summary names, those of failed tests."""


class Timelines:
    """Hooks of one pytest process; that of xdist's controller only tells where pages are.

    Args:
        watch: knows the clusters that run.
        mode: of which tests there are pages: ``"failed"`` or ``"all"``.
        config: of the run; says where they go.
        log_dir: where logs are kept, if they are.
    """

    def __init__(
        self, watch: Watch, mode: str, config: pytest.Config, log_dir: Path | None
    ) -> None:
        self._watch = watch
        self._mode = mode
        self._own_folder = log_dir is None
        below = config.rootpath / "cluster-timelines"
        self._folder = below if log_dir is None else log_dir / "timelines"
        self._recorder = Recorder()
        self._previous = _moments.record(self._recorder)
        self._item: pytest.Item | None = None
        self._stopped: list[LocalCluster] = []
        self._used: list[LocalCluster] = []  # those of these that were the test's
        self._failures: list[str] = []
        self._outcome = "passed"
        self._told = False
        self._interrupted = ""  # the page of the test that was
        watch.timelines = self

    def stopped(self, cluster: LocalCluster) -> None:
        """Learn that a cluster was stopped, which is of interest until its test is over."""
        self._recorder.stopped(cluster)
        self._stopped.append(cluster)
        if self._item is not None and cluster in self._watch.used_by(self._item):
            self._used.append(cluster)

    def close(self) -> None:
        """Record no more."""
        _moments.record(self._previous)
        self._recorder.close()

    # -- the test's own phases

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        self._begin(item)
        with self._phase("setup"):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        with self._phase("call"):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        with self._phase("teardown"):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object]
    ) -> Generator[None, object, object]:
        __tracebackhide__ = True  # nobody's failing fixture should show this frame
        with self._phase(fixturedef.argname, fixture=True):
            return (yield)

    def _phase(self, name: str, *, fixture: bool = False) -> _Timed:
        phase = Phase(name, now_ns(), fixture=fixture)
        self._recorder.phases.append(phase)
        return _Timed(phase)

    def _begin(self, item: pytest.Item) -> None:
        self._forget()
        self._item = item
        self._recorder.begin()
        self._failures.clear()
        self._outcome = "passed"
        self._told = False

    def _forget(self) -> None:
        for cluster in self._stopped:
            self._recorder.forget(cluster)
        self._stopped.clear()
        self._used.clear()

    # -- reports

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Write the page also if the test is interrupted: it may be for it hangs."""
        try:
            return (yield)
        except BaseException as error:
            if self._item is item and (clusters := self._used_by(item)):
                self._outcome = "interrupted"
                self._failures.append(f"{type(error).__name__}: {error}")
                page = self._page_of(item)
                if not self._write(page, item.nodeid, clusters):
                    self._interrupted = str(page)
            raise

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Say where the page will be, as soon as it is certain that there will be one."""
        report = yield
        if report.failed:
            self._outcome = "failed"
            self._failures.append(report.longreprtext)
        elif report.skipped and self._outcome == "passed":
            self._outcome = "skipped"
        wanted = self._outcome == "failed" or (self._mode == "all" and report.when != "setup")
        if wanted and (clusters := self._used_by(item)):
            page = self._page_of(item)
            trouble = ""
            if report.when == "teardown":
                trouble = self._write(page, item.nodeid, clusters)
                if trouble:
                    _say(item, report, f"{_NONE}: {trouble}\n{page}\n")
            if not self._told and not trouble:
                self._told = True
                trace = page.with_suffix(".trace.json")
                text = f"{page}\n{trace} (for https://ui.perfetto.dev)\n"
                if unrecorded := self._recorder.unrecorded(clusters):
                    tasks = ", ".join(map(str, unrecorded))
                    text += f"without the steps of {tasks}: no space was left on the disk\n"
                _say(item, report, text)
        if report.when == "teardown":
            self._item = None
            self._forget()
        return report

    def _page_of(self, item: pytest.Item) -> Path:
        return self._folder / f"{file_name(item.nodeid)}.html"

    def _used_by(self, item: pytest.Item) -> list[LocalCluster]:
        living = self._watch.used_by(item)
        return [*(cluster for cluster in self._used if cluster not in living), *living]

    def _write(self, page: Path, test: str, clusters: list[LocalCluster]) -> str:
        """Write both files; return why they could not be written."""
        from .._timeline.page import page_of
        from .._timeline.telling import tell_story
        from .._timeline.trace import trace_of

        failure = "\n\n".join(self._failures)
        try:
            story = tell_story(self._recorder, clusters, test, self._outcome, failure, now_ns())
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._own_folder:
                (self._folder / ".gitignore").write_text("*\n", encoding="utf-8")
            _put(page, page_of(story))
            _put(page.with_suffix(".trace.json"), trace_of(story))
        except Exception as error:  # whatever it is, it shall not be the end of the run
            return f"{type(error).__name__}: {error}"
        return ""

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say once more where the pages of failed tests are, and how many there are."""
        pages = {self._interrupted: True} if self._interrupted else {}
        missing: dict[str, str] = {}
        for category, reports in terminalreporter.stats.items():
            for report in reports:
                for title, text in getattr(report, "sections", ()):
                    first, _, rest = text.partition("\n")
                    if _TITLE in title and first.startswith(_NONE):
                        missing[rest.strip()] = first
                    elif _TITLE in title:
                        pages[first] = category in ("failed", "error") or pages.get(first, False)
        for page, why in missing.items():
            pages.pop(page, None)
            terminalreporter.line(f"{why} ({page})")
        if not pages:
            return
        count = f"{len(pages)} timeline{'s' if len(pages) > 1 else ''}"
        terminalreporter.line(f"{count} in {self._folder}")
        named = [page for page, failed in pages.items() if failed]
        for page in named[:_MOST]:
            terminalreporter.line(f"  {page}")
        if len(named) > _MOST:
            terminalreporter.line(f"  and {len(named) - _MOST} more of tests that failed")


class _Timed:
    """A block whose end, and failure, a phase is to have."""

    def __init__(self, phase: Phase) -> None:
        self._phase = phase

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._phase.end = now_ns()
        # A skip is no failure, and what ends the run is none of this phase's.
        self._phase.failed = kind is not None and (
            issubclass(kind, (Exception, pytest.fail.Exception))
            and not issubclass(kind, pytest.skip.Exception)
        )


def file_name(nodeid: str) -> str:
    """Return what the files of a test are called: the same in each run, and no other test's."""
    name = re.sub(r"\.py(?=::|$)", "", nodeid).replace("::", ".").replace("/", ".")
    safe = names.file_name(name)
    if safe == name:
        return safe
    return f"{safe}-{hashlib.sha256(nodeid.encode()).hexdigest()[:8]}"


def _say(item: pytest.Item, report: pytest.TestReport, text: str) -> None:
    item.add_report_section(report.when or "call", _TITLE, text)
    report.sections.append((f"Captured {_TITLE} {report.when}", text))


def _put(path: Path, text: str) -> None:
    """Write a file that only its owner can read, at once: nobody ever finds half of it."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)  # of an earlier process with this number
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    opened = os.open(beside, flags, 0o600)
    with os.fdopen(opened, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    beside.replace(path)
