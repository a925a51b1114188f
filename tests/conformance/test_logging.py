"""Log records of tasks in the test process: all of them, in order, by its levels."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_localcluster import LocalCluster, ServerExited, current_task, function
from pytest_localcluster._clock import Deadline, poll
from tests.conformance.conftest import PROCESSES, MakeCluster

pytestmark = pytest.mark.usefixtures("python")

NAME = "tests.of_logging"
log = logging.getLogger(NAME)
Caplog = pytest.LogCaptureFixture


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """Give back the levels that threads changed."""
    yield
    log.setLevel(logging.NOTSET)
    log.propagate = True
    logging.getLogger(f"{NAME}.deep").setLevel(logging.NOTSET)


def mine(caplog: Caplog) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name.startswith(NAME)]


def said(caplog: Caplog) -> list[str]:
    return [record.getMessage() for record in mine(caplog)]


def test_records_arrive_before_run_returns(cluster: LocalCluster, caplog: Caplog) -> None:
    def work() -> None:
        for n in range(200):
            log.info("%s: step %d", current_task().task, n)
        log.warning("100 % of it")

    caplog.set_level(logging.INFO)
    cluster.run(work)
    for task in ("/job:worker/task:0", "/job:worker/task:1"):
        own = [record for record in mine(caplog) if record.task == task]  # type: ignore[attr-defined]
        assert [record.getMessage() for record in own] == [
            *(f"{task}: step {n}" for n in range(200)),
            "100 % of it",
        ]
        assert {record.processName for record in own} == {task}
        assert own[0].levelname == "INFO"
        assert own[0].funcName == "work"
        assert own[0].message == own[0].getMessage()
        assert f"[{task}] 100 % of it\n" in caplog.text
    assert len(mine(caplog)) == 402, "none twice"


def test_a_task_logs_by_the_levels_of_the_test(cluster: LocalCluster, caplog: Caplog) -> None:
    deep = f"{NAME}.deep"

    def work() -> list[bool]:
        for name in (NAME, deep):
            for level in (logging.DEBUG, logging.INFO, logging.ERROR):
                logging.getLogger(name).log(level, "%s %d", name, level)
        return [logging.getLogger(deep).isEnabledFor(level) for level in (10, 20, 30, 40)]

    ps = cluster.ps[0]
    assert ps.run(work) == [False, False, True, True]
    assert said(caplog) == [f"{NAME} 40", f"{deep} 40"]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert ps.run(work) == [False, True, True, True]
        assert said(caplog) == [f"{name} {level}" for name in (NAME, deep) for level in (20, 40)]
        caplog.clear()
        caplog.handler.setLevel(logging.NOTSET)
        log.setLevel(logging.ERROR)
        logging.getLogger(deep).setLevel(logging.DEBUG)
        assert ps.run(work) == [True] * 4
        assert said(caplog) == [f"{NAME} 40", *(f"{deep} {level}" for level in (10, 20, 40))]
        log.setLevel(logging.NOTSET)
        logging.getLogger(deep).setLevel(logging.NOTSET)
        assert ps.run(work) == [False, True, True, True]
    logging.disable(logging.ERROR)
    try:
        assert ps.run(work) == [False] * 4
    finally:
        logging.disable(logging.NOTSET)
    assert ps.run(work) == [False, False, True, True]


def test_levels_that_a_task_sets_hold_there(cluster: LocalCluster, caplog: Caplog) -> None:
    def work() -> None:
        log.setLevel(logging.DEBUG)
        log.debug("in detail")

    cluster.ps[0].run(work)
    assert said(caplog) == ["in detail"]


def test_what_goes_on_in_the_background(cluster: LocalCluster, caplog: Caplog) -> None:
    def begin() -> None:
        def work() -> None:
            while not log.isEnabledFor(logging.INFO):
                os.sched_yield()
            log.info("in the background")

        threading.Thread(target=work, daemon=True).start()

    cluster.ps[0].run(begin)
    assert said(caplog) == []
    caplog.set_level(logging.INFO)
    assert poll(lambda: said(caplog), Deadline(20)) == ["in the background"]


def test_operations_and_the_start(make_cluster: MakeCluster, runtime: str, caplog: Caplog) -> None:
    if runtime != "native":
        pytest.skip("only the native runtime has operations")
    cluster = make_cluster(workers=1, ps=1)
    with cluster.session() as session:
        for level in (logging.INFO, logging.DEBUG):
            with caplog.at_level(level):
                session.run(function(lambda level=level: log.log(level, "operation %d", level))())
        session.run(function(lambda: log.debug("nothing"))())
        session.run(function(lambda: log.error("the last"))())
    assert poll(lambda: "the last" in said(caplog), Deadline(20))
    assert said(caplog) == ["operation 20", "operation 10", "the last"]


@pytest.mark.parametrize("launcher", PROCESSES, indirect=True)
class TestProcesses:
    @pytest.mark.parametrize(
        "end",
        [
            lambda: os._exit(3),
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            lambda: os.kill(os.getpid(), signal.SIGSEGV),
            lambda: sys.exit(3),
        ],
        ids=["_exit", "SIGKILL", "SIGSEGV", "exit"],
    )
    def test_nothing_is_lost_of_a_task_that_dies(
        self, cluster: LocalCluster, caplog: Caplog, end: Callable[[], None]
    ) -> None:
        def die() -> None:
            for n in range(1000):
                log.warning("%d", n)
            end()

        with pytest.raises(ServerExited):
            cluster.ps[0].run(die)
        assert said(caplog) == [str(n) for n in range(1000)]
        caplog.clear()
        cluster.workers[0].submit(die)
        cluster.workers[0].join(check=False)
        assert said(caplog) == [str(n) for n in range(1000)]

    def test_what_cannot_travel(self, cluster: LocalCluster, caplog: Caplog) -> None:
        class Own:
            def __str__(self) -> str:
                return "own"

        def work() -> None:
            lock = threading.Lock()
            log.warning("%s and %r", Own(), lock, extra={"number": 7, "lock": lock, "own": [Own()]})
            log.warning(Own())
            log.warning("%(a)s", {"a": lock})
            log.warning("%d", "no number")
            log.warning("no arguments %s", extra={"task": "mine"})
            try:
                raise LookupError("no model")
            except LookupError:
                log.exception("it failed", stack_info=True)

        cluster.ps[0].run(work)
        first, second, third, fourth, fifth, last = mine(caplog)
        assert first.getMessage().startswith("own and <unlocked _thread.lock")
        extra: Any = first
        assert extra.number == 7
        assert not hasattr(first, "lock")
        assert second.getMessage() == "own"
        assert third.getMessage().startswith("<unlocked")
        assert fourth.getMessage().startswith("'%d' cannot be formatted with ('no number',)")
        assert fifth.task == "mine"  # type: ignore[attr-defined]
        assert fifth.getMessage() == "no arguments %s"
        assert "[/job:ps/task:0] no arguments %s" in caplog.text
        assert last.exc_info is None
        assert 'raise LookupError("no model")' in caplog.text
        assert "LookupError: no model" in (last.exc_text or "")
        assert "in work" in (last.stack_info or "")

    def test_a_configuration_in_the_task(self, cluster: LocalCluster, caplog: Caplog) -> None:
        def work() -> None:
            logging.basicConfig(level=logging.INFO, format="here: %(message)s")
            log.info("by handlers there")
            log.propagate = False
            log.warning("to nobody there")
            logging.basicConfig(force=True, handlers=[logging.NullHandler()])
            log.warning("after all")

        cluster.ps[0].run(work)
        assert said(caplog) == ["by handlers there", "to nobody there", "after all"]
        assert cluster.ps[0].log.text().count("here: by handlers there\n") == 1

    def test_a_flood_is_cut(self, cluster: LocalCluster, caplog: Caplog) -> None:
        def flood() -> None:
            for n in range(20_000):
                log.info("%d", n)
            log.error("the end")

        caplog.set_level(logging.INFO)
        cluster.ps[0].run(flood)
        numbers = [int(text) for text in said(caplog) if text != "the end"]
        assert 5000 <= len(numbers) < 20_000
        assert numbers == sorted(numbers)
        assert numbers[:5000] == list(range(5000))
        assert said(caplog)[-1] == "the end", "of errors there was no flood"
        cut = [record for record in caplog.records if record.name == "pytest_localcluster"]
        assert sum(int(record.getMessage().split()[0]) for record in cut) == 20_000 - len(numbers)
        assert "log records are left out here" in cut[0].getMessage()
        assert cut[0].task == "/job:ps/task:0"  # type: ignore[attr-defined]

    def test_destructors_handlers_of_signals_and_threads(
        self, cluster: LocalCluster, caplog: Caplog
    ) -> None:
        def work() -> list[int]:
            class Noisy:
                def __init__(self) -> None:
                    self.cycle = self

                def __del__(self) -> None:
                    log.warning("gone")

            heard: list[None] = []

            def hear(*_: object) -> None:
                heard.append(None)
                if len(heard) <= 1000:  # with all the others fewer than a flood, however slow it is
                    log.warning("heard")

            signal.signal(signal.SIGPROF, hear)
            signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)

            def use() -> None:
                for n in range(200):
                    Noisy()
                    log.warning("%d", n)

            threads = [threading.Thread(target=use) for _ in range(4)]
            for thread in threads:
                thread.start()
            use()
            for thread in threads:
                thread.join()
            signal.setitimer(signal.ITIMER_PROF, 0)
            return [1]

        assert cluster.ps[0].run(work, timeout=60) == [1]
        numbers = [int(text) for text in said(caplog) if text.isdigit()]
        assert len(numbers) == 1000

    @pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
    def test_a_fork_of_a_task_has_its_own_handlers(
        self, cluster: LocalCluster, caplog: Caplog
    ) -> None:
        def work() -> None:
            if (pid := os.fork()) == 0:
                log.warning("in a fork")
                os._exit(0)
            os.waitpid(pid, 0)
            log.warning("in the task")

        cluster.ps[0].run(work)
        assert said(caplog) == ["in the task"]
        assert "in a fork\n" in cluster.ps[0].log.text()
