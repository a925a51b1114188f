"""Random graphs over random tasks give what NumPy gives, each operation running once."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_localcluster import (
    LocalCluster,
    Session,
    Variable,
    control_dependencies,
    device,
    function,
    placeholder,
)

DEVICES = ["/job:worker/task:0", "/job:worker/task:1", "/job:ps/task:0", "/job:ps/task:1", ""]
OPERATIONS = [operator.add, operator.sub, np.maximum, function(lambda x, y: x - 2 * y)]

# For each operation: which one, where, its two operands, what it waits for.
node = st.tuples(
    st.integers(0, len(OPERATIONS) - 1),
    st.sampled_from(DEVICES),
    st.integers(0, 30),
    st.integers(0, 30),
    st.one_of(st.none(), st.integers(0, 30)),
)


@pytest.fixture(scope="module")
def sessions() -> Iterator[list[Session]]:
    with LocalCluster(workers=2, ps=2, launcher="thread") as cluster:
        yield [Session(server.target) for server in cluster.servers]


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    nodes=st.lists(node, min_size=1, max_size=14),
    fetched=st.sets(st.integers(0, 30), min_size=1, max_size=4),
    dialled=st.integers(0, 3),
)
def test_graphs_give_what_numpy_gives(
    sessions: list[Session], nodes: list[Any], fetched: set[int], dialled: int
) -> None:
    fed = placeholder(np.float64, (3,))
    counters = []
    tensors: list[Any] = [fed]
    values: list[Any] = [np.array([1.0, 2.0, 3.0])]
    needs: list[set[int]] = [set()]  # for each value, the operations that it takes
    for number, (which, place, left, right, after) in enumerate(nodes):
        a, b = left % len(tensors), right % len(tensors)
        waits = None if after is None else after % len(tensors)
        with device(place):
            counter = Variable(0, name=f"count/{number}")
        counters.append(counter)
        with control_dependencies([] if waits is None else [tensors[waits]]), device(place):
            value = OPERATIONS[which](tensors[a], tensors[b])
        # The count is taken on the same task; the value waits for it.
        with control_dependencies([counter.assign_add(1)]), device(place):
            tensors.append(value + 0)
        values.append(
            [operator.add, operator.sub, np.maximum, lambda x, y: x - 2 * y][which](
                values[a], values[b]
            )
        )
        needs.append(
            {number} | needs[a] | needs[b] | (needs[waits] if waits is not None else set())
        )

    wanted = sorted({number % len(tensors) for number in fetched})
    session = sessions[dialled]
    session.run([counter.initializer for counter in counters], timeout=20)
    for _ in range(2):
        got = session.run([tensors[i] for i in wanted], {fed: values[0]}, timeout=20)
        for i, array in zip(wanted, got, strict=True):
            np.testing.assert_array_equal(array, values[i])
    ran = set().union(*(needs[i] for i in wanted))
    counts = session.run([counter.read() for counter in counters], timeout=20)
    assert [int(count) for count in counts] == [2 * (i in ran) for i in range(len(nodes))]
