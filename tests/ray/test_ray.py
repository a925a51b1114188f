"""What is Ray's own of tasks on the nodes of a Ray cluster; the rest is in tests/conformance."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_localcluster import (
    ClusterError,
    CommandRuntime,
    LocalCluster,
    RayLauncher,
    Server,
    ServerExited,
    ServicerRuntime,
    StartError,
    UnsupportedError,
    _handover,
    _ports,
    current_task,
)
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._launch.ray import placement, shutdown
from pytest_localcluster._launch.ray.berth import RayBerth
from tests.servicers.services import add_echo

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.needs("ray"),
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.timeout(400),
]


def berth(server: Server) -> RayBerth:
    launcher = server._life.place.launcher
    assert isinstance(launcher, RayBerth)
    return launcher


def nodes(cluster: LocalCluster) -> list[str]:
    """Return which node each task is on."""
    from ray._private.state import actors

    ids = [berth(server).actor._actor_id.hex() for server in cluster.servers]
    return [actors(actor_id)["Address"]["NodeID"] for actor_id in ids]


def run_pytest(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_each_task_has_a_node_of_its_own_if_there_are_enough() -> None:
    with LocalCluster(workers=2, ps=1, launcher="ray") as cluster:
        assert len(set(nodes(cluster))) == 3


def test_more_tasks_than_nodes_are_spread_over_all() -> None:
    with LocalCluster(workers=4, ps=1, launcher="ray") as cluster:
        assert len(set(nodes(cluster))) == 3


def test_the_parameter_server_example_trains_as_it_is() -> None:
    done = run_pytest("conftest_examples/parameter_server", "--cluster-launcher=ray", "-v", "-s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d passed", done.stdout)


REPORTED = """
import os

def test_it(local_cluster):
    local_cluster.workers[0].run(print, "words of a node")
    local_cluster.workers[0].submit(os._exit, 7)
    local_cluster.workers[0].join(60, check=False)
    local_cluster.ps[0].submit(os._exit, 9)
    while local_cluster.ps[0].is_alive():
        os.sched_yield()
