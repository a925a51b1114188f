"""``doctor``: what it says of a machine that is well, and of what is wrong with one."""

from __future__ import annotations

import argparse
import os
import pty
import re
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from pytest_localcluster import _ports
from pytest_localcluster._cli import doctor, limits, machine, software
from pytest_localcluster._cli.checks import OK, PROBLEM, WARNING, Check, tried
from pytest_localcluster._launch import family
from tests.cli.conftest import COMMAND, Command, line


def test_all_is_well(command: Command) -> None:
    done = command("doctor", http_proxy="", GRPC_TRACE="", GRPC_VERBOSITY="")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    for what in ("port leases", "a free port", "localhost", "open files", "temporary files"):
        assert line(done.stdout, what).startswith("ok "), done.stdout
    assert line(done.stdout, "grpcio").endswith(f": {metadata.version('grpcio')}")
    assert re.search(r"^0 problems, \d+ warnings$", done.stdout, re.MULTILINE)
    if sys.platform.startswith("linux"):
        for what in ("pidfd", "parent death signal", "orphans", "/proc"):
            assert line(done.stdout, what).startswith("ok "), done.stdout


def test_a_problem_is_the_exit_status() -> None:
    shell = f"ulimit -n 100; exec {shlex.join([*COMMAND, 'doctor'])}"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert line(done.stdout, "open files") == (
        "problem  open files: a process may have 100 (ulimit -n)"
    )
    assert "To fix this: raise `ulimit -n`" in done.stdout
    assert re.search(r"^1 problems, \d+ warnings$", done.stdout, re.MULTILINE)


def test_a_table_on_a_terminal() -> None:
    out, to = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "150"}
    with subprocess.Popen([*COMMAND, "doctor"], stdout=to, env=environ) as process:
        os.close(to)
        shown = b""
        while data := _read(out):
            shown += data
    os.close(out)
    assert process.returncode == 0
    assert b"to fix it" in shown
    assert b"port leases" in shown


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # what a terminal answers whose other side is gone
        return b""


Wrong = Callable[[pytest.MonkeyPatch, Path], object]


@pytest.mark.parametrize(
    ("wrong", "look", "what", "state", "found"),
    [
        (
            lambda patch, _: patch.setattr(_ports, "system_holds_ports", lambda: False),
            machine.ports,
            "port leases",
            WARNING,
            "does not keep a leased port",
        ),
        (
            lambda patch, _: patch.setattr(_ports, "_hold", lambda port: None),
            machine.ports,
            "a free port",
            PROBLEM,
            "each was taken before it could be",
        ),
        (
            lambda patch, _: patch.setattr(machine, "has_ipv6_loopback", lambda: False),
            machine.loopback,
            "IPv6 loopback",
            OK,
            "none; tasks listen on 127.0.0.1",
        ),
        (
            lambda patch, _: patch.setattr(socket, "getaddrinfo", lambda *_: []),
            machine.loopback,
            "localhost",
            PROBLEM,
            "it leads to nowhere, not to 127.0.0.1",
        ),
        (
            lambda patch, _: patch.setattr(family, "watch", lambda pid: None),
            machine.deaths,
            "pidfd",
            WARNING,
            "a hundred times a second",
        ),
        (
            lambda patch, _: patch.setattr(family, "die_with_parent", lambda *_: None),
            machine.deaths,
            "parent death signal",
            WARNING,
            "the kernel does not take it",
        ),
        (
            lambda patch, _: patch.setattr(family, "adopt_orphans", lambda: None),
            machine.deaths,
            "orphans",
            WARNING,
            "can leave the family",
        ),
        (
            lambda patch, path: patch.setattr(tempfile, "tempdir", str(path / "none")),
            limits.files,
            "temporary files",
            PROBLEM,
            "no file can be written there: No such file or directory",
        ),
        (
            lambda patch, _: patch.setattr(limits, "_kind_of", lambda folder: "nfs4"),
            limits.files,
            "temporary files",
            WARNING,
            "nfs4",
        ),
        (
            lambda patch, _: patch.setenv("http_proxy", "http://proxy:8080"),
            software.environment,
            "proxies",
            WARNING,
            "http_proxy without no_proxy",
        ),
        (
            lambda patch, _: patch.setenv("GRPC_TRACE", "all"),
            software.environment,
            "gRPC's settings",
            WARNING,
            "GRPC_TRACE: the logs of tasks are gRPC's then",
        ),
        (
            lambda patch, _: patch.setenv("GRPC_POLL_STRATEGY", "poll"),
            software.environment,
            "gRPC's settings",
            WARNING,
            "GRPC_POLL_STRATEGY: tasks inherit that",
        ),
        (
            lambda patch, path: patch.setenv("PORTSERVER_ADDRESS", str(path / "none")),
            software.port_server,
            "port server",
            WARNING,
            "does not answer: No such file or directory",
        ),
        (
            lambda patch, _: patch.setattr(metadata, "requires", lambda _: ["no-such-thing>=3"]),
            software.requirements,
            "no-such-thing",
            PROBLEM,
            "not installed",
        ),
        (
            lambda patch, _: patch.setattr(metadata, "requires", lambda _: ["pytest>=99"]),
            software.requirements,
            "pytest",
            PROBLEM,
            "and >=99 is needed",
        ),
    ],
)
def test_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    wrong: Wrong,
    look: Callable[[], object],
    what: str,
    state: str,
    found: str,
) -> None:
    for name in (*software._SPARED, *software._PROXIES, *software._LOUD, *software._FELT):
        monkeypatch.delenv(name, raising=False)
    wrong(monkeypatch, tmp_path)
    (check,) = [check for check in look() if check.what == what]  # type: ignore[attr-defined]
    assert check.state == state
    assert found in check.found
    assert bool(check.remedy) or state == OK


def test_a_proxy_that_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:8080")
    monkeypatch.setenv("no_proxy", "example.org, localhost")
    (proxies, _) = software.environment()
    assert proxies.state == OK


def test_limits_of_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, text in (
        ("pids.max", "100"),
        ("pids.current", "90"),
        ("memory.max", str(300 << 20)),
        ("memory.current", str(100 << 20)),
    ):
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(limits, "_own_groups", lambda controller: iter([tmp_path]))
    found = {check.what: check for check in (*limits.limits(), *limits.memory())}
    pids, memory = found["processes of the container"], found["memory of the container"]
    assert (pids.state, pids.found) == (PROBLEM, "90 of at most 100")
    assert memory.state == WARNING
    assert memory.found == "100 of at most 300 MiB are used, caches included"
    (tmp_path / "pids.max").write_text("max\n")
    assert "processes of the container" not in {check.what for check in limits.limits()}


def test_a_look_that_fails_is_told_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def odd_thing() -> object:
        raise LookupError("never seen")
        yield

    (check,) = tried(odd_thing)  # type: ignore[arg-type]
    assert check == Check(
        "odd thing",
        "it could not be looked at: LookupError: never seen",
        WARNING,
        "report this, with what is special about the machine",
    )
    monkeypatch.setattr(machine, "LOOKS", (odd_thing,))
    assert doctor.run(argparse.Namespace(plain=True)) == 0
    assert "memory" in capsys.readouterr().out
