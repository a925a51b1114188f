"""The test module's classes and functions in torch's own processes and calls between tasks."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_localcluster import LocalCluster

pytestmark = [
    pytest.mark.needs("torch"),
    pytest.mark.cluster(workers=2, ps=0, preload=("torch",), start_timeout=60, scope="module"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*as a ProcessGroup:UserWarning"),
]

OFFSET = 10


class Metric:
    def __init__(self, value: int) -> None:
        self.value = value

    def plus(self, more: int) -> Metric:
        return Metric(self.value + more)


def add_offset(x: int) -> Metric:
    return Metric(x + OFFSET)


# docs: loader
class Sample(NamedTuple):
    x: float


class Rows:
    """A dataset."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        return Sample(float(index))


def read(workers: int, method: str | None) -> list[Sample]:
    from torch.utils.data import DataLoader

    rows: Any = Rows()
    loader = DataLoader(rows, num_workers=workers, collate_fn=first, multiprocessing_context=method)
    return list(loader)


def first(samples: list[Sample]) -> Sample:
    return samples[0]


@pytest.mark.parametrize(("workers", "method"), [(0, None), (1, "fork"), (2, "spawn")])
def test_data_loaders(local_cluster: LocalCluster, workers: int, method: str | None) -> None:
    for samples in local_cluster.run(read, workers, method, timeout=60):
        assert samples == [Sample(0.0), Sample(1.0), Sample(2.0), Sample(3.0)]


# docs: rpc
@contextmanager
def rpc() -> Iterator[str]:
    """Runs in a task; yields the name of the other one."""
    from torch.distributed import rpc

    rank = int(os.environ["RANK"])
    options = rpc.TensorPipeRpcBackendOptions(init_method="env://", rpc_timeout=30)
    rpc.init_rpc(f"rank{rank}", rank=rank, world_size=2, rpc_backend_options=options)
    try:
        yield f"rank{1 - rank}"
    finally:
        rpc.shutdown()


def call_other() -> tuple[int, int, int]:
    from torch.distributed import rpc as rpcs

    with rpc() as other:
        made = rpcs.rpc_sync(other, add_offset, (1,))
        assert type(made) is Metric
        remote = rpcs.remote(other, Metric, (5,))
        return made.value, remote.to_here().value, remote.rpc_sync().plus(2).value


def serve_other() -> None:
    assert "add_offset" not in vars(sys.modules[__name__])  # the call has not brought it
    with rpc():
        pass  # until both ranks are done


def test_rpc_of_what_the_other_rank_has_not_received(local_cluster: LocalCluster) -> None:
    caller, server = local_cluster.workers
    calling, serving = caller.submit(call_other), server.submit(serve_other)
    assert calling.result(60) == (11, 5, 7)
    serving.result(60)


def gather() -> list[Any]:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    try:
        gathered: list[Any] = [None, None]
        dist.all_gather_object(gathered, (Metric(dist.get_rank()), add_offset))
        assert all(type(metric) is Metric and fn is add_offset for metric, fn in gathered)
        return [metric.value for metric, _ in gathered]
    finally:
        dist.destroy_process_group()


def test_all_gather_object(local_cluster: LocalCluster) -> None:
    assert local_cluster.run(gather, timeout=60) == [[0, 1], [0, 1]]


def save(path: Path) -> bool:
    import torch

    torch.save({"metric": Metric(3), "function": add_offset}, path)
    loaded = torch.load(path, weights_only=False)
    return loaded["function"] is add_offset and type(loaded["metric"]) is Metric


def test_what_a_task_saves_the_test_loads(local_cluster: LocalCluster, tmp_path: Path) -> None:
    import torch

    assert local_cluster.workers[0].run(save, tmp_path / "saved") is True
    loaded = torch.load(tmp_path / "saved", weights_only=False)
    assert type(loaded["metric"]) is Metric
    assert loaded["function"] is add_offset


def test_what_the_test_saves_a_task_loads(local_cluster: LocalCluster) -> None:
    import torch

    buffer = io.BytesIO()
    torch.save(Metric(4), buffer)

    def load(data: bytes) -> int:
        import torch

        loaded = torch.load(io.BytesIO(data), weights_only=False)
        assert type(loaded) is sys.modules[__name__].Metric
        return int(loaded.value)

    assert local_cluster.run(load, buffer.getvalue()) == [4, 4]


def spawn(method: str) -> list[int]:
    import torch.multiprocessing as mp

    context = mp.get_context(method)
    results = context.SimpleQueue()
    mp.start_processes(put, (results,), nprocs=2, start_method=method)
    return sorted(results.get() for _ in range(2))


def put(rank: int, results: Any) -> None:
    results.put(add_offset(rank).value)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_torch_multiprocessing(local_cluster: LocalCluster, method: str) -> None:
    assert local_cluster.workers[0].run(spawn, method, timeout=60) == [10, 11]
