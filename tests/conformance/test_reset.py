"""reset: back to the state just after start, whatever became of the tasks; what is dialled."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from pytest_localcluster import (
    LocalCluster,
    Session,
    UnsupportedError,
    Variable,
    device,
    errors,
    variables_initializer,
)
from tests.conformance.conftest import PROCESSES, make_runtime, works


def test_tasks_work_after_a_reset_at_their_old_addresses(
    cluster: LocalCluster, runtime: str
) -> None:
    before = [(server.address, server.pid) for server in cluster.servers]
    starts = [server.log.begun for server in cluster.servers]
    cluster.reset()
    assert [(server.address, server.is_alive()) for server in cluster.servers] == [
        (address, True) for address, _ in before
    ]
    assert all(works(server) for server in cluster.servers)
    if make_runtime(runtime).resets_in_place:
        assert [(server.address, server.pid) for server in cluster.servers] == before
        assert [server.log.begun for server in cluster.servers] == starts
    cluster.reset()
    assert not [server for server in cluster.servers if server.unexpected_death()]


def test_what_has_no_sessions_says_what_to_use(cluster: LocalCluster, runtime: str) -> None:
    if runtime == "native":
        assert cluster.session("/job:ps/task:0").list_devices()
        return
    with pytest.raises(UnsupportedError, match="no Session can be opened to /job:worker") as caught:
        cluster.session()
    assert caught.value.remedy
    with pytest.raises(UnsupportedError, match="shows no variables"):
        cluster.ps[0].variables()


@pytest.mark.parametrize("launcher", PROCESSES, indirect=True)
def test_what_died_or_is_suspended_comes_back(cluster: LocalCluster) -> None:
    cluster.workers[0].kill()
    cluster.ps[0].suspend()
    addresses = [server.address for server in cluster.servers]
    cluster.reset()
    assert [server.address for server in cluster.servers] == addresses
    assert all(works(server) for server in cluster.servers)


@pytest.mark.usefixtures("python")
@pytest.mark.parametrize("launcher", PROCESSES, indirect=True)
def test_what_hangs_comes_back(cluster: LocalCluster) -> None:
    cluster.workers[1].submit(lambda: threading.Event().wait())
    cluster.reset()
    assert [server.run(lambda: 1, timeout=20) for server in cluster.servers] == [1, 1, 1]


@pytest.mark.parametrize("runtime", ["native"], indirect=True)
class TestSessions:
    def test_variables_are_gone_and_tasks_stay(self, cluster: LocalCluster) -> None:
        pids = [server.pid for server in cluster.servers]
        with device("/job:ps/task:0"):
            variable = Variable(np.arange(3.0), name="v")
        session = cluster.session()
        session.run(variables_initializer([variable]))
        np.testing.assert_array_equal(cluster.ps[0].variables()["v"], np.arange(3.0))
        cluster.reset()
        assert cluster.ps[0].variables() == {}
        with pytest.raises(errors.FailedPreconditionError, match="v"):
            session.run(variable.read())
        session.run(variables_initializer([variable]))
        assert [server.pid for server in cluster.servers] == pids

    def test_sessions_close_with_the_cluster(self, cluster: LocalCluster) -> None:
        session = cluster.session("/job:ps/task:0")
        assert session.list_devices()
        cluster.stop()
        with pytest.raises(errors.FailedPreconditionError, match="closed"):
            session.list_devices()

    @pytest.mark.parametrize("launcher", PROCESSES, indirect=True)
    def test_a_session_works_at_once_after_a_restart(self, cluster: LocalCluster) -> None:
        with device("/job:ps/task:0"):
            variable = Variable(1.0, name="v")
        with cluster.session("/job:worker/task:0") as session:
            session.run(variable.initializer)
            for server in (cluster.ps[0], cluster.workers[0]):
                server.kill()
                with pytest.raises(errors.UnavailableError, match=server.address):
                    session.run(variable.read(), timeout=10)
                server.restart()
                if server is cluster.ps[0]:
                    with pytest.raises(errors.FailedPreconditionError):
                        session.run(variable.read(), timeout=10)
                    session.run(variable.initializer, timeout=10)
                assert session.run(variable.read(), timeout=10) == 1.0

    @pytest.mark.parametrize("launcher", PROCESSES, indirect=True)
    def test_a_subprocess_joins(self, cluster: LocalCluster, launcher: str) -> None:
        code = (
            "import os, sys\n"
            "from pytest_localcluster import Session, function\n"
            "with Session(sys.argv[1]) as session:\n"
            "    print(session.run(function(os.getpid)()))\n"
        )
        worker = cluster.workers[1]
        command = [sys.executable, "-c", code, worker.target]
        env = {**os.environ, **cluster.environ()}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == str(worker.pid), done.stderr
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        # Without the token, and on a network without the certificate by which a task is known.
        assert ("UnavailableError" if launcher == "ray" else "UnauthenticatedError") in done.stderr
        assert cluster.environ("/job:ps/task:0")["TF_CONFIG"] == cluster.spec.tf_config(
            cluster.ps[0].task
        )

    def test_a_task_can_dial_its_peers(self, cluster: LocalCluster) -> None:
        def ask() -> object:
            from pytest_localcluster import constant, current_task

            context = current_task()
            peer = context.cluster_spec.task_address("ps", 0)
            with Session(f"grpc://{peer}") as session:
                return session.run(constant(2) + 3)

        assert cluster.run(ask, timeout=20) == [5, 5]
