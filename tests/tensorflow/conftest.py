"""Clusters of real TensorFlow servers, and graphs of TensorFlow 1 to run on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pytest_localcluster import LocalCluster

MakeCluster = Callable[..., LocalCluster]


@pytest.fixture
def tf() -> Any:
    """TensorFlow, imported when the first test needs it."""
    import tensorflow

    return tensorflow


@pytest.fixture
def v1(tf: Any) -> Iterator[Any]:
    """The API of TensorFlow 1, with a graph of the test's own."""
    with tf.Graph().as_default():
        yield tf.compat.v1


@pytest.fixture
def make_cluster() -> Iterator[MakeCluster]:
    """Start clusters, of two workers and two ps if nothing else is asked for."""
    with ExitStack() as running:

        def make(runtime: Any = "tensorflow", **fields: Any) -> LocalCluster:
            fields = {"workers": 2, "ps": 2, **fields}
            return running.enter_context(LocalCluster(runtime=runtime, **fields))

        yield make
