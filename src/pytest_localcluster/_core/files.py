"""Files without a name, which no end of this process can leave behind."""

from __future__ import annotations

import os
import tempfile
from typing import IO

__all__ = ["unnamed_file"]


def unnamed_file() -> IO[bytes]:
    """Return a new file that is gone with the last descriptor of it: in memory, where that can be.

    Raises:
        OSError: there is no room for one.
    """
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("pytest-localcluster"), "w+b")  # noqa: PTH123
    return tempfile.TemporaryFile()
