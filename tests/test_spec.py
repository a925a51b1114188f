"""Task, DeviceSpec, ClusterSpec and TF_CONFIG."""

from __future__ import annotations

import json
import pickle

import pytest

from pytest_localcluster import ClusterSpec, DeviceSpec, SpecError, Task


class TestTask:
    def test_prints_as_a_device_string_and_is_read_from_one(self) -> None:
        task = Task("ps", 1)
        assert str(task) == "/job:ps/task:1"
        assert Task.parse("/job:ps/task:1") == task
        assert Task.parse("/job:ps/replica:0/task:1") == task

    @pytest.mark.parametrize(
        "text", ["ps/0", "/job:ps", "/job:ps/task:-1", "/job:ps/task:x", "", None, 3]
    )
    def test_refuses_what_names_no_task(self, text: str) -> None:
        with pytest.raises(SpecError, match=r"names no task\n.*write it as /job:ps/task:0"):
            Task.parse(text)

    @pytest.mark.parametrize("index", [-1, True, 1.0, "0", None])
    def test_refuses_an_index_that_counts_nothing(self, index: int) -> None:
        with pytest.raises(SpecError, match="index of a ps task is a whole number from 0 up, not"):
            Task("ps", index)

    @pytest.mark.parametrize("job", ["", "0ps", "my job", "a:b", "a/b", "ünter", "_x", None, 7])
    def test_refuses_a_job_that_no_device_string_can_hold(self, job: str) -> None:
        with pytest.raises(SpecError, match="is no name for a job: no device string"):
            Task(job, 0)


class TestDeviceSpec:
    @pytest.mark.parametrize(
        ("text", "canonical"),
        [
            ("/job:ps/replica:0/task:1/device:CPU:2", "/job:ps/replica:0/task:1/device:CPU:2"),
            ("/job:ps/task:1", "/job:ps/task:1"),
            ("/cpu:0", "/device:CPU:0"),
            ("/task:0/gpu:1", "/task:0/device:GPU:1"),
            ("/device:cpu:1", "/device:CPU:1"),
            ("/device:CPU:*", "/device:CPU:*"),
            ("", ""),
        ],
    )
    def test_reads_and_writes_device_strings(self, text: str, canonical: str) -> None:
        assert str(DeviceSpec.from_string(text)) == canonical

    @pytest.mark.parametrize(
        "text",
        [
            "/job:",
            "/task:x",
            "/device:",
            "/what:1",
            "ps",
            "/job:a/job:b",
            "/job:a:b",
            "/device:CPU:0:1",
        ],
    )
    def test_refuses_what_names_no_device(self, text: str) -> None:
        with pytest.raises(SpecError, match=r"names no device|is no name for a job|no device type"):
            DeviceSpec.from_string(text)

    def test_merging_puts_the_other_over_this(self) -> None:
        outer = DeviceSpec.from_string("/job:ps/task:0/device:CPU:0")
        inner = DeviceSpec.from_string("/task:1")
        assert str(outer.make_merged_spec(inner)) == "/job:ps/task:1/device:CPU:0"

    def test_matches_any_value_of_a_missing_part(self) -> None:
        device = DeviceSpec.from_string("/job:ps/replica:0/task:0/device:CPU:0")
        assert DeviceSpec.from_string("/job:ps").matches(device)
        assert not DeviceSpec.from_string("/job:ps/task:1").matches(device)


SPEC = {"worker": ["localhost:2222", "localhost:2223"], "ps": [], "chief": ["[::1]:2224"]}


