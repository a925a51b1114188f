"""Text on its way to where not every text can be: file names and streams."""

from __future__ import annotations

import re
import sys
from typing import TextIO

__all__ = ["file_name", "printable"]

_LONGEST = 150
"""Bytes of a file name, with room for a number and a suffix; some file systems allow only 255."""


def file_name(text: str) -> str:
    """Return ``text`` as a name that every file system takes: what it does not take is a ``_``."""
    encoding = sys.getfilesystemencoding()
    name = re.sub(r"[^\w.,=+\[\]-]", "_", text).encode(encoding, "replace").replace(b"?", b"_")
    return name[:_LONGEST].decode(encoding, "ignore")


def printable(text: str, stream: TextIO) -> str:
    """Return ``text`` with escapes for the characters that the stream's encoding does not have."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
