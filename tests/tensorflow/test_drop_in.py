"""Code that was written for tf.test.create_local_cluster, with our function in its place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

import pytest_localcluster
from pytest_localcluster import ConfigProto, LocalCluster, Server, Task

pytestmark = pytest.mark.needs("tensorflow")

MakeCluster = Callable[..., LocalCluster]


@pytest.fixture
def ancestor(tf: Any) -> Callable[..., Any]:
    function: Callable[..., Any] = tf.test.create_local_cluster
    return function


@pytest.fixture
def replaced(ancestor: Any, tf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = functools.partial(pytest_localcluster.create_local_cluster, runtime="tensorflow")
    monkeypatch.setattr(tf.test, "create_local_cluster", ours)


@pytest.mark.usefixtures("replaced")
def test_the_example_of_its_documentation(tf: Any, v1: Any) -> None:
    workers, _ = tf.test.create_local_cluster(num_workers=2, num_ps=2)

    worker_sessions = [tf.compat.v1.Session(w.target) for w in workers]

    with tf.device("/job:ps/task:0"):
        a = v1.get_variable("a", initializer=1.0)
    with tf.device("/job:ps/task:1"):
        b = v1.get_variable("b", initializer=2.0)
    with tf.device("/job:worker/task:0"):
        c = a + b
    with tf.device("/job:worker/task:1"):
        d = c * 10

    worker_sessions[0].run([a.initializer, b.initializer])
    assert worker_sessions[0].run(d) == 30
    assert worker_sessions[1].run(a.assign_add(1.0)) == 2
    assert worker_sessions[0].run(d) == 40
    devices = [device.name for device in worker_sessions[1].list_devices()]
    assert sorted(devices) == sorted(
        f"/job:{job}/replica:0/task:{index}/device:CPU:0"
        for job in ("ps", "worker")
        for index in range(2)
    )


@pytest.mark.usefixtures("replaced")
def test_variables_live_on_the_ps_that_they_were_placed_on(tf: Any, v1: Any) -> None:
    workers, ps = tf.test.create_local_cluster(num_workers=1, num_ps=2)
    with tf.device("/job:ps/task:0"):
        lost = v1.get_variable("lost", initializer=1.0)
    with tf.device("/job:ps/task:1"):
        kept = v1.get_variable("kept", initializer=2.0)
    with v1.Session(workers[0].target) as session:
        session.run([lost.initializer, kept.initializer])
    assert isinstance(ps[0], Server)
    ps[0].kill()
    assert ps[0].join() == -9
    ps[0].start()
    ps[0].start()  # as the ancestor's, it does no harm to one that runs
    with v1.Session(workers[0].target) as session:
        assert session.run(kept) == 2
        with pytest.raises(tf.errors.FailedPreconditionError, match="lost"):
            session.run(lost)


def test_in_a_test_case_of_tensorflow(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import functools
        import psutil
        import pytest_localcluster
        import tensorflow as tf

        tf.test.create_local_cluster = functools.partial(
            pytest_localcluster.create_local_cluster, runtime="tensorflow"
        )

        class ClusterTest(tf.test.TestCase):
            pids = []

            def add(self):
                workers, ps = tf.test.create_local_cluster(num_workers=1, num_ps=1)
                self.pids += [server.pid for server in (*workers, *ps)]
                with tf.Graph().as_default(), tf.device("/job:ps/task:0"):
                    total = tf.constant([1.0, 2.0]) + 1.0
                    with tf.compat.v1.Session(workers[0].target) as session:
                        self.assertAllEqual([2.0, 3.0], session.run(total))

            def test_one(self):
                self.add()

            def test_two(self):
                self.add()
                before, now = self.pids[:2], self.pids[2:]
                self.assertFalse(any(map(psutil.pid_exists, before)))
                self.assertTrue(all(map(psutil.pid_exists, now)))
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:asyncio")
    assert result.parseoutcomes()["passed"] >= 2
    assert result.ret == 0


def several(tf: Any) -> Any:
    """Return a config with a field that our own message does not know, and a map."""
    v1 = tf.compat.v1
    options = v1.GraphOptions(build_cost_model=3)
    return v1.ConfigProto(
        device_count={"CPU": 3}, graph_options=options, gpu_options=v1.GPUOptions(allow_growth=True)
    )


@pytest.mark.parametrize(
    ("counts", "configured"),
    [
        ((2, 2), ()),
        ((1, 0), ()),
        ((0, 1), ()),
        ((2, 1), ("worker_config",)),
        ((1, 2), ("worker_config", "ps_config")),
    ],
)
def test_server_def_is_the_ancestors(
    tf: Any, ancestor: Any, counts: tuple[int, int], configured: tuple[str, ...]
) -> None:
    configs = {name: several(tf) for name in configured}
    theirs = ancestor(*counts, **configs)
    ours = pytest_localcluster.create_local_cluster(*counts, runtime="tensorflow", **configs)
    pairs = [
        (a, b)
        for one, other in zip(theirs, ours, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    assert len(pairs) == sum(counts)
    for their, our in pairs:
        expected, found = their.server_def, our.server_def
        assert type(found) is tf.train.ServerDef
        for job in expected.cluster.job:
            for index in job.tasks:
                task = Task(job.name, index)
                (server,) = [one for one in ours[job.name == "ps"] if one.task == task]
                job.tasks[index] = server.address
        assert found == expected
        assert our.target.startswith("grpc://localhost:")
        assert our.config is None or our.config == configs["worker_config"]


def test_configs_reach_the_servers(tf: Any, v1: Any, make_cluster: MakeCluster) -> None:
    cluster = make_cluster(
        workers=1, ps=1, worker_config=several(tf), ps_config=ConfigProto(device_count={"CPU": 2})
    )
    with v1.Session(cluster.workers[0].target) as session:
        names = [device.name for device in session.list_devices()]
    assert sum("/job:worker/" in name for name in names) == 3
    assert sum("/job:ps/" in name for name in names) == 2


def test_an_error_of_a_session_inside_a_task(tf: Any, make_cluster: MakeCluster) -> None:
    def fail() -> None:
        import tensorflow as tf

        from pytest_localcluster import current_task

        v1 = tf.compat.v1
        with tf.Graph().as_default(), v1.Session(current_task().target) as session:
            session.run(tf.debugging.check_numerics(tf.constant(float("nan")), "nan here"))

    cluster = make_cluster(workers=1, ps=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="nan here") as caught:
        cluster.run(fail)
    error = caught.value
    assert error.error_code == tf.errors.INVALID_ARGUMENT
    assert "nan here" in error.message
    with pytest.raises(AttributeError, match="'_op' did not come along from the task"):
        _ = error.op


def test_a_session_inside_a_task(v1: Any, make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=2, ps=1)

    def add(number: float) -> Any:
        import tensorflow as tf

        from pytest_localcluster import current_task

        v1 = tf.compat.v1
        with tf.Graph().as_default():
            with tf.device("/job:ps/task:0"):
                total = v1.get_variable("total", shape=(), initializer=v1.zeros_initializer())
            with v1.Session(current_task().target) as session:
                if current_task().task.index == 0 and number == 1:
                    session.run(total.initializer)
                return session.run(total.assign_add(number))

    assert [cluster.workers[0].run(add, 1), cluster.workers[1].run(add, 2)] == [1, 3]
