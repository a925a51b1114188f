"""The file of a running cluster: what is written is read, and what is none is refused."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_localcluster import ClusterSpec, SpecError, Task
from pytest_localcluster._clusterfile import ClusterFile, ProcessId, read_cluster_file
from pytest_localcluster._context import Token

SPEC = ClusterSpec({"worker": ["localhost:1", "localhost:2"], "ps": ["localhost:3"], "none": []})
FULL = ClusterFile(
    SPEC,
    {"worker": "native", "ps": "command", "none": "native"},
    Token("secret"),
    processes={Task("ps", 0): ProcessId.of(os.getpid())},
    logs={Task("ps", 0): Path("/logs/ps-0.log")},
    owner=ProcessId(7, "12"),
    version="1.2",
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    for file in (FULL, ClusterFile(SPEC, dict.fromkeys(SPEC.jobs, "native"), Token())):
        path.unlink(missing_ok=True)
        file.write(path)
        assert read_cluster_file(path) == file
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [one.name for one in tmp_path.iterdir()] == ["cluster.json"]
    assert "secret" not in repr(FULL)


def test_by_hand_little_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    path.write_text('{"cluster": {"ps": ["localhost:6379"]}, "runtime": "command"}')
    file = read_cluster_file(path)
    assert file.spec.as_dict() == {"ps": ["localhost:6379"]}
    assert file.runtimes == {"ps": "command"}
    assert (file.token, file.owner, file.dead(), file.is_in_use()) == ("", None, [], True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], 'it is no JSON object with a "cluster"'),
        ({"cluster": None}, "a cluster spec maps job names to lists of addresses"),
        ({"cluster": {"ps": "localhost:1"}}, "job 'ps' needs a list of addresses"),
        ({"protocol": "http"}, 'its "protocol" is \'http\', and can only be "grpc"'),
        ({"token": 7}, 'its "token" is int, and should be text'),
        ({"runtime": {"worker": "native"}}, "does not say what the tasks of job 'ps' serve"),
        ({"runtime": 3}, 'its "runtime" is 3, and should be a name, or one for each job'),
        ({"tasks": []}, 'its "tasks" is [], and should be a JSON object'),
        ({"tasks": {"ps": {}}}, "'ps' names no task"),
        ({"tasks": {"/job:ps/task:9": {}}}, "no task 9 in job 'ps', which has 1"),
        ({"tasks": {"/job:ps/task:0": 1}}, 'what "tasks" has of /job:ps/task:0 is 1'),
        ({"tasks": {"/job:ps/task:0": {"pid": 0}}}, "0 is no process id"),
        ({"owner": 5}, 'its "owner" is 5, and should be a JSON object'),
        ({"owner": {"pid": True}}, "True is no process id"),
    ],
)
def test_what_is_none_is_refused(tmp_path: Path, fields: object, message: str) -> None:
    path = tmp_path / "cluster.json"
    whole = {**json.loads(FULL.as_text()), **fields} if isinstance(fields, dict) else fields
    path.write_text(json.dumps(whole))
    with pytest.raises(SpecError) as caught:
        read_cluster_file(path)
    assert str(caught.value).startswith(f"{path} is no cluster file: ")
    assert message in str(caught.value)
    assert "To fix this" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_process_is_known_by_more_than_its_number() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = ProcessId.of(child.pid)
        assert process.lives()
        assert not ProcessId(child.pid, "1").lives()
        child.kill()
        child.wait()
        assert not process.lives()
        file = ClusterFile(SPEC, {}, Token(), processes={Task("ps", 0): process})
        assert file.dead() == [Task("ps", 0)]
        assert not file.is_in_use()
