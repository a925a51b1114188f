"""Starts the interpreters of this package: guard, hub and steward.

What they are to do goes over a file without a name, as their standard input: an argument is public,
and neither it nor a variable may be longer than 128 KiB. The rest is up to
:mod:`pytest_localcluster._launch.booted`.
"""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from typing import IO, TYPE_CHECKING, TypeVar

from .._core import environment, library
from .._core.files import unnamed_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["CODE", "command", "execute", "search_path"]

_P = TypeVar("_P", bound=subprocess.Popen[bytes])

# Built-in modules alone: nothing that a file of the user's could stand in for.
CODE = (
    "import sys; from marshal import load; options = load(open(0, 'rb', closefd=False)); "
    "sys.path[:] = options['library'] + options['path']; "
    "from pytest_localcluster._launch.booted import begin; begin({!r}, options)"
)

_LONGEST_VARIABLE = 1 << 16
_MOST_VARIABLES = 1 << 20
"""How many bytes an environment may have at a program's start; the kernel allows 2 MiB as a rule,
arguments included."""


def search_path() -> list[str]:
    """Return the search path as a child is to have it."""
    return [path for path in sys.path if isinstance(path, str)]  # as imports do


def command(role: str, *words: str) -> list[str]:
    """Return the command line of an interpreter with a role: a module with ``main``.

    Args:
        role: the module's name.
        words: shown to who looks at command lines, and not read.
    """
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-c", CODE.format(role), *words]


def execute(
    kind: type[_P],
    arguments: list[str],
    options: Mapping[str, object],
    fds: Sequence[int],
    output: IO[bytes] | int,
    extra: Mapping[str, str],
) -> _P:
    """Start such an interpreter.

    Args:
        kind: what to make of it.
        arguments: its :func:`command`.
        options: keyword arguments of the role's ``main``; of types that :mod:`marshal` knows.
        fds: descriptors to inherit.
        output: where it prints to.
        extra: environment variables besides those of tasks.
    """
    environ = {**environment.for_tasks(), **extra}
    fits, later = _split(environ)
    path = search_path()
    with unnamed_file() as file:
        message = {
            "library": library.of_the_library(path),
            "path": path,
            "shadows": library.shadows(path),
            "environ": later,
            "options": dict(options),
        }
        marshal.dump(message, file)
        file.seek(0)
        return kind(
            arguments,
            stdin=file,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=fits,
            pass_fds=fds,
            start_new_session=True,  # Ctrl-C is for the test process; we follow it anyway
        )


def _split(environ: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables that a program can be started with, and those too long for that."""
    sizes = {name: len(os.fsencode(value)) for name, value in environ.items()}
    later: dict[str, str] = {}
    total = sum(sizes.values())
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        if size <= _LONGEST_VARIABLE and total <= _MOST_VARIABLES:
            break
        later[name] = environ[name]
        total -= size
    return {name: value for name, value in environ.items() if name not in later}, later
