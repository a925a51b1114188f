"""Functions that run in tasks; what this imports, each task that is told to run one imports too."""

from __future__ import annotations

import threading

__all__ = ["fail", "wait_for_ever"]


def fail() -> None:
    raise LookupError("as it was told")


def wait_for_ever() -> None:
    threading.Event().wait()
