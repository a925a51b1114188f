"""What the workers of xdist share: it imports once, holds nobody up, and takes nobody along."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_localcluster._clock import Deadline, poll
from tests.survivors.conftest import Record, Start
from tests.survivors.runs import SECONDS, Run, family_of

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="goes by pidfds")

SUITE = """
import os, signal
import pytest

@pytest.mark.cluster(workers=1, ps=0, preload=["ahead"])
@pytest.mark.parametrize("n", range({tests}))
def test_it(local_cluster, n):
    (pid,), (imported,) = local_cluster.run(os.getpid), local_cluster.run(who_imported)
    files = [str(server.log.path) for server in local_cluster.servers]
    at("it", started=[pid], imported=imported, files=files)
    assert local_cluster.run(os.getpid) == [pid]

def who_imported():
    import ahead
    return ahead.pid
"""
AHEAD = """
import os, subprocess
pid = os.getpid()
helper = subprocess.Popen(["sleep", "1000"])
"""


def start_two(start: Start, tests: int = 2) -> tuple[Run, list[dict[str, Any]]]:
    run = start(SUITE.format(tests=tests), "-n2", ahead=AHEAD)
    return run, [run.reached("it") for _ in range(2)]


def test_all_workers_have_the_same_imports(start: Start, record: Record) -> None:
    run, told = start_two(start)
    assert told[0]["pid"] != told[1]["pid"]
    families = [set(family_of(one["pid"], one["started"])) for one in told]
    assert not families[0] & families[1], "each has tasks, a forkserver and a guard of its own"
    (importer,) = {one["imported"] for one in told}
    hub = psutil.Process(importer).parent()
    assert hub is not None
    assert hub not in families[0] | families[1]
    run.note()
    for one in told:
        run.go(one)
    assert run.process.wait() == 0
    record(run.seconds_until_nobody_is_left())
    assert run.leftovers() == []


def test_who_began_with_it_may_go(start: Start, record: Record) -> None:
    run, told = start_two(start, tests=6)
    (importer,) = {one["imported"] for one in told}
    for one in told:  # one of both has started it
        family = [each.pid for each in family_of(one["pid"], one["started"])]
        run.note()
        os.kill(one["pid"], signal.SIGKILL)
        record(run.seconds_until_nobody_is_left(family))
        if one is told[0]:
            after = run.reached("it")  # of the worker that is there instead
            assert after["pid"] not in {each["pid"] for each in told}
    for n in range(4):
        assert after["imported"] == importer
        run.note()
        run.go(after)
        if n < 3:
            after = run.reached("it")
    run.process.wait()
    record(run.seconds_until_nobody_is_left())
    assert run.leftovers() == []
    assert "2 failed, 4 passed" in run.output()


@pytest.mark.parametrize("who", ["hub", "importer"])
def test_it_may_go_itself(start: Start, record: Record, who: str) -> None:
    run, told = start_two(start, tests=3)
    (pid,) = {one["imported"] for one in told}
    hub = psutil.Process(pid).parent()
    assert hub is not None
    both = [hub, psutil.Process(pid)]
    (hub if who == "hub" else both[1]).kill()
    _, alive = psutil.wait_procs(both, SECONDS)
    assert not alive
    run.note()
    for one in told:  # in its next test each worker uses the forkserver that it has
        run.go(one)
    run.go(run.reached("it"))
    assert run.process.wait() == 0, run.output()
    record(run.seconds_until_nobody_is_left())
    assert run.leftovers() == []


SLOW = """
import os, subprocess
helper = subprocess.Popen(["sleep", "1000"])
with open(os.environ["IMPORTING"], "a") as file:
    file.write("x")
os.read(os.open(os.environ["GATE"], os.O_RDWR), 1)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_all_are_ended_in_the_middle_of_the_import(
    start: Start, record: Record, number: signal.Signals, tmp_path: Path
) -> None:
    gate, importing = tmp_path / "gate", tmp_path / "importing"
    os.mkfifo(gate)
    importing.touch()
    run = start(SUITE.format(tests=2), "-n2", ahead=SLOW, GATE=str(gate), IMPORTING=str(importing))
    assert poll(importing.read_text, Deadline(SECONDS))
    workers = psutil.Process(run.process.pid).children()
    run.note()
    run.process.send_signal(number)
    for worker in workers:  # left to itself it would wait for its main thread
        worker.send_signal(number)
    run.process.wait()
    record(run.seconds_until_nobody_is_left())
    assert importing.read_text() == "x", "it was imported more than once"
    assert run.leftovers() == []


def test_a_start_that_waits_for_imports_says_so(start: Start, tmp_path: Path) -> None:
    gate, importing = tmp_path / "gate", tmp_path / "importing"
    os.mkfifo(gate)
    run = start(
        SUITE.format(tests=2),
        "-n2",
        "--cluster-start-timeout=2",
        ahead=SLOW,
        GATE=str(gate),
        IMPORTING=str(importing),
    )
    assert run.process.wait() == 1
    output = run.output()
    assert output.count("StartTimeout") >= 2, output
    assert "importing ahead" in output, output
    assert "ahead.py" in output, output
    run.note()
    assert run.leftovers() == []


def test_what_cannot_be_imported_is_told_to_each(start: Start) -> None:
    run = start(SUITE.format(tests=2), "-n2", ahead="import no_such_module\n")
    assert run.process.wait() == 1
    assert run.output().count("No module named 'no_such_module'") >= 2, run.output()
    assert run.leftovers() == []
