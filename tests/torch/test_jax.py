"""jax.distributed in tasks, by ``run``: it reads no environment, so it is told what ours says.

JAX can be initialised once in a process, so each test has a cluster of its own.
"""

from __future__ import annotations

import os

import pytest

from pytest_localcluster import LocalCluster

pytestmark = [
    pytest.mark.needs("jax"),
    pytest.mark.cluster(workers=2, ps=0, preload=("jax",), start_timeout=60),
]


# docs: initialize
def initialize() -> None:
    """Runs in a task."""
    import jax

    jax.distributed.initialize(
        f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
        num_processes=int(os.environ["WORLD_SIZE"]),
        process_id=int(os.environ["RANK"]),
    )


# docs: gather
def gather() -> list[float]:
    """Runs in a task: what each process has to give, in order of their ranks."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    initialize()
    try:
        mine = np.array([10.0 + jax.process_index()])
        return [float(x) for x in np.ravel(multihost_utils.process_allgather(mine))]
    finally:
        jax.distributed.shutdown()


def total() -> tuple[int, int, float]:
    """Runs in a task: a psum over devices that are in different processes."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    initialize()
    try:
        mesh = Mesh(np.array(jax.devices()), ("ranks",))
        mine = np.array([1.0 + jax.process_index()], dtype=np.float32)
        everywhere = jax.make_array_from_process_local_data(
            NamedSharding(mesh, PartitionSpec("ranks")), mine
        )
        add = jax.shard_map(
            lambda part: jax.lax.psum(part, "ranks"),
            mesh=mesh,
            in_specs=PartitionSpec("ranks"),
            out_specs=PartitionSpec(),
        )
        result = jax.jit(add)(everywhere)
        return jax.process_count(), jax.local_device_count(), float(result[0])
    finally:
        jax.distributed.shutdown()


def test_a_gather(local_cluster: LocalCluster) -> None:
    assert local_cluster.run(gather, timeout=60) == [[10.0, 11.0]] * 2


def test_a_sum(local_cluster: LocalCluster) -> None:
    assert local_cluster.run(total, timeout=60) == [(2, 1, 3.0)] * 2


@pytest.mark.cluster(preload=())
def test_without_preload(local_cluster: LocalCluster) -> None:
    assert local_cluster.run(total, timeout=60) == [(2, 1, 3.0)] * 2


def test_again_after_a_restart(local_cluster: LocalCluster) -> None:
    assert local_cluster.run(gather, timeout=60) == [[10.0, 11.0]] * 2
    with pytest.raises(RuntimeError, match="must be called before"):
        local_cluster.workers[0].run(initialize)
    for worker in local_cluster.workers:
        worker.restart()
    assert local_cluster.run(gather, timeout=60) == [[10.0, 11.0]] * 2


def test_two_clusters_side_by_side(local_cluster: LocalCluster) -> None:
    with LocalCluster(workers=3, ps=0, preload=("jax",), start_timeout=60) as other:
        runs = [worker.submit(gather) for worker in local_cluster.workers]
        there = [worker.submit(gather) for worker in other.workers]
        assert [run.result(timeout=60) for run in runs] == [[10.0, 11.0]] * 2
        assert [run.result(timeout=60) for run in there] == [[10.0, 11.0, 12.0]] * 3
