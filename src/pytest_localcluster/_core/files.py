"""Files of the machine, also where a test has put a fake file system into their place."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["of_the_machine", "spare_this_package", "unnamed_file"]

_PYFAKEFS = "pyfakefs.fake_filesystem_unittest"
_pausing = threading.Lock()
_pauses = 0  # blocks that run in it


def spare_this_package() -> None:
    """Have pyfakefs, if it is loaded, leave the functions alone that this package uses.

    Beside the test, threads and reports need files; what a test does itself waits in
    :func:`of_the_machine`.
    """
    fakes = sys.modules.get(_PYFAKEFS)
    if fakes is not None:
        package = Path(__file__).parent.parent
        fakes.Patcher.SKIPNAMES |= {
            ".".join((package.name, *path.relative_to(package).with_suffix("").parts))
            for path in package.rglob("[!_]*.py")
        } | {f"{package.name}.{path.stem}" for path in package.glob("_*.py")}


@contextmanager
def of_the_machine() -> Iterator[None]:
    """Have all functions see the machine's files in a block, the standard library's included."""
    global _pauses
    fakes: Any = sys.modules.get(_PYFAKEFS)
    patcher = None if fakes is None else fakes.Patcher.PATCHER
    if patcher is None or not (_pauses or patcher.is_patching):
        yield
        return
    with _pausing:
        _pauses += 1
        if _pauses == 1:
            patcher.pause()
    try:
        yield
    finally:
        with _pausing:
            _pauses -= 1
            if not _pauses:
                patcher.resume()


def unnamed_file() -> IO[bytes]:
    """Return a new file that is gone with the last descriptor of it: in memory, where that can be.

    Raises:
        OSError: there is no room for one.
    """
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("pytest-localcluster"), "w+b")  # noqa: PTH123
    return tempfile.TemporaryFile()
