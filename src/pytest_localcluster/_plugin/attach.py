"""``--cluster-attach``: tests on a cluster that somebody else started and will end.

One run has the cluster to itself, and one process of it: tests of two would reset it beneath each
other. The lock that sees to that is on the cluster file, and goes with the process that has it.
"""

from __future__ import annotations

import fcntl
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .._clusterfile import read_cluster_file
from .._probe import absent

if TYPE_CHECKING:
    import pytest

    from .._cluster import LocalCluster
    from .._config import ClusterConfig

__all__ = ["Attachment"]


class Attachment:
    """A running cluster that this run uses, in place of those that it would start.

    Args:
        config: of this run.
        path: of the cluster file.

    Raises:
        ValueError: there is no such cluster, it does not serve, or somebody else uses it.
    """

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self.path = path
        self.file = read_cluster_file(path)
        processes = _processes(config)
        if processes > 1:
            raise ValueError(
                f"{processes} processes would reset the one cluster beneath each other's tests\n"
                "  To fix this: run them in one process, with -n 0"
            )
        missing = [f"  | {task}: {why}" for task, why in absent(self.file)]
        if missing:
            raise ValueError(
                "the cluster does not serve\n" + "\n".join(missing) + "\n"
                "  To fix this: start it anew, as with `python -m pytest_localcluster up`"
            )
        self._lock = None
        if not processes:  # otherwise it is for the worker of xdist
            self._lock = path.open("rb")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.close()
                raise ValueError(
                    "another run is attached to this cluster, and would reset it beneath the tests "
                    "of this one\n  To fix this: wait for its end, or start another cluster"
                ) from None

    def cluster(self, config: ClusterConfig) -> LocalCluster:
        """Return the cluster for a test or fixture, not started yet.

        Raises:
            SpecError: it is not what ``config`` asks for.
        """
        from .._attached import AttachedCluster

        return AttachedCluster(self.file, self.path, config)

    def pytest_report_header(self) -> str:
        """Say what the tests use, and how they find it."""
        kinds = set(self.file.runtimes.values())
        counts = ", ".join(f"{self.file.spec.num_tasks(job)} {job}" for job in self.file.spec.jobs)
        reset = "reset before each test" if kinds <= {"native"} else "not reset between tests"
        return f"localcluster: attached to {self.path}: {counts}; {reset}"

    def pytest_unconfigure(self) -> None:
        """Let the next run have it."""
        if self._lock is not None:
            self._lock.close()


def _processes(config: pytest.Config) -> int:
    """Return how many workers xdist will have; 0 if the tests run in this process."""
    if hasattr(config, "workerinput"):
        return 0  # the controller has counted
    if getattr(config.option, "dist", "no") == "no":
        return 0
    count = 0
    for spec in getattr(config.option, "tx", None) or ():
        many = re.match(r"(\d+)\*", str(spec))
        count += int(many[1]) if many else 1
    return count