class TestClusterSpec:
    def test_tells_who_exists_and_where(self) -> None:
        spec = ClusterSpec(SPEC)
        assert spec.jobs == ["worker", "ps", "chief"]
        assert spec.num_tasks("worker") == 2
        assert spec.job_tasks("ps") == []
        assert spec.task_address("worker", 1) == "localhost:2223"
        assert spec.as_dict() == SPEC
        assert spec.tasks == [Task("worker", 0), Task("worker", 1), Task("chief", 0)]

    def test_is_immutable_equal_hashable_and_pickles(self) -> None:
        given = {"ps": ["a:1"]}
        spec = ClusterSpec(given)
        given["ps"].append("b:2")
        spec.as_dict()["ps"].append("c:3")
        spec.job_tasks("ps").append("d:4")
        assert spec.as_dict() == {"ps": ["a:1"]}
        assert spec == pickle.loads(pickle.dumps(spec)) != ClusterSpec({})
        assert len({spec, ClusterSpec({"ps": ["a:1"]})}) == 1

    def test_cluster_def_sorts_jobs_and_keeps_an_empty_one(self) -> None:
        cluster_def = ClusterSpec({"worker": ["localhost:1"], "ps": []}).as_cluster_def()
        assert [job.name for job in cluster_def.job] == ["ps", "worker"]
        assert dict(cluster_def.job[1].tasks) == {0: "localhost:1"}
        assert not cluster_def.job[0].tasks

    @pytest.mark.parametrize(
        "address",
        ["localhost", "localhost:", "localhost:0", "localhost:65536", "a b:1", ":1", "::1:2", 2222],
    )
    def test_refuses_what_is_no_address(self, address: str) -> None:
        with pytest.raises(SpecError, match=r"is no address for /job:ps/task:0\n.*host:port"):
            ClusterSpec({"ps": [address]})

    def test_refuses_an_address_given_twice(self) -> None:
        with pytest.raises(
            SpecError, match="/job:a/task:0 and /job:b/task:0 have the same address, x:1"
        ):
            ClusterSpec({"a": ["x:1"], "b": ["x:1"]})

    @pytest.mark.parametrize("addresses", ["localhost:1", 3, None])
    def test_refuses_a_job_without_a_list(self, addresses: list[str]) -> None:
        with pytest.raises(SpecError, match="job 'ps' needs a list of addresses, not"):
            ClusterSpec({"ps": addresses})

    def test_refuses_what_is_no_mapping(self) -> None:
        with pytest.raises(SpecError, match="maps job names to lists of addresses"):
            ClusterSpec(["localhost:1"])  # type: ignore[arg-type]

    def test_names_what_it_does_not_have(self) -> None:
        spec = ClusterSpec({"ps": ["a:1"]})
        with pytest.raises(SpecError, match="no job 'chief' in this cluster; its jobs are: ps"):
            spec.job_tasks("chief")
        with pytest.raises(SpecError, match="no task 1 in job 'ps', which has 1"):
            spec.task_address("ps", 1)


class TestTfConfig:
    def test_goes_both_ways(self) -> None:
        spec, task = ClusterSpec(SPEC), Task("worker", 1)
        text = spec.tf_config(task)
        filled = {job: addresses for job, addresses in SPEC.items() if addresses}
        assert filled != SPEC
        assert json.loads(text) == {
            "cluster": filled,
            "task": {"type": "worker", "index": 1},
            "rpc_layer": "grpc",
        }
        assert ClusterSpec.from_tf_config(text) == ClusterSpec(filled)
        assert Task.from_tf_config(text) == task

    def test_a_client_has_no_task(self) -> None:
        text = ClusterSpec(SPEC).tf_config()
        assert "task" not in json.loads(text)
        assert Task.from_tf_config(text) is None

    def test_an_index_may_be_written_as_text(self) -> None:
        assert Task.from_tf_config('{"task": {"type": "ps", "index": "3"}}') == Task("ps", 3)

    def test_refuses_a_task_that_is_not_in_the_cluster(self) -> None:
        with pytest.raises(SpecError, match="no task 7 in job 'worker'"):
            ClusterSpec(SPEC).tf_config(Task("worker", 7))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "TF_CONFIG is not JSON"),
            ("[]", "TF_CONFIG is a JSON object"),
            ("{}", "TF_CONFIG has no cluster"),
            ('{"cluster": {"ps": "a:1"}}', "job 'ps' needs a list"),
        ],
    )
    def test_refuses_what_is_no_cluster(self, text: str, message: str) -> None:
        with pytest.raises(SpecError, match=message):
            ClusterSpec.from_tf_config(text)

    @pytest.mark.parametrize("task", [3, {}, {"type": "ps"}, {"type": "ps", "index": "x"}])
    def test_refuses_what_is_no_task(self, task: object) -> None:
        with pytest.raises(SpecError, match=r"the task in TF_CONFIG is|index of a ps task"):
            Task.from_tf_config(json.dumps({"task": task}))
