"""Log records of tasks in pytest's reports: captured, live, in a file, with and without xdist."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]
Ini = Callable[[str], object]

TEST = """
import logging
import threading
import pytest

log = logging.getLogger("trainer")

def work():
    log.debug("in detail")
    log.info("step 1")
    log.warning("loss is nan")
"""


@pytest.fixture(autouse=True)
def test_module(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=TEST
        + """
@pytest.fixture
def trained(local_cluster):
    local_cluster.ps[0].run(lambda: log.error("in setup"))
    yield
    local_cluster.ps[0].run(lambda: log.error("in teardown"))

def test_red(local_cluster, trained):
    local_cluster.workers[0].run(work)
    local_cluster.ps[0].submit(lambda: log.error("submitted")).result(60)
    assert 0
"""
    )


def test_captured_log(run_both: Run) -> None:
    result = run_both()
    result.stdout.fnmatch_lines(
        [
            "*Captured log setup*",
            "ERROR    trainer:test_it.py:* [[]/job:ps/task:0[]] in setup",
            "*Captured log call*",
            "WARNING  trainer:test_it.py:* [[]/job:worker/task:0[]] loss is nan",
            "ERROR    trainer:test_it.py:* [[]/job:ps/task:0[]] submitted",
            "*Captured log teardown*",
            "ERROR    trainer:test_it.py:* [[]/job:ps/task:0[]] in teardown",
        ],
        consecutive=False,
    )
    result.stdout.no_fnmatch_line("*step 1*")


def test_log_level_and_format(run_both: Run, ini: Ini) -> None:
    ini("log_level = INFO\nlog_format = %(processName)s says %(message)s at %(levelname)s\n")
    result = run_both()
    result.stdout.fnmatch_lines(
        [
            "/job:worker/task:0 says [[]/job:worker/task:0[]] step 1 at INFO",
            "/job:worker/task:0 says [[]/job:worker/task:0[]] loss is nan at WARNING",
        ]
    )
    result.stdout.no_fnmatch_line("*in detail*")


def test_live_log(run: Run) -> None:
    result = run("--log-cli-level=DEBUG", "--show-capture=no")
    result.stdout.fnmatch_lines(
        [
            "*live log setup*",
            "ERROR *trainer:test_it.py:* in setup",
            "*live log call*",
            "DEBUG *in detail",
            "INFO *step 1",
            "WARNING *loss is nan",
            "*live log teardown*",
            "ERROR *in teardown",
        ]
    )


def test_log_file(pytester: pytest.Pytester, run: Run) -> None:
    run("--log-file=log.txt", "--log-file-level=INFO")
    lines = pytester.path.joinpath("log.txt").read_text().splitlines()
    steps = [line for line in lines if "trainer" in line]
    assert [line.split("] ")[1] for line in steps] == [
        "in setup",
        "step 1",
        "loss is nan",
        "submitted",
        "in teardown",
    ]


def test_without_the_plugin_for_logging(run: Run) -> None:
    # What Python does with the records of a program that configures no handler.
    result = run("-p", "no:logging")
    result.stdout.fnmatch_lines(["*Captured stderr call*", "*loss is nan"])
    result.stdout.no_fnmatch_line("*step 1*")


def test_handlers_and_levels_of_the_test(pytester: pytest.Pytester, run_both: Run) -> None:
    pytester.makepyfile(
        test_it=TEST
        + """
pytestmark = pytest.mark.cluster(workers=1, ps=0, scope="module")

class Own(logging.Handler):
    def __init__(self):
        super().__init__()
        self.found = []
    def emit(self, record):
        self.found.append((record.task, record.getMessage()))

def test_own_handler(local_cluster):
    own = Own()
    log.addHandler(own)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    try:
        local_cluster.run(work)
    finally:
        log.removeHandler(own)
        log.setLevel(logging.NOTSET)
        log.propagate = True
    assert [message for _, message in own.found] == ["in detail", "step 1", "loss is nan"]
    assert own.found[0][0] == "/job:worker/task:0"

def test_handler_level(local_cluster, caplog):
    caplog.set_level(logging.DEBUG)
    caplog.handler.setLevel(logging.WARNING)
    local_cluster.run(work)
    assert caplog.messages == ["loss is nan"]

def test_given_back(local_cluster, caplog):
    local_cluster.run(work)
    assert caplog.messages == ["loss is nan"]
    assert caplog.record_tuples == [("trainer", logging.WARNING, "loss is nan")]

def test_filtering(local_cluster, caplog):
    with caplog.filtering(lambda record: "nan" not in record.getMessage()):
        local_cluster.run(work)
    assert caplog.messages == []

def test_a_handler_that_raises(local_cluster, caplog):
    class Bad(logging.Handler):
        def emit(self, record):
            raise LookupError("no handler")
    bad = Bad()
    log.addHandler(bad)
    try:
        assert local_cluster.run(lambda: (log.warning("1"), 5)[1]) == [5]
    finally:
        log.removeHandler(bad)

def test_a_factory(local_cluster, caplog):
    before = logging.getLogRecordFactory()
    def make(*args, **kwargs):
        record = before(*args, **kwargs)
        record.request = 7
        return record
    logging.setLogRecordFactory(make)
    try:
        local_cluster.run(work)
    finally:
        logging.setLogRecordFactory(before)
    assert caplog.records[0].request == 7

def test_from_a_coroutine(local_cluster, caplog):
    import asyncio
    async def main():
        await asyncio.wrap_future(local_cluster.workers[0].submit(work))
    asyncio.run(main())
    assert caplog.messages == ["loss is nan"]

def test_threads_and_loggers_below(local_cluster, caplog):
    def work():
        def log_below():
            logging.getLogger("trainer.below").debug("of a thread")
        thread = threading.Thread(target=log_below, name="helper")
        thread.start()
        thread.join()
    with caplog.at_level(logging.DEBUG, logger="trainer"):
        local_cluster.run(work)
    assert caplog.messages == ["of a thread"]
    assert caplog.records[0].threadName == "helper"
    assert caplog.records[0].process == local_cluster.workers[0].pid
"""
    )
    run_both().assert_outcomes(passed=8)


def test_several_workers_of_a_run(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        test_it=TEST
        + """
@pytest.mark.cluster(workers=1, ps=0, scope="run")
@pytest.mark.parametrize("n", range(6))
def test_it(local_cluster, caplog, n):
    caplog.set_level(logging.INFO)
    local_cluster.run(lambda: [log.info("%d: %d", n, i) for i in range(20)])
    assert caplog.messages == [f"{n}: {i}" for i in range(20)]
    assert {record.task for record in caplog.records} == {"/job:worker/task:0"}
"""
    )
    run("-n", "2").assert_outcomes(passed=6)


def test_outside_of_pytest(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(
        script="""
        import logging
        from pytest_localcluster import LocalCluster

        logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
        with LocalCluster(workers=1, ps=0) as cluster:
            cluster.run(lambda: logging.getLogger("trainer").info("step 1"))
        """
    )
    result = pytester.runpython(path)
    result.stderr.fnmatch_lines(["INFO [[]/job:worker/task:0[]] step 1"])
