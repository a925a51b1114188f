"""Programs as tasks: what they are given, how they end, what cannot be asked of them."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from pytest_localcluster import (
    CommandRuntime,
    LocalCluster,
    SpecError,
    UnsupportedError,
)
from pytest_localcluster._clock import Deadline, poll
from tests.command.commands import HEALTHY, SERVE, said, shell


def refused(**fields: Any) -> str:
    with pytest.raises(SpecError) as caught:
        LocalCluster(**fields)
    return str(caught.value)


def test_fields_are_filled_in_and_other_braces_stay() -> None:
    fields = ["{host}", "{port}", "{address}", "{job}", "{index}", "{hosts[ps]}", "{hosts[worker]}"]
    others = ["{", "{}", "{name}", "{{job}}", '{"a": {b}}', "{hosts[]}", "$HOME", "{tf_config}"]
    say = shell('for word in "$0" "$@"; do echo "$word"; done; echo done', *fields, *others)
    runtime = CommandRuntime(worker=say, ps=say, ready=said("done\n"))
    with LocalCluster(workers=1, ps=2, runtime=runtime) as cluster:
        *lines, end = cluster.ps[1].log.text().splitlines()
        first, second = cluster.ps
        port = second.address.rpartition(":")[2]
        assert lines[:7] == [
            "localhost",
            port,
            f"localhost:{port}",
            "ps",
            "1",
            f"{first.address},{second.address}",
            cluster.workers[0].address,
        ]
        assert lines[7:14] == ["{", "{}", "{name}", "{ps}", '{"a": {b}}', "{hosts[]}", "$HOME"]
        assert json.loads(lines[14])["task"] == {"type": "ps", "index": 1}
        assert end == "done"
        assert second.target == second.address


def test_it_has_the_tasks_environment_and_the_tests_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    say = shell('echo "$TF_CONFIG"; echo $RANK $COLOUR; pwd; cat; env | grep MALLOC_; echo done')
    runtime = CommandRuntime(worker=say, ready=said("done\n"))
    with LocalCluster(workers=1, ps=0, runtime=runtime, env={"COLOUR": "red"}) as cluster:
        lines = cluster.workers[0].log.text().splitlines()
        assert json.loads(lines[0]) == json.loads(cluster.spec.tf_config(cluster.workers[0].task))
        assert lines[1:] == ["0 red", str(tmp_path), "done"], "and nothing of ours, and no input"


def test_a_program_has_the_signals_that_it_expects() -> None:
    # Python ignores SIGPIPE, and what is ignored would stay so: `yes | head` would not end.
    runtime = CommandRuntime(ps=shell("yes | head -n 1; echo done"), ready=said("done\n"))
    with LocalCluster(workers=0, runtime=runtime, start_timeout=20) as cluster:
        assert cluster.ps[0].log.text() == "y\ndone\n"


def test_its_pid_is_the_programs_own() -> None:
    runtime = CommandRuntime(ps=shell("echo $$"), ready=said(r"\d+\n"))
    with LocalCluster(workers=0, runtime=runtime) as cluster:
        assert cluster.ps[0].log.text() == f"{cluster.ps[0].pid}\n"


class TestTheEnd:
    def test_it_is_asked_to_end(self) -> None:
        line = "trap 'echo saved; exit 7' TERM; echo done; while :; do sleep 0.01; done"
        runtime = CommandRuntime(ps=["sh", "-c", line], ready=said())
        with LocalCluster(workers=0, runtime=runtime) as cluster:
            ps = cluster.ps[0]
            ps.stop()
            assert ps.log.text().endswith("saved\n")
            assert ps.exitcode == 7
            assert ps.unexpected_death() is None

    def test_it_is_killed_when_it_will_not(self) -> None:
        runtime = CommandRuntime(ps=shell("trap '' TERM; echo done"), ready=said())
        with LocalCluster(workers=0, runtime=runtime, stop_timeout=0.2) as cluster:
            ps = cluster.ps[0]
        assert ps.exitcode == -signal.SIGKILL
        assert ps.unexpected_death() is None

    def test_its_whole_group_goes_with_it(self, tmp_path: Path) -> None:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        # The grandchild holds the fifo open until it dies, whatever becomes of its parents.
        line = f"(trap '' TERM; exec sleep 1000 > {fifo}) & echo done; wait"
        runtime = CommandRuntime(ps=["sh", "-c", line], ready=said())
        with LocalCluster(workers=0, runtime=runtime) as cluster, fifo.open() as reader:
            cluster.stop()
            assert reader.read() == ""

    def test_an_end_on_its_own_is_reported(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        runtime = CommandRuntime(ps=["sh", "-c", f"echo done; cat {gate}; exit 4"], ready=said())
        with LocalCluster(workers=0, runtime=runtime) as cluster:
            ps = cluster.ps[0]
            gate.write_text("words\n")
            assert poll(lambda: ps.exitcode, Deadline(20)) == 4
            death = ps.unexpected_death()
            assert death is not None
            assert str(death).startswith("/job:ps/task:0 exited with status 4 on its own\n")
            assert "| words" in str(death)
            assert ps.join(check=False) == 4
            assert ps.unexpected_death() is None


def test_functions_are_refused() -> None:
    runtime = CommandRuntime(ps=SERVE)
    with LocalCluster(workers=1, runtime={"worker": "native", "ps": runtime}) as cluster:
        with pytest.raises(UnsupportedError, match="/job:ps/task:0 cannot run print") as caught:
            cluster.ps[0].run(print)
        assert f"its program is: {sys.executable} -S" in str(caught.value)
        assert cluster.run(lambda: 1) == [1]


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"ps": "redis-server"},
                "is a list of the program and its arguments, not 'redis-server'",
            ),
            ({"ps": []}, "is a list of the program and its arguments, not []"),
            ({"ps": ["redis-server", "--port", 6379]}, "write '6379': arguments are strings"),
            ({"ps": [""]}, "names no program"),
            ({"ps": ["x"], "ready": "udp"}, "ready='udp' does not tell when a task is ready"),
            ({"ps": ["x"], "ready": re.compile(b"x")}, "does not tell when"),
            ({"ps": ["x"], "ready": {"worker": "tcp"}}, "ready names job 'worker', for which"),
            ({"ps": ["x"], "ready": {"ps": 3}}, "ready=3 does not tell"),
            ({}, "is given no command"),
            ({"ps": [b"x"]}, "write 'x': arguments are strings"),
            ({"ps": ["x", "a\0b"]}, "which cannot be passed on"),
            ({"ps": ["x", "\ud800"]}, "which cannot be passed on"),
            ({"Bad Name": ["x"]}, "'Bad Name' is no name for a job"),
        ],
    )
    def test_what_is_no_command(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(SpecError, match=re.escape(message)):
            CommandRuntime(**arguments)

    @pytest.mark.parametrize("given", [["redis"], "redis", 3])
    def test_what_is_no_mapping(self, given: Any) -> None:
        with pytest.raises(SpecError, match="takes a mapping from job to command"):
            CommandRuntime(given)

    def test_two_commands_for_a_job(self) -> None:
        with pytest.raises(SpecError, match="two commands for job 'ps'"):
            CommandRuntime({"ps": ["x"]}, ps=["y"])
        assert CommandRuntime({"ps": ["x"]}) == CommandRuntime(ps=["x"]) != CommandRuntime(ps=["y"])

    def test_a_job_that_is_left_out(self) -> None:
        message = refused(workers=1, ps=1, runtime=CommandRuntime(ps=["x"]))
        assert "has no command for the tasks of job 'worker'" in message
        LocalCluster(workers=0, ps=1, runtime=CommandRuntime(ps=["x"]))
        LocalCluster(workers=1, ps=1, runtime={"worker": "native", "ps": CommandRuntime(ps=["x"])})

    def test_hosts_of_no_job(self) -> None:
        message = refused(workers=0, runtime=CommandRuntime(ps=["x", "--peers={hosts[chief]}"]))
        assert "has {hosts[chief]}, and this cluster has no job 'chief'" in message

    def test_a_thread(self) -> None:
        message = refused(workers=0, launcher="thread", runtime=CommandRuntime(ps=["x"]))
        assert "cannot run in a thread" in message
        assert "use launcher='process'" in message

    def test_a_config_for_nobody(self) -> None:
        from pytest_localcluster import ConfigProto

        message = refused(workers=0, ps_config=ConfigProto(), runtime=CommandRuntime(ps=["x"]))
        assert "ps_config would be read by nobody" in message


def test_a_channel_reaches_a_program_that_speaks_grpc() -> None:
    runtime = CommandRuntime(ps=[sys.executable, "-c", HEALTHY, "{port}"], ready="grpc")
    with LocalCluster(workers=0, runtime=runtime, start_timeout=20) as cluster:
        channel = cluster.ps[0].channel()
        call = channel.unary_unary("/no.such.Service/Method")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(ValueError, match="closed channel"):
        call(b"", timeout=10)
