"""Fields that are filled in: in commands, environments, working directories and files."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import urlopen

import pytest

from pytest_localcluster import (
    ClusterConfig,
    CommandRuntime,
    LocalCluster,
    Server,
    SpecError,
    StartError,
    Task,
    current_task,
)
from pytest_localcluster._clock import Deadline, poll
from tests.command.commands import said, shell

SHOW = """
import json, os, sys, time
print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]), flush=True)
time.sleep(1000)
"""


def show(*arguments: str) -> list[Any]:
    """Return a command that prints what it was given, and stays."""
    return [sys.executable, "-S", "-c", SHOW, *arguments]


def shown(server: Server) -> tuple[list[str], dict[str, str], str]:
    """Return the arguments, the environment and the directory of the last start."""
    arguments, environ, directory = json.loads(server.log.text().splitlines()[-1])
    return arguments, environ, directory


def showing(**commands: Any) -> CommandRuntime:
    return CommandRuntime(**commands, ready=said(r"\]\n"))


def refused(**fields: Any) -> str:
    with pytest.raises(SpecError) as caught:
        LocalCluster(**{"workers": 0, **fields})
    return str(caught.value)


def port(server: Server) -> str:
    return server.address.rpartition(":")[2]


class TestEnvironment:
    def test_the_variables_of_a_scheduler(self) -> None:
        env = {
            "DMLC_PS_ROOT_URI": "{host[scheduler]}",
            "DMLC_PS_ROOT_PORT": "{port[scheduler]}",
            "DMLC_ROLE": "{job}",
            "PEERS": "{hosts[ps]}",
            "ME": "{index} at {address}",
            "FORMAT": '{"a": {}} {name} {{job}} {',
        }
        runtime = showing(ps=show(), scheduler=show())
        jobs = {"scheduler": 1}
        with LocalCluster(workers=0, ps=2, jobs=jobs, runtime=runtime, env=env) as cluster:
            (scheduler,) = cluster.jobs["scheduler"]
            second = cluster.ps[1]
            _, environ, _ = shown(second)
            assert {name: environ[name] for name in env} == {
                "DMLC_PS_ROOT_URI": "localhost",
                "DMLC_PS_ROOT_PORT": port(scheduler),
                "DMLC_ROLE": "ps",
                "PEERS": f"{cluster.ps[0].address},{second.address}",
                "ME": f"1 at {second.address}",
                "FORMAT": '{"a": {}} {name} {ps} {',
            }
            assert cluster.environ(second)["DMLC_ROLE"] == "ps"

    def test_of_a_function(self) -> None:
        def env(task: Task) -> dict[str, str]:
            return {"ROOT": "{address[ps][0]}", "OWN": f"{task.index} {{job}}"}

        with LocalCluster(workers=0, ps=2, runtime=showing(ps=show()), env=env) as cluster:
            _, environ, _ = shown(cluster.ps[1])
            assert (environ["ROOT"], environ["OWN"]) == (cluster.ps[0].address, "1 ps")

    @pytest.mark.parametrize("launcher", ["process", "thread"])
    def test_of_python_tasks(self, launcher: str) -> None:
        env = {"PORTS": "{ports[admin]} {port[ps][0][admin]}", "DIR": "{dir}"}
        fields: dict[str, Any] = {"launcher": launcher, "ports": ("admin",), "env": env}
        with LocalCluster(workers=1, ps=1, **fields) as cluster:
            (worker,), (ps,) = cluster

            def seen() -> tuple[str, str, int, Path | None]:
                task = current_task()
                return task.env["PORTS"], task.env["DIR"], task.ports["admin"], task.dir

            ports, directory, admin, folder = worker.run(seen)
            assert ports == f"{admin} {ps.ports['admin']}"
            assert admin == worker.ports["admin"]
            assert folder == worker.dir == Path(directory)
            assert folder.is_dir()
        assert not folder.exists()


class TestOtherTasks:
    def test_one_task_of_several(self) -> None:
        arguments = [
            "{host[ps][1]}",
            "{port[ps][1]}",
            "{address[ps][1]}",
            "{hosts[ps][1]}",
            "{hosts[ps][admin]}",
            "{address[ps][1][admin]}",
            "{port[ps][1][admin]}",
            "{ports[admin]}",
            "{port[chief][admin]}",
        ]
        runtime = showing(ps=show(*arguments), chief=show())
        jobs, ports = {"chief": 1}, ("admin",)
        with LocalCluster(workers=0, ps=2, jobs=jobs, ports=ports, runtime=runtime) as cluster:
            first, second = cluster.ps
            admin = [f"localhost:{server.ports['admin']}" for server in cluster.ps]
            assert shown(first)[0] == [
                "localhost",
                port(second),
                second.address,
                second.address,
                ",".join(admin),
                admin[1],
                str(second.ports["admin"]),
                str(first.ports["admin"]),
                str(cluster.jobs["chief"][0].ports["admin"]),
            ]

    def test_links_show_relays(self) -> None:
        fields = "{hosts[ps]} {address[ps]} {port[ps]}"
        runtime = {"worker": showing(worker=show(*fields.split())), "ps": "native"}
        env = {"PEERS": fields}
        with LocalCluster(workers=1, ps=1, links=True, runtime=runtime, env=env) as cluster:
            arguments, environ, _ = shown(cluster.workers[0])
            hosts, address, number = arguments
            assert hosts == address == f"localhost:{number}" != cluster.ps[0].address
            assert environ["PEERS"].split() == arguments


class TestPorts:
    def test_by_job(self) -> None:
        with LocalCluster(workers=1, ps=2, ports={"ps": ["admin", "bus"]}) as cluster:
            assert cluster.workers[0].ports == {}
            numbers = [number for server in cluster.ps for number in server.ports.values()]
            numbers += [int(port(server)) for server in cluster.servers]
            assert len(set(numbers)) == 7
            assert cluster.ps[1].run(lambda: dict(current_task().ports)) == cluster.ps[1].ports
            with pytest.raises(OSError, match="in use"), socket.socket() as stranger:
                stranger.bind(("127.0.0.1", cluster.ps[0].ports["bus"]))
            before = cluster.ps[0].ports
            cluster.ps[0].restart()
            assert cluster.ps[0].ports == before
        with socket.socket() as anybody:
            anybody.bind(("127.0.0.1", numbers[0]))

    @pytest.mark.parametrize(
        ("ports", "message"),
        [
            ("admin", "ports lists names of ports, not 'admin'"),
            (3, "ports lists names of ports, not 3"),
            (("0",), "ports has '0', which no port can be called"),
            ((b"x",), "ports has b'x', which no port can be called"),
            (("a", "b", "a"), "ports names a port twice: a, b, a"),
            ({"ps": "admin"}, "ports['ps'] lists names of ports, not 'admin'"),
            ({"pss": ("a",)}, "ports names job 'pss', which this cluster has not: worker, ps"),
        ],
    )
    def test_refused(self, ports: Any, message: str) -> None:
        assert message in refused(ports=ports)

    def test_a_config_is_plain_data(self) -> None:
        assert ClusterConfig(ports=iter(["a"])).ports == ("a",)
        config = ClusterConfig(ports={"ps": ["a", "b"]})
        assert config == ClusterConfig().replace(ports={"ps": ("a", "b")})
        assert config.port_names("ps") == ("a", "b")
        assert config.port_names("worker") == ()


class TestFolder:
    def test_it_lasts_through_restarts_and_goes_with_the_cluster(self) -> None:
        runtime = CommandRuntime(
            ps=shell("echo x >> {dir}/state; wc -l < {dir}/state; echo done"), ready=said("done\n")
        )
        with LocalCluster(workers=0, ps=2, runtime=runtime) as cluster:
            first, second = cluster.ps
            assert first.dir != second.dir
            first.restart()
            first.kill()
            first.start()
            assert first.log.text().split() == ["1", "done", "2", "done", "3", "done"]
            folder = first.dir
            assert folder is not None
            assert (folder / "state").read_text() == "x\n" * 3
        assert not folder.exists()
        with cluster:
            assert cluster.ps[0].log.text().split() == ["1", "done"], "a new one has a new folder"

    def test_a_reset_empties_it(self) -> None:
        runtime = CommandRuntime(
            ps=shell("cat {dir}/a/state; echo x >> {dir}/a/state; echo done"),
            ready=said("done\n"),
            files={"{dir}/a/state": "at first\n"},
        )
        env = {"DIR": "{dir}"}
        mixed: dict[str, Any] = {"worker": "native", "ps": runtime}
        with LocalCluster(workers=1, runtime=mixed, env=env) as cluster:
            (worker,), (ps,) = cluster
            assert worker.dir is not None
            (worker.dir / "left").touch()
            ps.restart()
            cluster.reset()
            told = ps.log.text().split("done\n")
            assert told[:3] == ["at first\n", "at first\nx\n", "at first\n"]
            assert list(worker.dir.iterdir()) == []

    def test_none_is_made_for_nobody(self) -> None:
        with LocalCluster(workers=1, ps=0) as cluster:
            assert cluster.workers[0].dir is None
            assert [path.name for path in cluster.workers[0].log.path.parent.iterdir()] == [
                "worker-0.log"
            ]

    def test_it_is_beside_logs_that_are_kept(self, tmp_path: Path) -> None:
        runtime = showing(ps=show("{dir}"))
        for name in ("ps-0", "ps-0-2"):
            with LocalCluster(workers=0, runtime=runtime, log_dir=tmp_path) as cluster:
                assert cluster.ps[0].dir == tmp_path / name
        assert (tmp_path / "ps-0").is_dir()


class TestDirectory:
    def test_it_is_the_programs_own(self, tmp_path: Path) -> None:
        for cwd in (tmp_path, {"ps": str(tmp_path)}, os.path.relpath(tmp_path)):
            runtime = CommandRuntime(ps=show(), ready=said(r"\]\n"), cwd=cwd)
            with LocalCluster(workers=0, runtime=runtime) as cluster:
                _, environ, directory = shown(cluster.ps[0])
                assert directory == environ["PWD"] == str(tmp_path)

    def test_below_the_folder_it_is_made(self) -> None:
        runtime = CommandRuntime(ps=show(), ready=said(r"\]\n"), cwd="{dir}/data/{job}-{index}")
        with LocalCluster(workers=0, runtime=runtime) as cluster:
            assert shown(cluster.ps[0])[2] == f"{cluster.ps[0].dir}/data/ps-0"
            cluster.ps[0].restart()

    def test_a_program_is_found_from_there(self) -> None:
        files = {"{dir}/serve": "echo {job} $PWD; exec sleep 1000"}
        runtime = CommandRuntime(ps=["sh", "./serve"], ready=said("ps"), cwd="{dir}", files=files)
        with LocalCluster(workers=0, runtime=runtime) as cluster:
            assert cluster.ps[0].log.text() == f"ps {cluster.ps[0].dir}\n"
        runtime = CommandRuntime(ps=["./serve"], cwd="{dir}")
        with pytest.raises(StartError, match=r"there is no './serve' \(working directory .*/ps-0"):
            LocalCluster(workers=0, runtime=runtime).start()

    def test_one_that_does_not_exist(self, tmp_path: Path) -> None:
        runtime = CommandRuntime(ps=["true"], cwd=tmp_path / "absent")
        message = f"{tmp_path}/absent cannot be the working directory .cwd=.: No such file"
        with pytest.raises(StartError, match=message):
            LocalCluster(workers=0, runtime=runtime).start()


class TestFiles:
    def test_they_are_filled_in(self, tmp_path: Path) -> None:
        template = tmp_path / "template"
        template.write_text("peers {hosts[ps]}\n")
        store = tmp_path / "store"
        store.write_bytes(b"{port}\xff")
        files: dict[Any, Any] = {
            "{dir}/conf.d/server.conf": "events { }\nport {port}; admin {ports[admin]}; {dir}\n",
            Path("{dir}/{job}-{index}.conf"): template,
            "{dir}/raw": b"{port}",
            "{dir}/store": store,
        }
        files = {**files, "ps": {"{dir}/raw": "for ps", "{dir}/myid": "{index}"}}
        runtime = CommandRuntime(
            ps=show(), chief=show(), ready=said(r"\]\n"), files=files, cwd="{dir}"
        )
        fields: dict[str, Any] = {
            "jobs": {"chief": 1},
            "ports": ("admin",),
            "runtime": runtime,
        }
        with LocalCluster(workers=0, ps=2, **fields) as cluster:
            server = cluster.ps[1]
            folder, chief = server.dir, cluster.jobs["chief"][0].dir
            assert folder is not None
            assert chief is not None
            assert (folder / "conf.d/server.conf").read_text() == (
                f"events {{ }}\nport {port(server)}; admin {server.ports['admin']}; {folder}\n"
            )
            peers = ",".join(one.address for one in cluster.ps)
            assert (folder / "ps-1.conf").read_text() == f"peers {peers}\n"
            assert (folder / "raw").read_text() == "for ps"
            assert (folder / "myid").read_text() == "1"
            assert (folder / "store").read_bytes() == b"{port}\xff"
            assert (chief / "raw").read_bytes() == b"{port}"
            assert not (chief / "myid").exists()

    def test_what_a_program_writes_there_survives_its_restart(self) -> None:
        runtime = CommandRuntime(
            ps=shell("cat {dir}/a; echo later > {dir}/a; echo done"),
            ready=said("done\n"),
            files={"{dir}/a": "at first\n"},
        )
        with LocalCluster(workers=0, runtime=runtime) as cluster:
            cluster.ps[0].restart()
            assert cluster.ps[0].log.text() == "at first\ndone\nlater\ndone\n"

    def test_one_that_cannot_be_written(self) -> None:
        files = {"{dir}/a": "", "{dir}/a/b": ""}
        with pytest.raises(StartError, match=r"the file /\S*/ps-0/a/b cannot be written: "):
            LocalCluster(workers=0, runtime=CommandRuntime(ps=["true"], files=files)).start()

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"files": {"/etc/x": ""}}, "the file '/etc/x' is not in the task's own folder"),
            ({"files": {"x.conf": ""}}, 'write a path below it, such as "{dir}/server.conf"'),
            ({"files": {"{dir}/../x": ""}}, "the file '{dir}/../x' is not in the task's own"),
            ({"files": {"{dir}": ""}}, "the file '{dir}' is not in the task's own folder"),
            ({"files": {"{dir}x/y": ""}}, "the file '{dir}x/y' is not in the task's own folder"),
            ({"files": {3: ""}}, "files has 3, which is no path of a file"),
            ({"files": {"{dir}/a\0": ""}}, "which is no path of a file"),
            ({"files": {"{dir}/a": 3}}, "the content of '{dir}/a' is 3"),
            ({"files": {"{dir}/a": Path("/absent")}}, "the content of '{dir}/a' cannot be read: "),
            ({"files": {"chief": {"{dir}/a": ""}}}, "files names job 'chief', for which there is"),
            ({"files": ["x"]}, 'a job that is called files goes into CommandRuntime({"files": '),
            ({"cwd": 3}, "cwd=3 is no directory"),
            ({"cwd": ""}, "cwd='' is no directory"),
            ({"cwd": ["x"]}, 'a job that is called cwd goes into CommandRuntime({"cwd": [...]})'),
            ({"cwd": {"chief": "x"}}, "cwd names job 'chief', for which there is no command"),
        ],
    )
    def test_refused(self, given: Any, message: str) -> None:
        with pytest.raises(SpecError, match=re.escape(message)):
            CommandRuntime(ps=["x"], **given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{hosts[schedulr]}",
            "did you mean 'scheduler'? the fields are {host}",
        ),
        ("{port[ps]}", "{port[ps]}, which is one task's, and job 'ps' has 2 tasks"),
        ("{host[ps][admin]}", "write {host[ps][0][admin]} for the first, or {hosts[ps]}"),
        ("{address[ps][2]}", "has {address[ps][2]}, and job 'ps' has 2 tasks"),
        ("{port[worker]}", "has {port[worker]}, and job 'worker' has no task"),
        ("{ports[admn]}", "did you mean 'admin'? add the name to ports="),
        ("{hosts[scheduler][admin]}", "they have no port but the one that they serve at"),
    ],
)
class TestNames:
    """Whatever names something that does not exist is refused before anything starts."""

    fields: ClassVar[dict[str, Any]] = {
        "ps": 2,
        "jobs": {"scheduler": 1},
        "ports": {"ps": ("admin",)},
    }

    def test_in_a_command(self, text: str, message: str) -> None:
        runtime = CommandRuntime(ps=["x", text], scheduler=["x"])
        said = refused(runtime=runtime, **self.fields)
        assert said.startswith("the command of job 'ps' has ")
        assert message in said

    def test_in_a_directory(self, text: str, message: str) -> None:
        runtime = CommandRuntime(ps=["x"], scheduler=["x"], cwd={"ps": f"{{dir}}/{text}"})
        assert message in refused(runtime=runtime, **self.fields)

    def test_in_a_file(self, text: str, message: str) -> None:
        for files in ({"{dir}/a": text}, {f"{{dir}}/{text}": ""}):
            runtime = CommandRuntime(ps=["x"], scheduler=["x"], files={"ps": files})
            assert message in refused(runtime=runtime, **self.fields)

    def test_in_the_environment(self, text: str, message: str) -> None:
        assert f"env['ROOT'] has {text}" in (said := refused(env={"ROOT": text}, **self.fields))
        assert message in said or "scheduler' have no port" in said

    def test_in_what_a_function_returns(self, text: str, message: str) -> None:
        def env(task: Task) -> dict[str, str]:
            return {"ROOT": text} if task.job == "ps" else {}

        cluster = LocalCluster(workers=0, env=env, **self.fields)
        with pytest.raises(SpecError, match=re.escape(message)) as caught:
            cluster.start()
        assert "what env returned for /job:ps/task:0, under 'ROOT', has" in str(caught.value)


NGINX = """
daemon off;
pid {dir}/nginx.pid;
error_log stderr;
events { worker_connections 64; }
http {
  access_log {dir}/access.log;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  server { listen 127.0.0.1:{port}; location / { return 200 "{job} {index}"; } }
  server { listen 127.0.0.1:{ports[admin]}; location / { return 200 "admin"; } }
}
"""


@pytest.mark.needs("nginx")
def test_nginx() -> None:
    runtime = CommandRuntime(
        web=["nginx", "-p", "{dir}", "-c", "{dir}/nginx.conf"],
        files={"{dir}/nginx.conf": NGINX},
    )
    fields: dict[str, Any] = {"jobs": {"web": 2}, "ports": ("admin",), "runtime": runtime}
    with LocalCluster(workers=0, ps=0, **fields) as cluster:
        (_, web) = cluster.jobs["web"]
        get: Callable[[str], bytes] = lambda address: urlopen(f"http://{address}/").read()  # noqa: E731
        assert get(web.address) == b"web 1"
        assert get(f"localhost:{web.ports['admin']}") == b"admin"
        web.restart()
        assert get(web.address) == b"web 1"
        assert web.dir is not None
        log = web.dir / "access.log"
        assert poll(lambda: len(log.read_text().splitlines()) == 3, Deadline(20))
