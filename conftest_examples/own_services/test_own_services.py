"""Services of your own in every task; the client is the test."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from words_pb2 import Counts, Text, WatchRequest
from words_pb2_grpc import CounterStub, TotalsStub

from pytest_localcluster import LocalCluster, Server

POEM = "rose is a rose is a rose is a rose"


def counters(local_cluster: LocalCluster) -> list[Any]:
    return [CounterStub(worker.channel()) for worker in local_cluster.workers]


def watch(server: Server) -> Iterator[Counts]:
    totals: Any = TotalsStub(server.channel())
    return iter(totals.Watch(WatchRequest()))


# docs: count
def test_two_workers_count(local_cluster: LocalCluster) -> None:
    calls = [counter.Count.future(Text(text=POEM)) for counter in counters(local_cluster)]
    assert [call.result().mean_length for call in calls] == [2.5, 2.5]

    totals: collections.Counter[str] = collections.Counter()
    for ps in local_cluster.ps:
        totals.update(next(watch(ps)).of)
    assert totals == {"rose": 8, "is": 6, "a": 6}


# docs: watch
def test_a_ps_tells_of_new_words(local_cluster: LocalCluster) -> None:
    streams = [watch(ps) for ps in local_cluster.ps]
    assert [dict(next(stream).of) for stream in streams] == [{}, {}]
    counters(local_cluster)[0].Count(Text(text=POEM))
    assert sum(sum(next(stream).of.values()) for stream in streams) == 10


# docs: fault
def test_the_loss_of_a_ps(local_cluster: LocalCluster) -> None:
    counter, _ = counters(local_cluster)
    ps = local_cluster.ps[1]
    counter.Count(Text(text=POEM))

    ps.kill()
    with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
        counter.Count(Text(text=POEM))

    ps.restart()  # at the same address, and with nothing in its memory
    assert not next(watch(ps)).of


# docs: mistake
def test_a_mistake_is_in_the_log(local_cluster: LocalCluster) -> None:
    counter, _ = counters(local_cluster)
    with pytest.raises(grpc.RpcError, match="division by zero"):
        counter.Count(Text(text=""))
    assert "mean_length = sum(map(len, words)) / len(words)" in local_cluster.workers[0].log.text()
