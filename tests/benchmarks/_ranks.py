"""What four ranks do, whoever started them: a group, one all-reduce, and no group any more."""

from __future__ import annotations

import os

RANKS = 4


def all_reduce(rank: int | None = None) -> float:
    """Return the sum of all ranks. ``rank`` comes from torch.multiprocessing; ours is in RANK."""
    import torch
    import torch.distributed as dist

    if rank is not None:
        os.environ["RANK"] = str(rank)
    dist.init_process_group("gloo")
    try:
        value = torch.tensor([float(dist.get_rank())])
        dist.all_reduce(value)
        total = float(value.item())
    finally:
        dist.destroy_process_group()
    assert total == sum(range(RANKS)), total
    return total
