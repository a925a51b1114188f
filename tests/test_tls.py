"""TLS between tasks and their clients, where calls leave the machine, or here seem to."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import util
from typing import Any

import grpc
import numpy as np
import pytest

from pytest_localcluster import (
    LocalCluster,
    Server,
    ServicerRuntime,
    Session,
    SpecError,
    TensorFlowRuntime,
    Variable,
    constant,
    current_task,
    device,
    errors,
)
from pytest_localcluster._context import ROOT_VARIABLE
from pytest_localcluster._launch.process import ProcessLauncher, launcher
from pytest_localcluster._runtimes.native import NativeRuntime
from pytest_localcluster._tls import Authority
from tests.servicers import services
from tests.servicers.services import ECHO, call

MakeCluster = Callable[..., LocalCluster]


class Networked:
    """The process launcher, taken for one whose tasks are on other machines."""

    networked = True

    def __init__(self) -> None:
        self._launcher: ProcessLauncher = launcher(NativeRuntime.preload, {})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._launcher, name)


@pytest.fixture
def make_cluster() -> Iterator[MakeCluster]:
    with ExitStack() as running:

        def make(runtime: Any = "native", **fields: Any) -> LocalCluster:
            fields = {"workers": 2, "ps": 1, "launcher": Networked(), **fields}
            return running.enter_context(LocalCluster(runtime=runtime, **fields))

        yield make


def shown(server: Server) -> str:
    """Return the certificate that a task shows to whoever dials it."""
    host, _, port = server.address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)), timeout=20)


def test_steps_and_large_values_pass_from_task_to_task(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    large = np.arange(500_000.0)
    with device("/job:ps/task:0"):
        variable = Variable(large, name="v")
    with cluster.session() as session:
        session.run(variable.initializer)
        with device("/job:worker/task:1"):
            doubled = variable.read() * 2
        np.testing.assert_array_equal(session.run(doubled), large * 2)
    np.testing.assert_array_equal(cluster.ps[0].variables()["v"], large)


def test_each_task_shows_a_certificate_of_its_own(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    assert len({shown(server) for server in cluster.servers}) == 3


async def add_echo_later(server: Any) -> None:
    """Have it served by grpc.aio."""
    services.add_echo(server)


ADDERS = [services.add_echo, add_echo_later]


@pytest.mark.parametrize("runtime", ["native", *(ServicerRuntime(worker=add) for add in ADDERS)])
def test_who_does_not_speak_tls_gets_no_answer(make_cluster: MakeCluster, runtime: Any) -> None:
    (worker,) = make_cluster(runtime, workers=1, ps=0).workers
    with grpc.insecure_channel(worker.address) as channel:
        health = channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.RpcError) as caught:
            health(b"", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_task_of_another_cluster_is_not_taken_for_ones_own(make_cluster: MakeCluster) -> None:
    (worker,) = make_cluster(workers=1, ps=0).workers
    other = grpc.ssl_channel_credentials(Authority().root.encode())
    with grpc.secure_channel(worker.address, other) as channel:
        health = channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.RpcError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            health(b"", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_the_token_is_asked_for_besides(make_cluster: MakeCluster) -> None:
    (worker,) = make_cluster(workers=1, ps=0).workers
    with (
        Session(worker.target, token="guessed") as session,
        pytest.raises(errors.UnauthenticatedError, match="another token"),
    ):
        session.run(constant(1) + 1)


def test_tasks_and_subprocesses_know_their_cluster(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()

    def ask() -> object:
        peer = current_task().cluster_spec.task_address("ps", 0)
        with Session(f"grpc://{peer}") as session:
            return session.run(constant(2) + 3)

    assert cluster.run(ask, timeout=20) == [5, 5]
    code = (
        "import os, sys\n"
        "from pytest_localcluster import Session, function\n"
        "with Session(sys.argv[1]) as session:\n"
        "    print(session.run(function(os.getpid)()))\n"
    )
    worker = cluster.workers[1]
    env = {**os.environ, **cluster.environ()}
    command = [sys.executable, "-c", code, worker.target]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(worker.pid), done.stderr


def test_a_restarted_task_is_known_again(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    with device("/job:ps/task:0"):
        variable = Variable(1.0, name="v")
    with cluster.session() as session:
        session.run(variable.initializer)
        before = shown(cluster.ps[0])
        cluster.ps[0].kill()
        with pytest.raises(errors.UnavailableError, match=cluster.ps[0].address):
            session.run(variable.read(), timeout=10)
        cluster.ps[0].restart()
        session.run(variable.initializer, timeout=10)
        assert session.run(variable.read(), timeout=10) == 1.0
        assert shown(cluster.ps[0]) == before


@pytest.mark.parametrize("add", ADDERS)
def test_services_ask_for_the_token_and_channels_have_it(
    make_cluster: MakeCluster, add: Any
) -> None:
    (worker,) = make_cluster(ServicerRuntime(worker=add), workers=1, ps=0).workers
    assert call(worker.channel(), "Say", b"1", service=ECHO) == "/job:worker/task:0 1"
    root = worker.cluster.environ()[ROOT_VARIABLE]
    with (
        grpc.secure_channel(worker.target, grpc.ssl_channel_credentials(root.encode())) as channel,
        pytest.raises(grpc.RpcError, match="without its cluster's token"),
    ):
        call(channel, "Say", b"1", service=ECHO)


def test_a_key_shows_nowhere(make_cluster: MakeCluster) -> None:
    (worker,) = make_cluster(workers=1, ps=0).workers
    assignment = worker._life.place.assignment
    assert assignment.credentials is not None
    key = assignment.credentials.key
    assert key.decode().splitlines()[1] not in f"{assignment!r} {worker.log.text()}"
    found = worker.run(lambda: "".join(os.environ.values()))
    assert key.decode() not in found, "what a task starts is no task"


def test_what_stays_on_this_machine_does_without() -> None:
    with LocalCluster(workers=1, ps=0) as cluster:
        assert ROOT_VARIABLE not in cluster.environ()
        assert cluster.workers[0]._life.place.assignment.credentials is None


def test_tensorflow_is_refused_where_strangers_could_call_it() -> None:
    with pytest.raises(SpecError, match=r"open to whoever(?s:.*)TensorFlowRuntime\(insecure=True"):
        LocalCluster(launcher=Networked(), runtime="tensorflow")
    with pytest.raises(SpecError, match="insecure is True or False, not 'yes'"):
        TensorFlowRuntime(insecure="yes")  # type: ignore[arg-type]


def test_links_are_refused_where_they_lead_nowhere() -> None:
    with pytest.raises(SpecError, match="links are relays on this one"):
        LocalCluster(launcher=Networked(), links=True)


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_localcluster._tls.find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"trustme(?s:.*)pip install 'pytest-localcluster\[ray\]'"):
        LocalCluster(launcher=Networked()).start()
    assert util.find_spec("trustme") is not None
