"""The command line.

Each command is a module::

    up        starts a cluster and shows it until it is told to end
    env       prints what a client of such a cluster needs in its environment
    down      ends a cluster that a file describes
    doctor    tries what clusters need of the machine

``view`` is what ``up`` shows; ``machine``, ``limits``, ``software`` and ``strays`` are what
``doctor`` looks at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ..errors import ClusterError, SpecError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit status.

    Returns:
        0 if all went well, 1 if something failed or ``doctor`` found a problem, 2 for arguments
        that cannot be.
    """
    given = _parser().parse_args(arguments)
    module = import_module(f".{given.command}", __name__)
    try:
        status: int = module.run(given)
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pytest_localcluster",
        description="Worker / parameter-server clusters on this machine, without a test.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser(
        "up",
        help="start a cluster and show it until Ctrl-C",
        description="Start a cluster, write a file for those who want to use it, show what its "
        "tasks do, and end it at Ctrl-C, SIGTERM or `down`.",
    )
    # Plain text: what cannot be is refused in the words that a marker gets.
    up.add_argument("--workers", metavar="N", help="tasks of job worker (1)")
    up.add_argument("--ps", metavar="N", help="tasks of job ps (1)")
    up.add_argument(
        "--jobs", metavar="NAME=N", nargs="+", default=[], help="further jobs, such as chief=1"
    )
    up.add_argument("--runtime", metavar="NAME", help="what tasks serve: native or tensorflow")
    up.add_argument(
        "--preload", metavar="MODULE", nargs="+", default=[], help="imported once for all tasks"
    )
    up.add_argument("--start-timeout", metavar="SECONDS", help="until all tasks must be ready")
    up.add_argument("--file", metavar="PATH", type=Path, help="where to write the cluster file")
    up.add_argument("--log-dir", metavar="DIR", type=Path, help="keep the tasks' logs there")
    up.add_argument("--plain", action="store_true", help="print lines, also on a terminal")
    for name, text in (
        ("env", "print the environment of a cluster's clients, for a shell's eval"),
        ("down", "end the cluster that a file describes"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text.capitalize()}.")
        command.add_argument("file", metavar="FILE", type=Path, help="the cluster file")
    text = "try what clusters need of this machine, and say what to mend"
    doctor = commands.add_parser("doctor", help=text, description=f"{text.capitalize()}.")
    doctor.add_argument("--plain", action="store_true", help="print lines, also on a terminal")
    return parser