"""


def test_deaths_and_logs_are_reported_as_anywhere(tmp_path: Path) -> None:
    tmp_path.joinpath("test_it.py").write_text(REPORTED)
    done = run_pytest("--cluster-launcher=ray", "-c", os.devnull, f"--rootdir={tmp_path}", tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "/job:ps/task:0 exited with status 9 on its own" in done.stdout
    assert "log /job:worker/task:0" in done.stdout
    assert "words of a node" in done.stdout


def test_actors_wait_for_the_next_cluster() -> None:
    with LocalCluster(workers=1, ps=1, launcher="ray") as cluster:
        actors, pids = [berth(s).actor for s in cluster.servers], {s.pid for s in cluster.servers}
    with LocalCluster(workers=1, ps=1, launcher="ray") as cluster:
        assert [berth(server).actor for server in cluster.servers] == actors
        assert not pids & {server.pid for server in cluster.servers}, "tasks are new"


def test_a_task_dies_with_its_actor_and_the_next_cluster_has_another() -> None:
    import ray

    with LocalCluster(workers=2, ps=0, launcher="ray") as cluster:
        (one, other) = cluster.workers
        ray.kill(berth(one).actor)
        with pytest.raises(ServerExited, match="ended with its actor or node") as caught:
            one.run(lambda: signal.pause(), timeout=60)
        assert "is lost with its Ray actor" in str(caught.value)
        assert other.run(lambda: 1) == 1
        with pytest.raises(StartError, match=f"the Ray actor of {one.task} cannot be asked to"):
            one.restart()
    with LocalCluster(workers=2, ps=0, launcher="ray") as cluster:
        assert cluster.run(lambda: 1) == [1, 1]


def test_much_that_is_printed_sent_and_returned_comes_whole() -> None:
    with LocalCluster(workers=1, ps=0, launcher="ray") as cluster:
        (worker,) = cluster.workers
        line = "x" * 99
        worker.run(lambda: [print(line) for _ in range(100_000)] and None)
        assert len(worker.log.text()) == 10_000_000
        data = np.arange(3_000_000.0)
        np.testing.assert_array_equal(worker.run(lambda array: array * 2, data), data * 2)


def test_ports_come_from_the_range_that_is_given() -> None:
    _ports.configure((21_000, 21_900))
    try:
        with LocalCluster(workers=2, ps=1, launcher="ray") as cluster:
            ports = [int(server.address.rpartition(":")[2]) for server in cluster.servers]
    finally:
        _ports.configure(None)
    assert all(21_000 <= port <= 21_900 for port in ports)


def test_tasks_end_with_a_pytest_that_is_killed() -> None:
    code = (
        "import sys\n"
        "from pytest_localcluster import LocalCluster\n"
        "cluster = LocalCluster(workers=2, ps=1, launcher='ray').start()\n"
        "print(*(server.pid for server in cluster.servers), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as script:
        assert script.stdout is not None
        pids = list(map(int, script.stdout.readline().split()))
        assert len(pids) == 3
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
        script.kill()
    assert poll(lambda: not any(map(is_alive, pids)), Deadline(30), interval=0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_breakpoint_says_why_there_is_none() -> None:
    with (
        LocalCluster(workers=1, ps=0, launcher="ray") as cluster,
        pytest.raises(UnsupportedError, match="another machine than the terminal"),
    ):
        cluster.run(breakpoint)
    assert "PYTHONBREAKPOINT" not in os.environ, "the test's own are pytest's"


def test_a_cluster_cannot_be_kept() -> None:
    with LocalCluster(workers=1, ps=0, launcher="ray") as cluster:
        with pytest.raises(UnsupportedError, match="cannot be kept: it runs below a Ray actor"):
            _handover.keep(cluster, "0")
        assert cluster.run(lambda: 1) == [1]


def test_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_ROOM", 1.0)
    launcher = RayLauncher(resources={"CPU": 64})
    with pytest.raises(StartError, match="found no room for 2 tasks in 1 s") as caught:
        LocalCluster(launcher=launcher).start()
    assert "each takes {'CPU': 64} of a node" in str(caught.value)


def test_a_resource_of_ones_own_chooses_the_node() -> None:
    import ray

    with LocalCluster(workers=1, ps=0, launcher="ray"):  # now Ray is connected
        head = next(n for n in ray.nodes() if "node:__internal_head__" in n["Resources"])
    launcher = RayLauncher(resources={"node:__internal_head__": 0.1})
    with LocalCluster(workers=1, ps=1, launcher=launcher) as cluster:
        assert set(nodes(cluster)) == {head["NodeID"]}


def test_a_service_asks_its_peer_as_the_manual_says() -> None:
    page = (ROOT / "docs/how-to/ray.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    manual: dict[str, Any] = {"__name__": "__main__"}
    exec("import os\nimport grpc\n" + snippet, manual)
    runtime = ServicerRuntime(worker=add_echo, ps=add_echo)
    with LocalCluster(workers=1, ps=1, launcher="ray", runtime=runtime) as cluster:
        answer = cluster.workers[0].run(manual["ask_peer"], cluster.ps[0].address)
        assert answer == b"/job:ps/task:0 hello"


def test_a_second_ray_cluster_is_refused() -> None:
    with LocalCluster(workers=1, ps=0, launcher="ray"):
        launcher = RayLauncher(address="127.0.0.1:1")
        with pytest.raises(ClusterError, match=r"can have no second connection, to 127.0.0.1:1"):
            LocalCluster(launcher=launcher).start()


def test_an_address_where_nobody_is() -> None:
    code = (
        "from pytest_localcluster import LocalCluster, RayLauncher\n"
        "LocalCluster(launcher=RayLauncher(address='127.0.0.1:1')).start()\n"
    )
    command: list[Any] = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "StartError: there is no Ray cluster to be reached at 127.0.0.1:1" in done.stderr
    assert "ray start --head" in done.stderr


def test_a_shutdown_of_ray_under_a_cluster_is_its_tasks_end() -> None:
    import ray

    with LocalCluster(workers=1, ps=0, launcher="ray") as cluster:
        pid = cluster.workers[0].pid
        ray.shutdown()
        assert cluster.workers[0].join(60, check=False) == -signal.SIGKILL
        assert not ray.is_initialized(), "nobody has begun anew by mistake"
    assert pid is not None
    assert poll(lambda: not is_alive(pid), Deadline(60), interval=0.02)


def test_a_connection_that_ended_is_made_again() -> None:
    shutdown()
    with LocalCluster(workers=1, ps=0, launcher="ray") as cluster:
        assert cluster.run(lambda: 1) == [1]


PLAIN = """
import socket, sys, time
print(open(sys.argv[3]).read(), flush=True)
kept = [socket.socket(), socket.socket()]
for server, port in zip(kept, sys.argv[1:3]):
    server.bind(("", int(port)))
    server.listen()
time.sleep(1000)
"""


def test_programs_have_ports_and_a_folder_on_their_node() -> None:
    command = [sys.executable, "-S", "-c", PLAIN, "{port}", "{ports[admin]}", "{dir}/words"]
    files = {"{dir}/words": "{job} at {address}, admin at {address[ps][admin]}"}
    env = {"PEER": "{address[ps]}", "DIR": "{dir}"}
    runtime = {"worker": "native", "ps": CommandRuntime(ps=command, files=files)}

    def seen() -> tuple[str, str, str, bool, int]:
        task = current_task()
        with socket.socket() as server:
            server.bind(("", task.ports["admin"]))  # no SO_REUSEADDR here either
            port: int = server.getsockname()[1]
        assert task.dir is not None
        return os.environ["PEER"], os.environ["DIR"], str(task.dir), task.dir.is_dir(), port

    with LocalCluster(
        workers=1, ps=1, launcher="ray", ports=("admin",), runtime=runtime, env=env
    ) as cluster:
        (worker,), (ps,) = cluster
        host = ps.address.rpartition(":")[0]
        words = f"ps at {ps.address}, admin at {host}:{ps.ports['admin']}\n"
        assert ps.log.text().startswith(words)
        ps.restart()
        assert ps.log.text().count(words) == 3, "it was tried twice, and then it is known"
        peer, variable, folder, exists, admin = worker.run(seen)
        assert peer == ps.address
        assert variable == folder == str(worker.dir)
        assert exists
        assert admin == worker.ports["admin"]
    # The actors, which are of this machine here, give back what they have without being waited for.
    assert poll(lambda: not Path(folder).exists(), Deadline(20))
