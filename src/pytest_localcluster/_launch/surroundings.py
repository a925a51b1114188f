"""What a forkserver has around it while it imports, and a task when it begins."""

from __future__ import annotations

import os
import posix
import sys
from typing import TYPE_CHECKING

from pytest_localcluster._core import environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ENVIRONMENT", "adopt", "surroundings", "working_directory"]

ENVIRONMENT = {
    # The threads of BLAS pools do not survive a fork, so none may be made before it.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # A third of a task's birth is page faults, and malloc's moving thresholds make the speed of
    # large messages a matter of luck: one arena, given back late, is faster and steady.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(16 << 20),
    "MALLOC_TOP_PAD_": str(32 << 20),
    "LD_BIND_NOW": "1",
    "GRPC_DNS_RESOLVER": "native",
}
"""What the forkserver has in its environment; its tasks get the test process's own."""


def surroundings() -> tuple[list[str], dict[str, str]]:
    """Return what the imports of a forkserver that starts now may depend on."""
    environ = environment.for_tasks().items()
    return list(sys.path), {n: value for n, value in environ if not n.startswith("PYTEST_")}


def adopt(environ: Mapping[str, str], directory: str | None, path: Sequence[str]) -> None:
    """Take over another process's environment, directory and path; None is that it has no more."""
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    for name, value in environ.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    if directory is not None:
        os.chdir(directory)
    sys.path[:] = path


def working_directory() -> str | None:
    """Return the working directory; None if it is not there any more."""
    try:
        return posix.getcwd()  # os.getcwd is what tests replace
    except FileNotFoundError:
        return None
