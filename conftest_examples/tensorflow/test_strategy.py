"""Softmax regression under a ParameterServerStrategy, coordinated by a chief.

The variables live on the two ps. The coordinator hands steps to whichever worker is free, and each
worker reads batches of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pytest_localcluster import LocalCluster

STEPS, BATCH, RATE = 300, 32, 0.5


# docs: train
def train(images: Any, labels: Any) -> tuple[Any, Any, list[str]]:
    """Runs in the chief, which has the cluster in its TF_CONFIG; returns weights, bias, devices."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        weights = tf.Variable(tf.zeros((64, 10)))
        bias = tf.Variable(tf.zeros(10))

    def batches() -> Any:
        data = tf.data.Dataset.from_tensor_slices((images, labels))
        return data.shuffle(len(labels)).repeat().batch(BATCH)

    @tf.function  # type: ignore[untyped-decorator]  # tensorflow has no types
    def step(iterator: Any) -> None:
        x, y = next(iterator)
        with tf.GradientTape() as tape:
            logits = x @ weights + bias
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        by_weights, by_bias = tape.gradient(loss, [weights, bias])
        weights.assign_sub(RATE * by_weights)
        bias.assign_sub(RATE * by_bias)

    iterator = iter(coordinator.create_per_worker_dataset(batches))
    for _ in range(STEPS):
        coordinator.schedule(step, args=(iterator,))
    coordinator.join()
    return weights.numpy(), bias.numpy(), [weights.device, bias.device]


# docs: test
@pytest.mark.cluster(workers=2, ps=2, jobs={"chief": 1}, runtime="tensorflow")
def test_workers_learn_to_read_digits(local_cluster: LocalCluster, digits: tuple[Any, ...]) -> None:
    images, labels, new_images, new_labels = digits
    (chief,) = local_cluster.jobs["chief"]
    weights, bias, devices = chief.run(train, images, labels, timeout=60)
    assert devices == [f"/job:ps/replica:0/task:{index}/device:CPU:0" for index in range(2)]
    predictions = np.argmax(new_images @ weights + bias, axis=1)
    assert np.mean(predictions == new_labels) >= 0.93
