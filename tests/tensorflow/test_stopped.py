"""What is left of a cluster when its test is over: sessions, addresses, coordinators."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.needs("tensorflow")

CACHE = """
    import functools

    import pytest
    import tensorflow as tf
    from pytest_localcluster import create_local_cluster

    @functools.cache
    def servers():
        (worker,), _ = create_local_cluster(1, 1, runtime="tensorflow"SCOPE)
        return worker, worker.target

    @pytest.mark.parametrize("number", [1, 2])
    def test_sum(number):
        worker, target = servers()
        with tf.Graph().as_default(), tf.device("/job:ps/task:0"):
            with tf.compat.v1.Session(target) as session:
                assert session.run(tf.constant(3) + number) == 3 + number
"""


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    plugins = ("-pno:asyncio", "-pno:hypothesispytest")
    return pytester.runpytest_subprocess(*plugins, *args, timeout=110)


def test_a_session_to_a_cluster_that_stopped_with_an_earlier_test(
    pytester: pytest.Pytester,
) -> None:
    path = pytester.makepyfile(CACHE.replace("SCOPE", ""))
    result = run(pytester)
    result.assert_outcomes(passed=1, failed=1)
    where = f"*whose cluster stopped with {path.name}::test_sum?1?"
    result.stdout.fnmatch_lines([f"E *UnavailableError: nobody is at /job:worker/task:0 {where}"])
    result.stdout.fnmatch_lines(['*create_local_cluster(..., scope="module")*'])


def test_a_cluster_for_a_module(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(CACHE.replace("SCOPE", ', scope="module"'))
    run(pytester, "-Werror::pytest_localcluster.errors.ClusterStoppedWarning").assert_outcomes(
        passed=2
    )


def test_a_hang_of_what_tensorflow_dials(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(
        """
        import pytest
        import tensorflow as tf
        from pytest_localcluster import create_local_cluster

        SPEC = []

        def test_it():
            workers, _ = create_local_cluster(1, 1, runtime="tensorflow")
            SPEC.append(workers[0].cluster.spec.as_dict())

        @pytest.mark.timeout(10, method="thread")
        def test_hang():
            resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
                tf.train.ClusterSpec(SPEC[0]), rpc_layer="grpc"
            )
            tf.distribute.ParameterServerStrategy(resolver)
        """
    )
    result = run(pytester)
    assert result.ret != 0
    tasks = [f"*/job:{job}/task:0 at localhost:*, whose cluster" for job in ("worker", "ps")]
    for task in tasks:
        result.stdout.fnmatch_lines([f"{task} stopped with {path.name}::test_it: nobody is there*"])


COORDINATORS = """
    import gc
    import sys
    import threading
    import traceback

    import pytest
    import tensorflow as tf
    from pytest_localcluster import LocalCluster
    from pytest_localcluster._clock import Deadline, poll
    from pytest_localcluster.errors import ClusterLeakWarning

    def coordinate(cluster):
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(cluster.spec.as_dict()), rpc_layer="grpc"
        )
        strategy = tf.distribute.ParameterServerStrategy(resolver)
        coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
        with strategy.scope():
            total = tf.Variable(0.0)
        return coordinator, total, tf.function(lambda: total.assign_add(1.0))

    def functions_of(thread):
        frames = traceback.walk_stack(sys._current_frames()[thread.ident])
        return {frame.f_code.co_name for frame, _ in frames}

    @pytest.mark.parametrize("workers", [1, 2])
    def test_dead(workers):
        gc.collect()  # coordinators of the test before
        before = set(threading.enumerate())
        cluster = LocalCluster(workers=2, ps=1, runtime="tensorflow").start()
        coordinator, total, step = coordinate(cluster)
        coordinator.schedule(step)
        coordinator.join()
        dead = cluster.workers[:workers]
        for worker in dead:
            worker.kill()
        for _ in range(20):
            coordinator.schedule(step)
        recovering = coordinator._cluster.failure_handler._preemption_handler_thread
        assert poll(lambda: "update_server_def" in functions_of(recovering), Deadline(30))
        with pytest.warns(ClusterLeakWarning, match="a ClusterCoordinator was waiting") as caught:
            cluster.stop()
        text = str(caught[0].message)
        for worker in cluster.workers:
            assert (f"{worker.task} at {worker.address}" in text) == (worker in dead)
        assert "its threads were ended" in text
        assert set(threading.enumerate()) <= before

    def test_the_next():
        with LocalCluster(workers=1, ps=1, runtime="tensorflow") as cluster:
            coordinator, total, step = coordinate(cluster)
            coordinator.schedule(step)
            coordinator.join()
            assert float(total) == 1
"""


def test_a_coordinator_whose_workers_are_dead(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(COORDINATORS)
    run(
        pytester,
        "-Werror::pytest.PytestUnhandledThreadExceptionWarning",
    ).assert_outcomes(passed=3)
