"""``up``, ``env`` and ``down``: a cluster from the command line, and its end."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pytest_localcluster import Session, Variable, constant, device, variables_initializer
from tests.cli.conftest import Command, StartUp
from tests.reach import listens


def test_it_serves_who_has_its_file(up: StartUp) -> None:
    cluster = up("--workers", "2", "--ps", "1", "--jobs", "chief=1")
    facts = cluster.facts()
    assert {job: len(tasks) for job, tasks in facts["cluster"].items()} == {
        "worker": 2,
        "ps": 1,
        "chief": 1,
    }
    assert facts["runtime"] == {"worker": "native", "ps": "native", "chief": "native"}
    assert facts["protocol"] == "grpc"
    assert facts["owner"]["pid"] == cluster.process.pid
    assert stat.S_IMODE(cluster.file().stat().st_mode) == 0o600
    logs = [Path(task["log"]) for task in facts["tasks"].values()]
    assert all(log.is_file() for log in logs)
    with device("/job:ps/task:0"):
        v = Variable(2.0, name="v")
    target = f"grpc://{facts['cluster']['worker'][1]}"
    with Session(target, token=facts["token"]) as session:
        session.run(variables_initializer([v]))
        assert session.run(v.read() * constant(3.0)) == 6.0


def test_tests_run_on_it(up: StartUp, tmp_path: Path) -> None:
    cluster = up("--workers", "2")
    (tmp_path / "test_it.py").write_text(
        "def test_it(local_cluster):\n"
        f"    assert [s.pid for s in local_cluster.servers] == {cluster.pids()[::2]}\n"
        "    assert local_cluster.session().list_devices()\n"
    )
    options = ["-c", os.devnull, "-p", "no:cacheprovider", f"--cluster-attach={cluster.file()}"]
    for _ in range(2):
        subprocess.run([sys.executable, "-m", "pytest", *options, tmp_path], check=True)
    cluster.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_nobody_is_left(up: StartUp, number: signal.Signals) -> None:
    cluster = up("--workers", "2")
    addresses = [address for job in cluster.facts()["cluster"].values() for address in job]
    assert len(cluster.pids()) == 3
    cluster.end(number)
    assert cluster.process.returncode == 0
    assert cluster.leftovers() == []
    assert not any(map(listens, addresses))


def test_it_ends_though_a_task_does_nothing(up: StartUp) -> None:
    cluster = up()
    for pid in cluster.pids():
        os.kill(pid, signal.SIGSTOP)
    cluster.end()
    assert cluster.leftovers() == []


def test_a_kill_leaves_nothing_either(up: StartUp) -> None:
    cluster = up()
    cluster.file()
    everybody = psutil.Process(cluster.process.pid).children(recursive=True)
    assert len(everybody) >= 4
    cluster.end(signal.SIGKILL)
    _, alive = psutil.wait_procs(everybody, 20)
    assert alive == []
    assert cluster.leftovers() == []


def test_a_death_is_shown_and_the_rest_goes_on(up: StartUp) -> None:
    cluster = up("--workers", "2")
    pid = cluster.pids()[1]
    os.kill(pid, signal.SIGKILL)
    cluster.read(f"pid {pid}: was killed by SIGKILL")
    assert listens(cluster.facts()["cluster"]["ps"][0])
    cluster.end()


def test_what_tasks_print_is_shown(up: StartUp) -> None:
    cluster = up()
    log = Path(cluster.facts()["tasks"]["/job:ps/task:0"]["log"])
    with log.open("a") as file:
        file.write("so it speaks\n")
    cluster.read("[/job:ps/task:0] so it speaks")
    cluster.end()


def test_the_table_of_a_terminal(up: StartUp) -> None:
    cluster = up("--workers", "1", terminal=True)
    cluster.read("last log line")
    shown = cluster.read("MiB")
    assert "running" in shown
    assert "/job:worker/task:0" in shown
    cluster.end()
    assert cluster.process.returncode == 0
    assert cluster.leftovers() == []


def test_a_terminal_without_rich(up: StartUp, tmp_path: Path) -> None:
    tmp_path.joinpath("sitecustomize.py").write_text("import sys\nsys.modules['rich'] = None\n")
    cluster = up(terminal=True, PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))
    shown = cluster.read("pid")
    assert "pip install 'pytest-localcluster[cli]'" in shown
    cluster.read("running")
    cluster.end()


def test_files_of_its_own_places(up: StartUp, tmp_path: Path) -> None:
    path, logs = tmp_path / "mine.json", tmp_path / "logs"
    cluster = up("--file", str(path), "--log-dir", str(logs))
    assert cluster.file() == path
    assert cluster.facts()["tasks"]["/job:worker/task:0"]["log"] == str(logs / "worker-0.log")
    cluster.end()
    assert not path.exists()
    assert sorted(log.name for log in logs.iterdir()) == ["ps-0.log", "worker-0.log"]


def test_down_ends_it(up: StartUp, command: Command) -> None:
    cluster = up()
    file = cluster.file()
    done = command("down", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"the cluster of {file} is ended" in done.stdout
    assert cluster.process.wait(20) == 0
    assert cluster.leftovers() == []


def test_down_wakes_whom_somebody_has_stopped(up: StartUp, command: Command) -> None:
    cluster = up()
    file = cluster.file()
    os.kill(cluster.process.pid, signal.SIGSTOP)
    assert command("down", file).returncode == 0
    assert cluster.process.wait(20) == 0


def test_down_of_what_has_ended(up: StartUp, command: Command, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    cluster = up("--file", str(path))
    cluster.file()
    cluster.end(signal.SIGKILL)
    assert path.exists(), "nobody could remove it"
    done = command("down", path)
    assert "had ended already" in done.stdout
    assert not path.exists()
    again = command("down", path)
    assert again.returncode == 2
    assert f"the cluster file {path} cannot be read: No such file" in again.stderr


def test_down_of_what_is_not_ours(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps({"cluster": {"ps": ["localhost:6379"]}, "runtime": "command"}))
    done = command("down", path)
    assert done.returncode == 2
    assert "does not say which processes its cluster is" in done.stderr
    assert path.exists()


def test_env_is_for_a_shell(up: StartUp, command: Command) -> None:
    cluster = up()
    code = (
        "import os; from pytest_localcluster import ClusterSpec, Session, constant; "
        "target = 'grpc://' + ClusterSpec.from_tf_config(os.environ['TF_CONFIG'])"
        ".task_address('worker', 0); "
        "print(Session(target).run(constant(1) + 1))"
    )
    line = shlex.join([sys.executable, "-m", "pytest_localcluster", "env", str(cluster.file())])
    done = subprocess.run(
        ["sh", "-c", f'eval "$({line})" && exec {shlex.join([sys.executable, "-c", code])}'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("2\n", "")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--workers", "two"], "workers='two' does not count tasks"),
        (["--ps", "-1"], "ps=-1: there cannot be fewer than no tasks"),
        (["--ps", "1.5"], "ps=1.5 does not count tasks"),
        (["--jobs", "chief"], "--jobs 'chief' does not say how many"),
        (["--jobs", "7=1"], "'7' is no name for a job"),
        (["--workers", "2", "--jobs", "worker=1"], "job 'worker' is asked for twice"),
        (["--runtime", "nativ"], "unknown runtime 'nativ'"),
        (["--start-timeout", "soon"], "start_timeout='soon' is no time to wait"),
        (["--workers", "0", "--ps", "0"], "a cluster without tasks is nothing to start"),
    ],
)
def test_what_cannot_be(command: Command, args: list[str], message: str) -> None:
    done = command("up", *args)
    assert done.returncode == 2
    assert message in done.stderr
    assert "To fix this" in done.stderr
    assert done.stdout == ""


def test_a_start_that_fails(command: Command) -> None:
    done = command("up", "--preload", "no_such_module")
    assert done.returncode == 1
    assert "did not start: ModuleNotFoundError" in done.stderr


def test_a_file_that_is_in_use_stays(up: StartUp, command: Command, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    cluster = up("--file", str(path))
    cluster.file()
    before = path.read_text()
    done = command("up", "--file", path)
    assert done.returncode == 2
    assert f"{path} is there already" in done.stderr
    assert path.read_text() == before
    cluster.end(signal.SIGKILL)
    again = up("--file", str(path))
    assert again.file() == path
    assert path.read_text() != before
    again.end()


def test_somebody_elses_file_stays(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("important")
    assert command("up", "--file", path).returncode == 2
    assert path.read_text() == "important"
    missing = tmp_path / "nowhere" / "file.json"
    done = command("up", "--file", missing)
    assert done.returncode == 2
    assert f"{missing} cannot be written: No such file or directory" in done.stderr
