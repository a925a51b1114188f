"""Three hosts on one machine: network namespaces with addresses of their own, joined by a switch.

The switch is a namespace too, so that nothing is changed outside of them. To cut a host off, its
cable is taken out of the switch: packets vanish, and nobody is told.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pytest_localcluster._clock import Deadline, poll

PORT = 6399
NODE = ["--num-cpus=1", f"--object-store-memory={80 << 20}", "--disable-usage-stats", "--block"]
# A machine that is busy, or a host that is cut off for a while, is not to be taken for dead.
PATIENCE = {"RAY_health_check_failure_threshold": "60"}


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Hosts:
    """The namespaces, each with a node of one Ray cluster; the first is the head."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.addresses = [f"10.213.7.{number}" for number in (1, 2, 3)]
        self.environ = {
            **os.environ,
            **PATIENCE,
            "RAY_ADDRESS": f"{self.addresses[0]}:{PORT}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "HOSTS": name,
        }

    def on_first(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run pytest on the first host."""
        command = ["ip", "netns", "exec", f"{self.name}-1", sys.executable, "-m", "pytest"]
        return subprocess.run(
            [*command, "-p", "no:cacheprovider", *arguments],
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )


@contextlib.contextmanager
def three_hosts() -> Iterator[Hosts]:
    """Have three hosts with a Ray node each; skip the test where there can be none."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root, and ip, of iproute2")
    hosts = Hosts(f"plc{os.getpid()}")
    with contextlib.ExitStack() as undo:
        try:
            _join(hosts, undo)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        folder = Path(tempfile.mkdtemp(prefix="plc"))  # pytest's are too long for sockets
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        for number, address in enumerate(hosts.addresses, 1):
            _start_node(hosts, number, address, folder, undo)
        yield hosts


def _join(hosts: Hosts, undo: contextlib.ExitStack) -> None:
    switch = f"{hosts.name}-0"
    for number in range(4):
        ip("netns", "add", f"{hosts.name}-{number}")
        undo.callback(ip, "netns", "del", f"{hosts.name}-{number}")
    ip("-n", switch, "link", "add", "bridge", "type", "bridge")
    ip("-n", switch, "link", "set", "bridge", "up")
    for number, address in enumerate(hosts.addresses, 1):
        host, cable = f"{hosts.name}-{number}", f"cable{number}"
        ip("-n", switch, "link", "add", cable, "type", "veth", "peer", "eth0", "netns", host)
        ip("-n", switch, "link", "set", cable, "master", "bridge", "up")
        ip("-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", host, "link", "set", "eth0", "up")
        ip("-n", host, "link", "set", "lo", "up")


def _start_node(
    hosts: Hosts, number: int, address: str, folder: Path, undo: contextlib.ExitStack
) -> None:
    head = ["--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={folder}/ray"]
    where = head if number == 1 else [f"--address={hosts.addresses[0]}:{PORT}"]
    environ: Mapping[str, str] = {k: v for k, v in hosts.environ.items() if k != "RAY_ADDRESS"}
    program = str(Path(sys.executable).parent / "ray")
    command = ["ip", "netns", "exec", f"{hosts.name}-{number}", program]
    said = folder / f"node{number}.log"
    with said.open("wb") as output:
        node = subprocess.Popen(
            [*command, "start", f"--node-ip-address={address}", *where, *NODE],
            env=environ,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    undo.callback(_end, node)
    up = poll(lambda: "Ray runtime started" in said.read_text(), Deadline(180), interval=0.05)
    assert up, said.read_text()


def _end(node: subprocess.Popen[bytes]) -> None:
    node.terminate()
    try:
        node.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()


@contextlib.contextmanager
def cut_off(number: int) -> Iterator[None]:
    """Cut one of the hosts off, seen from a process that runs on another."""
    switch, cable = f"{os.environ['HOSTS']}-0", f"cable{number}"
    ip("-n", switch, "link", "set", cable, "nomaster")
    try:
        yield
    finally:
        ip("-n", switch, "link", "set", cable, "master", "bridge")
