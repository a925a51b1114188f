"""ClusterConfig: every impossible value is refused, with a word on what would do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest

from pytest_localcluster import ClusterConfig, ConfigProto, NativeRuntime, SpecError, Task


def test_defaults_are_one_worker_and_one_ps() -> None:
    config = ClusterConfig()
    assert config.counts() == {"worker": 1, "ps": 1}
    assert config.tasks() == [Task("worker", 0), Task("ps", 0)]
    assert (config.runtime, config.launcher, config.protocol) == ("native", "process", "grpc")
    assert (config.start_timeout, config.stop_timeout, config.links) == (None, 5.0, False)


def test_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ClusterConfig().workers = 2  # type: ignore[misc]


def test_counts_keep_the_order_worker_ps_others() -> None:
    config = ClusterConfig(jobs={"chief": 1, "evaluator": 0}, workers=2, ps=0)
    assert list(config.counts().items()) == [
        ("worker", 2),
        ("ps", 0),
        ("chief", 1),
        ("evaluator", 0),
    ]


def test_an_empty_cluster_is_allowed_and_numpy_counts_are_counts() -> None:
    assert ClusterConfig(workers=0, ps=cast("int", np.int64(0))).tasks() == []


@pytest.mark.parametrize("count", [-1, True, False, 1.5, 2.0, "2", None, [1], np.float64(1)])
@pytest.mark.parametrize("field", ["workers", "ps", "chief"])
def test_refuses_what_counts_no_tasks(field: str, count: Any) -> None:
    fields = {"jobs": {"chief": count}} if field == "chief" else {field: count}
    with pytest.raises(SpecError) as caught:
        ClusterConfig(**fields)
    message = str(caught.value)
    assert field in message
    assert repr(count) in message
    assert "use 0 or more" in message if count == -1 else "whole number from 0 up" in message


@pytest.mark.parametrize("job", ["0chief", "my job", "", "a/b", 3])
def test_refuses_job_names_that_no_device_string_can_hold(job: str) -> None:
    with pytest.raises(SpecError, match="is no name for a job"):
        ClusterConfig(jobs={job: 1})


def test_a_job_may_be_asked_for_by_its_name_but_not_twice() -> None:
    assert ClusterConfig(jobs={"worker": 3, "ps": 0}).counts() == {"worker": 3, "ps": 0}
    with pytest.raises(
        SpecError, match=r"job 'worker' is asked for twice: workers=1 and jobs\['worker'\]=3"
    ):
        ClusterConfig(workers=1, jobs={"worker": 3})
    with pytest.raises(SpecError, match=r"job 'ps' is asked for twice: ps=2 and"):
        ClusterConfig(ps=2, jobs={"ps": 2})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"protocol": "http"}, "protocol='http' cannot be had\n.*use 'grpc'"),
        ({"runtime": "tensroflow"}, "unknown runtime 'tensroflow'\n.*'native'"),
        ({"runtime": object}, r"has no method serve\(\)"),
        ({"runtime": {"worker": "native"}}, "runtime gives nothing for the tasks of job ps"),
        ({"runtime": {"chief": "native"}}, "runtime names job 'chief', which this cluster has not"),
        ({"launcher": "docker"}, "unknown launcher 'docker'\n.*'process', 'thread'"),
        ({"launcher": 3}, r"launcher=3 has no method launch\(\)"),
        ({"jobs": [("chief", 1)]}, "jobs maps job names to counts"),
        ({"start_timeout": 0}, "start_timeout=0 is no time to wait"),
        ({"start_timeout": -1.0}, "start_timeout=-1.0 is no time to wait"),
        ({"start_timeout": float("nan")}, "start_timeout=nan is no time to wait"),
        ({"stop_timeout": None}, "stop_timeout=None is no time to wait"),
        ({"stop_timeout": True}, "stop_timeout=True is no time to wait"),
        ({"env": [("A", "1")]}, "env maps names to strings"),
        ({"env": {"A": 1}}, r"env\['A'\] is 1\n.*use a string"),
        ({"env": {"A=B": "1"}}, "env has 'A=B', which no environment variable can be called"),
        ({"preload": "numpy"}, "preload is a list of module names, not 'numpy'"),
        ({"preload": ["os.path", "a-b"]}, "'a-b' is not the name of one"),
        ({"worker_config": {"device_count": 1}}, "worker_config is a ConfigProto, not"),
        ({"ps_config": ConfigProto}, "ps_config is a ConfigProto, not"),
        ({"links": 1}, "links=1 says nothing.*\n.*use True or False"),
    ],
)
def test_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=f"(?s){message}"):
        ClusterConfig(**fields)


def test_env_may_be_a_function_of_the_task() -> None:
    def env(task: Task) -> Mapping[str, str]:
        return {"ME": str(task)}

    assert ClusterConfig(env=env).environment(Task("ps", 0)) == {"ME": "/job:ps/task:0"}


def test_a_bad_value_from_an_env_function_names_the_task() -> None:
    config = ClusterConfig(env=lambda task: {"N": task.index})  # type: ignore[dict-item]
    with pytest.raises(SpecError, match=r"what env returned for /job:ps/task:1\['N'\] is 1"):
        config.environment(Task("ps", 1))


def test_configs_are_copied() -> None:
    proto = ConfigProto(device_count={"CPU": 2})
    config = ClusterConfig(worker_config=proto)
    proto.device_count["CPU"] = 9
    assert dict(config.worker_config.device_count) == {"CPU": 2}


def test_runtimes_may_be_objects_and_go_by_job() -> None:
    config = ClusterConfig(runtime={"worker": NativeRuntime(), "ps": "native"})
    assert set(config.runtime) == {"worker", "ps"}


def test_replace_changes_a_copy_and_knows_its_fields() -> None:
    config = ClusterConfig(workers=2)
    assert config.replace(ps=0).counts() == {"worker": 2, "ps": 0}
    assert config.replace(jobs={"worker": 5}).counts() == {"worker": 5, "ps": 1}
    with pytest.raises(
        SpecError, match=r"(?s)no 'wrokers'.*did you mean 'workers'\? the keywords are workers, ps,"
    ):
        config.replace(wrokers=3)


def test_equal_configs_are_equal() -> None:
    assert ClusterConfig(workers=1) == ClusterConfig()
    assert ClusterConfig(workers=2) != ClusterConfig()
    assert ClusterConfig(worker_config=ConfigProto()) == ClusterConfig(worker_config=ConfigProto())
