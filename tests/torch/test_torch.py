"""torch.distributed in tasks, by ``run``: what the environment of a task says is all it is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pytest_localcluster import LocalCluster, current_task

# The cluster is one for the module, and reset before each test: a group must come and go on it. Its
# first start takes as long as torch takes to import.
pytestmark = [
    pytest.mark.needs("torch"),
    pytest.mark.cluster(workers=4, ps=0, preload=("torch",), start_timeout=60, scope="module"),
]


@contextmanager
def process_group() -> Iterator[None]:
    """Runs in a task: no argument but the backend."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def sum_of_ranks(offset: int = 0) -> tuple[int, int, float]:
    """Runs in a task. Returns its rank, the size of the group, and the sum over it."""
    import torch
    import torch.distributed as dist

    with process_group():
        value = torch.tensor([float(offset + dist.get_rank())])
        dist.all_reduce(value)
        return dist.get_rank(), dist.get_world_size(), value.item()


def test_four_ranks_sum_and_again(local_cluster: LocalCluster) -> None:
    ranks = range(4)
    for offset in (0, 10, 20):  # each time rank 0 listens on the same MASTER_PORT
        found = local_cluster.run(sum_of_ranks, offset)
        assert found == [(rank, 4, 6.0 + 4 * offset) for rank in ranks]


def test_after_a_reset(local_cluster: LocalCluster) -> None:
    assert [total for _, _, total in local_cluster.run(sum_of_ranks)] == [6.0] * 4
    local_cluster.reset()
    assert [total for _, _, total in local_cluster.run(sum_of_ranks)] == [6.0] * 4


def test_with_ranks_that_were_restarted(local_cluster: LocalCluster) -> None:
    for worker in local_cluster.workers[::3]:  # rank 0, whose port it is, and the last
        worker.kill()
        worker.restart()
    assert [total for _, _, total in local_cluster.run(sum_of_ranks)] == [6.0] * 4


@pytest.mark.cluster(workers=2, preload=(), scope="function")
def test_without_preload(local_cluster: LocalCluster) -> None:
    assert local_cluster.run(sum_of_ranks) == [(0, 2, 1.0), (1, 2, 1.0)]


def test_two_clusters_side_by_side(local_cluster: LocalCluster) -> None:
    with LocalCluster(workers=2, ps=0, preload=("torch",), start_timeout=60) as other:
        here = [worker.submit(sum_of_ranks, 100) for worker in local_cluster.workers]
        there = [worker.submit(sum_of_ranks, 1000) for worker in other.workers]
        assert [run.result(timeout=60)[2] for run in here] == [406.0] * 4
        assert [run.result(timeout=60)[2] for run in there] == [2001.0] * 2


def test_ranks_draw_different_numbers(local_cluster: LocalCluster) -> None:
    def draw() -> tuple[int, float]:
        import torch

        return torch.initial_seed(), torch.rand(1).item()

    found = local_cluster.run(draw)
    assert len({seed for seed, _ in found}) == len({number for _, number in found}) == 4


# DistributedDataParallel imports torch._dynamo, and so torch.distributed.nn.functional, whose
# functions keep the group that there is by then as a default, for ever. So it is imported first.
@pytest.mark.cluster(preload=("torch", "torch._dynamo"), scope="function")
def test_a_step_of_data_parallel_training(local_cluster: LocalCluster) -> None:
    def step() -> list[float]:
        """One step on ``(w x)^2 / 2`` from w = 1; x is rank + 1, so each gradient is x squared."""
        import torch
        from torch.nn.parallel import DistributedDataParallel

        model = torch.nn.Linear(1, 1, bias=False)
        # Rank 0's weights are the ones that count: the others get them when they are wrapped.
        torch.nn.init.constant_(model.weight, 1.0 + 5 * current_task().task.index)
        parallel = DistributedDataParallel(model)
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
        x = torch.full((1, 1), float(current_task().task.index + 1))
        (parallel(x) ** 2 / 2).sum().backward()
        optimizer.step()
        return [model.weight.item(), model.weight.grad.item()]

    def step_in_a_group() -> list[float]:
        with process_group():
            # The wrapper must be gone before its group is: otherwise it ends the group, holding the
            # interpreter's lock, for which a thread of the group may wait.
            return step()

    mean = (1 + 4 + 9 + 16) / 4
    for weight, gradient in local_cluster.run(step_in_a_group):
        assert gradient == pytest.approx(mean)
        assert weight == pytest.approx(1.0 - 0.1 * mean)
    assert [total for _, _, total in local_cluster.run(sum_of_ranks)] == [6.0] * 4


def test_a_rank_that_dies_is_noticed_by_the_others(local_cluster: LocalCluster) -> None:
    def meet() -> None:
        import torch
        import torch.distributed as dist

        dist.init_process_group("gloo")
        dist.all_reduce(torch.zeros(1))

    def meet_and_wait_for_the_last() -> None:
        import torch
        import torch.distributed as dist

        with process_group():
            dist.all_reduce(torch.zeros(1))
            dist.recv(torch.zeros(1), src=dist.get_world_size() - 1)

    *others, last = local_cluster.workers
    runs = [worker.submit(meet_and_wait_for_the_last) for worker in others]
    last.submit(meet).result(timeout=60)
    last.kill()
    for run in runs:
        with pytest.raises(RuntimeError, match="Connection (closed|reset) by peer"):
            run.result(timeout=60)
