"""What a task is born with."""

from __future__ import annotations

import gc

from pytest_localcluster import LocalCluster


def test_its_collections_leave_alone_what_the_forkserver_has_made() -> None:
    with LocalCluster(workers=1, ps=0) as cluster:
        (frozen,) = cluster.run(gc.get_freeze_count)
        assert frozen > 10_000
