"""What the tasks of each job serve."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from word_count import Counter, Totals
from words_pb2_grpc import add_CounterServicer_to_server, add_TotalsServicer_to_server

from pytest_localcluster import ClusterConfig, ServicerRuntime


def add_counter(server: grpc.Server, task: Any) -> None:
    """Runs in each worker; ``task`` is what ``current_task()`` returns there."""
    addresses = task.cluster_spec.as_dict()["ps"]
    add_CounterServicer_to_server(Counter(addresses), server)


def add_totals(server: grpc.Server) -> None:
    """Runs in each ps."""
    add_TotalsServicer_to_server(Totals(), server)


@pytest.fixture(scope="session")
def cluster_config() -> ClusterConfig:
    runtime = ServicerRuntime(worker=add_counter, ps=add_totals)
    return ClusterConfig(workers=2, ps=2, runtime=runtime)
