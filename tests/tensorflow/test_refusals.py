"""What cannot be is refused, with what to do instead."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from pytest_localcluster import LocalCluster, SpecError, TensorFlowRuntime, UnsupportedError

needs_tensorflow = pytest.mark.needs("tensorflow")


@pytest.mark.skipif(find_spec("tensorflow") is not None, reason="TensorFlow is installed here")
def test_tensorflow_is_missing() -> None:
    with pytest.raises(SpecError, match="needs TensorFlow, which is not installed") as caught:
        LocalCluster(runtime="tensorflow")
    assert "pip install 'pytest-localcluster[tensorflow]'" in str(caught.value)


def test_in_threads() -> None:
    with pytest.raises(SpecError, match="a TensorFlow server ends only with its process") as caught:
        LocalCluster(runtime="tensorflow", launcher="thread")
    assert "use launcher='process'" in str(caught.value)


@pytest.mark.parametrize("wrong", ["chief", 3, None, {"chief": 1}, [1]])
def test_coordinators_that_are_no_list_of_jobs(wrong: Any) -> None:
    with pytest.raises(SpecError, match="coordinators is a list of jobs, not"):
        TensorFlowRuntime(coordinators=wrong)


def test_gpus_by_number() -> None:
    with pytest.raises(SpecError, match="gpus is True or False, not 2"):
        TensorFlowRuntime(gpus=2)  # type: ignore[arg-type]


@needs_tensorflow
def test_what_the_native_runtime_alone_can_do() -> None:
    with LocalCluster(workers=1, ps=0, runtime="tensorflow") as cluster:
        for call in (cluster.session, cluster.workers[0].variables):
            with pytest.raises(UnsupportedError, match="TensorFlowRuntime") as caught:
                call()
            assert "open a tf.compat.v1.Session(server.target)" in str(caught.value)
