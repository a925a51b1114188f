"""TensorFlow's own test helper replaced by clusters that stop, and the digits to learn."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

import pytest_localcluster


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give code written for tf.test.create_local_cluster servers of the test's own, a graph."""
    monkeypatch.setattr(
        tf.test,
        "create_local_cluster",
        functools.partial(pytest_localcluster.create_local_cluster, runtime="tensorflow"),
    )
    with tf.Graph().as_default():
        yield


# docs: digits
@pytest.fixture(scope="session")
def digits() -> tuple[Any, ...]:
    """1797 handwritten digits of 8 x 8 pixels, shuffled, every fourth one held out.

    Returns images (float32, 64 pixels each, 0 to 1) and labels to train with, then to test with.
    """
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = (images[order] / 16).astype(np.float32), labels[order]
    held_out = np.arange(len(labels)) % 4 == 0
    return images[~held_out], labels[~held_out], images[held_out], labels[held_out]
