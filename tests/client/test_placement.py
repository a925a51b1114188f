"""device() scopes nest as TensorFlow's do."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from pytest_localcluster import (
    ClusterSpec,
    DeviceSpec,
    SpecError,
    Task,
    Variable,
    constant,
    device,
    placeholder,
    replica_device_setter,
)


def here() -> str:
    tensor: Any = placeholder(np.float64)
    return str(tensor.device)


def test_without_a_scope_there_is_no_device() -> None:
    assert here() == ""
    assert Variable(0.0).device == ""


def test_inner_fields_win_and_outer_ones_fill_in() -> None:
    with device("/job:worker/task:1"):
        assert here() == "/job:worker/task:1"
        with device("/cpu:1"):
            assert here() == "/job:worker/task:1/device:CPU:1"
            with device("/job:ps"):
                assert here() == "/job:ps/task:1/device:CPU:1"
        with device("/task:0"):
            assert here() == "/job:worker/task:0"
        assert here() == "/job:worker/task:1"


def test_none_leaves_the_outer_scopes_out() -> None:
    with device("/job:worker/task:1"), device(None):
        assert here() == ""
        with device("/cpu:0"):
            assert here() == "/device:CPU:0"


def test_tasks_and_specs_are_devices_too() -> None:
    with device(Task("ps", 1)):
        assert here() == "/job:ps/task:1"
    with device(DeviceSpec(job="ps", device_type="CPU", device_index=0)):
        assert here() == "/job:ps/device:CPU:0"


def test_what_has_a_task_is_a_device_too() -> None:
    class Server:
        task = Task("worker", 1)

    with device(Server()):
        assert here() == "/job:worker/task:1"
    Server.task = "worker"  # type: ignore[assignment]  # nothing that we know
    with pytest.raises(TypeError, match="takes a device string, a DeviceSpec, a Task, a Server"):
        device(Server()).__enter__()


def test_a_function_sees_the_operation_and_replaces_its_device() -> None:
    seen = []

    def choose(op: Any) -> str | None:
        seen.append((op.type, op.name, op.device))
        return "/job:ps/task:0" if op.type == "Variable" else None

    with device("/job:worker"), device(choose), device("/cpu:1"):
        variable = Variable(0.0, name="v")
        assert here() == "/job:worker/device:CPU:1"
    assert variable.device == "/job:ps/task:0", "the function had its say on /cpu:1"
    assert seen == [
        ("Variable", "v", "/device:CPU:1"),
        ("Placeholder", "placeholder", "/device:CPU:1"),
    ]


def test_a_scope_ends_with_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), device("/job:ps"):
        _ = 1 // 0
    assert here() == ""


def test_scopes_are_a_threads_own() -> None:
    found = []
    with device("/job:ps"):
        thread = threading.Thread(target=lambda: found.append(here()))
        thread.start()
        thread.join()
    assert found == [""]


@pytest.mark.parametrize("name", ["/job:a:b", "/jib:ps", "ps", "/task:x"])
def test_what_names_no_device_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="names no device"), device(name):
        pass


def test_what_is_no_device_is_refused() -> None:
    with pytest.raises(TypeError, match="takes a device string, .* not 3"), device(3):  # type: ignore[arg-type]
        pass


def test_a_variables_operations_stay_with_it() -> None:
    with device("/job:ps/task:0"):
        v = Variable(np.zeros(2), name="v")
    with device("/job:worker/task:1"):
        ops: list[Any] = [v.read(), v.assign([1, 2]), v.assign_add(v), v.scatter_add([0], [1.0])]
        doubled = v * 2
    devices = {op.device for op in [*(tensor.op for tensor in ops), v.initializer]}
    assert devices == {"/job:ps/task:0"}
    assert v.initial_value.device == "/job:ps/task:0"
    assert ops[1].op.inputs[0].device == "/job:ps/task:0", "a constant waits where it is needed"
    assert doubled.device == "/job:worker/task:1"


CLUSTER = {"worker": ["localhost:1", "localhost:2"], "ps": ["localhost:3", "localhost:4"]}


@pytest.mark.parametrize(
    "setter",
    [
        lambda: replica_device_setter(ps_tasks=2),
        lambda: replica_device_setter(cluster=CLUSTER),
        lambda: replica_device_setter(cluster=ClusterSpec(CLUSTER)),
    ],
)
def test_variables_go_round_the_ps_tasks(setter: Any) -> None:
    with device(setter()):
        variables = [Variable(0.0) for _ in range(3)]
        total: Any = variables[0] + 1
    assert [v.device for v in variables] == ["/job:ps/task:0", "/job:ps/task:1", "/job:ps/task:0"]
    assert total.device == "/job:worker"


def test_what_inner_scopes_say_completes_or_overrules_the_setter() -> None:
    with device(replica_device_setter(ps_tasks=2, worker_device="/job:worker/task:1")):
        with device("/cpu:1"):
            assert Variable(0.0).device == "/job:ps/task:0/device:CPU:1"
            assert here() == "/job:worker/task:1/device:CPU:1"
        with device("/job:chief"):
            assert Variable(0.0).device == "/job:chief"
            assert here() == "/job:chief/task:1"
        assert Variable(0.0).device == "/job:ps/task:1"


def test_the_setter_can_leave_given_devices_alone() -> None:
    with device(replica_device_setter(ps_tasks=1, merge_devices=False)), device("/cpu:1"):
        assert Variable(0.0).device == "/device:CPU:1"


def test_the_setter_takes_other_kinds_and_another_order() -> None:
    setter = replica_device_setter(ps_tasks=3, ps_ops=["Const"], ps_strategy=lambda op: 2)
    with device(setter):
        assert constant(1).device == "/job:ps/task:2"
        assert here() == "/job:worker"


def test_without_ps_tasks_there_is_no_setter() -> None:
    assert replica_device_setter() is None
    assert replica_device_setter(cluster={"worker": ["localhost:1"]}) is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ps_tasks": -1}, ValueError, "ps_tasks=-1: there cannot be fewer than no tasks"),
        ({"cluster": 3}, TypeError, "cluster=3 is no ClusterSpec"),
        ({"ps_tasks": 1, "ps_device": "ps"}, SpecError, "'ps' names no device"),
    ],
)
def test_the_setter_refuses_what_cannot_be(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        replica_device_setter(**options)
