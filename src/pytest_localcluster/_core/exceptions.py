"""Exceptions on their way from a task to the test process."""

from __future__ import annotations

import traceback

from ..errors import RemoteTraceback
from .pickling import HERE, dumps_back, loads

__all__ = ["dump_exception", "load_exception"]


def dump_exception(error: BaseException) -> tuple[bytes, str]:
    """Return ``error`` pickled, empty if that cannot be, and its traceback as text."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(HERE):
        frames = frames.tb_next  # how we called it is no news to the user
    text = "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))
    try:
        data = dumps_back(error)
        loads(data)  # many exceptions pickle, but cannot be made again from what was pickled
    except Exception:
        data = b""
    return data, text


def load_exception(data: bytes, text: str) -> BaseException | None:
    """Return the exception of :func:`dump_exception`, its traceback as the ``__cause__``."""
    if not data:
        return None
    try:
        error = loads(data)
    except Exception:
        return None
    if not isinstance(error, BaseException):
        return None
    error.__cause__ = RemoteTraceback(text)
    return error
