"""create_local_cluster, and the example of its ancestor's documentation in our names."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pytest_localcluster as lc
from pytest_localcluster import ConfigProto, SpecError, create_local_cluster


@pytest.mark.parametrize("launcher", ["process", "thread"])
def test_the_ancestors_example(launcher: str) -> None:
    workers, ps = create_local_cluster(num_workers=2, num_ps=2, launcher=launcher)
    worker_sessions = [lc.Session(w.target) for w in workers]
    with lc.device("/job:ps/task:0"):
        weights = lc.Variable(np.ones((3, 2)), name="weights")
    with lc.device("/job:ps/task:1"):
        bias = lc.Variable(np.array([1.0, 2.0]), name="bias")
    with lc.device("/job:worker/task:0"):
        first, first_pid = np.full((1, 3), 2.0) @ weights + bias, lc.function(os.getpid)()
    with lc.device("/job:worker/task:1"):
        second, second_pid = first * 10, lc.function(os.getpid)()
        update = bias.assign_add(np.array([1.0, 1.0]))

    worker_sessions[0].run(lc.variables_initializer([weights, bias]))
    value, pids = worker_sessions[0].run([second, [first_pid, second_pid]])
    np.testing.assert_array_equal(value, [[70.0, 80.0]])
    assert pids == [workers[0].pid, workers[1].pid]
    np.testing.assert_array_equal(worker_sessions[1].run(update), [2.0, 3.0])

    held = [server.variables() for server in (*ps, *workers)]
    assert [sorted(names) for names in held] == [["weights"], ["bias"], [], []]
    np.testing.assert_array_equal(held[1]["bias"], [2.0, 3.0])


def test_signature_and_return_are_the_ancestors() -> None:
    parameters = list(inspect.signature(create_local_cluster).parameters.values())
    assert [parameter.name for parameter in parameters[:5]] == [
        "num_workers",
        "num_ps",
        "protocol",
        "worker_config",
        "ps_config",
    ]
    assert parameters[2].default == "grpc"
    result = create_local_cluster(1, 0)
    assert type(result) is tuple
    assert [type(part) for part in result] == [list, list]


def test_configs_go_by_job() -> None:
    config = ConfigProto(device_count={"CPU": 3}, inter_op_parallelism_threads=2)
    workers, ps = create_local_cluster(1, 1, worker_config=config, launcher="thread")
    config.device_count["CPU"] = 9
    assert workers[0].config is not None
    assert dict(workers[0].config.device_count) == {"CPU": 3}
    assert ps[0].config is None
    with lc.Session(ps[0].target) as session:
        names = [device.name for device in session.list_devices()]
    assert sorted(names) == [
        "/job:ps/replica:0/task:0/device:CPU:0",
        *(f"/job:worker/replica:0/task:0/device:CPU:{i}" for i in range(3)),
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((-1, 0), "workers=-1"),
        ((True, 0), "workers=True"),
        ((0, 1.5), "ps=1.5"),
        (("a", 0), "workers='a'"),
        ((1, 1, "http"), "protocol='http'"),
        ((1, 1, "grpc", 3), "worker_config is a ConfigProto, not 3"),
    ],
)
def test_what_cannot_be_is_refused(args: tuple[object, ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        create_local_cluster(*args)  # type: ignore[arg-type]


def test_a_protocol_of_none_is_grpc_as_for_the_ancestor() -> None:
    assert create_local_cluster(0, 0, None) == ([], [])  # type: ignore[arg-type]


@pytest.mark.parametrize("scope", ["run", "modul", 3])
def test_a_scope_that_there_is_not(scope: Any) -> None:
    with pytest.raises(SpecError, match=f"no scope {scope!r}") as caught:
        create_local_cluster(1, 0, scope=scope)
    assert "use one of 'function', 'class', 'module', 'package', 'session'" in str(caught.value)


def test_without_portpicker_it_is_an_import_error() -> None:
    code = (
        "import sys; sys.modules['portpicker'] = None\n"
        "from pytest_localcluster import create_local_cluster\n"
        "try: create_local_cluster(1, 0)\n"
        "except ImportError as error: print('refused:', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused: import of portpicker halted")


def test_outside_of_pytest_it_lives_until_the_interpreter_exits() -> None:
    code = (
        "from pytest_localcluster import create_local_cluster\n"
        "(worker,), _ = create_local_cluster(1, 0)\n"
        "import os; same = worker.run(os.getpid) == worker.pid\n"
        "print(worker.pid, worker.log.path.parent, same)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pid, folder, same = done.stdout.split()
    assert same == "True"
    assert not Path(folder).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
