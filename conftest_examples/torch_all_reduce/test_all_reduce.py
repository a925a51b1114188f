"""Four ranks, each a process: a sum over all of them, and a step of data parallel training."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from pytest_localcluster import LocalCluster


# docs: sum
def sum_of_ranks() -> float:
    """Runs in each task, whose environment says which rank it is and where the others are."""
    dist.init_process_group("gloo")
    value = torch.tensor([float(dist.get_rank())])
    dist.all_reduce(value)
    dist.destroy_process_group()
    return float(value)


def test_four_ranks_agree(local_cluster: LocalCluster) -> None:
    assert local_cluster.run(sum_of_ranks) == [6.0] * 4


# docs: training
def fit(steps: int) -> list[float]:
    """Learn y = 2 x + 1, each rank from points of its own: their random generators differ."""
    model = DistributedDataParallel(torch.nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    x = torch.randn(64, 1)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), 2 * x + 1).backward()  # gradients are averaged
        optimizer.step()
    return [parameter.item() for parameter in model.parameters()]


def train(steps: int) -> list[float]:
    """Runs in each task. The model is gone when the group ends, which torch needs."""
    dist.init_process_group("gloo")
    weights = fit(steps)
    dist.destroy_process_group()
    return weights


def test_all_ranks_learn_the_same(local_cluster: LocalCluster) -> None:
    first, *others = local_cluster.run(train, steps=100)
    assert first == pytest.approx([2.0, 1.0], abs=0.01)
    assert others == [first] * 3
