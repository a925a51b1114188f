"""What the manual says of callbacks, Keras and tf.data services."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_localcluster import CommandRuntime, LocalCluster

pytestmark = pytest.mark.needs("tensorflow")

MakeCluster = Callable[..., LocalCluster]
SERVICE = Path(__file__).with_name("data_service.py")


def test_a_callback_stays_in_the_process_that_made_it(
    tf: Any, v1: Any, make_cluster: MakeCluster
) -> None:
    cluster = make_cluster(workers=1, ps=0)

    def double() -> float:
        import tensorflow as tf

        with tf.Graph().as_default(), tf.compat.v1.Session(target) as session:
            doubled = tf.numpy_function(lambda x: x * 2, [tf.constant(3.0)], tf.float32)
            return float(session.run(doubled))

    target = cluster.workers[0].target
    with pytest.raises(tf.errors.InvalidArgumentError, match="Could not find callback"):
        double()
    assert cluster.workers[0].run(double) == 6


def fit() -> None:
    """Run in a chief."""
    import numpy as np
    import tensorflow as tf

    keras = importlib.import_module("keras")
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    with tf.distribute.ParameterServerStrategy(resolver).scope():
        model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    model.fit(np.ones((8, 3)), np.ones((8, 1)), verbose=0)


def test_keras_3_does_not_fit_under_parameter_servers(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(workers=1, ps=1, jobs={"chief": 1})
    with pytest.raises(ValueError, match="create_per_worker_dataset"):
        cluster.jobs["chief"][0].run(fit, timeout=60)


def test_a_tf_data_service(tf: Any) -> None:
    command = [sys.executable, str(SERVICE), "{port}"]
    services = CommandRuntime(
        dispatcher=command,
        worker=[*command, "{hosts[dispatcher]}"],
        ready=re.compile("the service is up"),
    )
    with LocalCluster(
        workers=2, ps=0, jobs={"dispatcher": 1}, runtime=services, start_timeout=60
    ) as cluster:
        distribute = tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.DYNAMIC,
            service=f"grpc://{cluster.jobs['dispatcher'][0].address}",
        )
        assert sorted(map(int, tf.data.Dataset.range(6).apply(distribute))) == list(range(6))
