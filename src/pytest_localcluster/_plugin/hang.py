"""Tests that hang: where everybody is, in the report, before somebody ends them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from .._core.text import printable
from .watch import stopped_tasks

if TYPE_CHECKING:
    from .watch import Watch

__all__ = ["HangDump", "TimeoutDump"]

_TITLE = "log of a hang"
_DUMPED = pytest.StashKey[bool]()


class HangDump:
    """Dumps once if a test with a cluster takes longer than ``seconds``; the test goes on."""

    def __init__(self, watch: Watch, seconds: float) -> None:
        self._watch = watch
        self._seconds = seconds

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Look at the clock beside the test, from its setup to its teardown."""
        from .._clock import Thread

        over = threading.Event()
        clock = Thread(target=self._wait, args=(item, over), name="cluster hang dump", daemon=True)
        clock.start()
        try:
            return (yield)
        finally:
            over.set()
            clock.join(10.0)  # it may be dumping, which has deadlines of its own

    def _wait(self, item: pytest.Item, over: threading.Event) -> None:
        waited = 0.0
        while not over.wait(self._seconds):
            waited += self._seconds
            if _is_debugged():
                continue  # somebody knows that it takes long
            text = where_everybody_is(self._watch, item, f"has run for {waited:g} s")
            if text:
                item.stash[_DUMPED] = True
                item.add_report_section(_phase(), _TITLE, text)
                if self._watch.shows_live:
                    sys.stdout.write(printable(f"\n{text}", sys.stdout))
                    sys.stdout.flush()
                return


class TimeoutDump:
    """Adds the same to what pytest-timeout shows, whichever way it ends a test."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Dump when the test was failed by a signal; its tasks are still where they were."""
        if call.excinfo is not None and _is_timeout(call.excinfo.value):
            text = where_everybody_is(self._watch, item, "was timed out", own=False)
            if text and not item.stash.get(_DUMPED, False):
                item.add_report_section(call.when, _TITLE, text)
        return (yield)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> bool | None:
        """Take the place of the timer that ends the process, to have a word before that."""
        import pytest_timeout  # type: ignore[import-untyped, unused-ignore]  # it called us

        in_main = threading.current_thread() is threading.main_thread()
        if settings.method != "thread" and not (settings.method == "signal" and not in_main):
            return None

        def expire() -> None:
            try:
                if settings.disable_debugger_detection or not pytest_timeout.is_debugging():
                    self._tell(item)
            finally:
                pytest_timeout.timeout_timer(item, settings)

        from .._clock import Timer  # not threading's, which a test may replace

        timer = Timer(settings.timeout, expire, f"pytest_timeout {item.nodeid}")

        def cancel() -> None:
            timer.cancel()
            timer.join()

        item.cancel_timeout = cancel  # type: ignore[attr-defined]  # where the plugin looks for it
        timer.start()
        return True

    def _tell(self, item: pytest.Item) -> None:
        text = where_everybody_is(self._watch, item, "is timed out", own=False)
        if not text:
            return
        capture = item.config.pluginmanager.getplugin("capturemanager")
        if capture is not None:
            capture.suspend_global_capture(item)
        terminal = item.config.get_terminal_writer()
        terminal.line()
        terminal.sep("~", title="Stacks of the tasks")
        terminal.write(text)
        terminal.flush()


def where_everybody_is(watch: Watch, item: pytest.Item, why: str, *, own: bool = True) -> str:
    """Return the stacks of a test's tasks, and of this process; "" if it uses no cluster.

    Args:
        watch: knows the clusters.
        item: the test.
        why: what has become of it.
        own: whether to show the test process's own, too.
    """
    clusters, stopped = watch.used_by(item), stopped_tasks(_dialled())
    if not clusters and not stopped:
        return ""
    from .._stacks import own_stacks, task_stacks

    parts = [f"{item.nodeid} {why}; this is where everybody is:"]
    parts += [f"--- the test has to do with {task}: nobody is there any more" for task in stopped]
    for cluster in clusters:
        for server, text in task_stacks(cluster.servers):
            parts.append(f"--- {server!r}\n{text.rstrip()}")
    if own:
        parts.append(f"--- the test process, pid {os.getpid()}\n{own_stacks().rstrip()}")
    return "\n".join(parts) + "\n"


def _dialled() -> str:
    """Return the addresses that TensorFlow's context dials here; "" if there are none."""
    clients = sys.modules.get(f"{__package__.partition('.')[0]}._runtimes.tensorflow.clients")
    return "" if clients is None else " ".join(clients.dialled_addresses())


def _is_debugged() -> bool:
    terminal = sys.modules.get(f"{__package__.partition('.')[0]}._terminal")
    return terminal is not None and terminal.in_use()


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, pytest.fail.Exception) and str(error).startswith("Timeout ")


def _phase() -> str:
    """Return what of the test runs: pytest says so to whoever wants to know."""
    phase = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[2].rstrip(")")
    return phase if phase in ("setup", "call", "teardown") else "call"
