"""``env``: what a client of a running cluster needs in its environment, for a shell's ``eval``."""

from __future__ import annotations

import argparse
import shlex

from .._clusterfile import read_cluster_file

__all__ = ["run"]


def run(given: argparse.Namespace) -> int:
    """Print it."""
    for name, value in read_cluster_file(given.file).environ().items():
        print(f"export {name}={shlex.quote(value)}")
    return 0
