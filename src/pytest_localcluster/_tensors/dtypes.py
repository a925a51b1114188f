"""The texts that stand for dtypes in messages."""

from __future__ import annotations

import base64
import functools
import pickle
from typing import Any

import numpy as np

from ..errors import DataLossError

__all__ = ["dtype_from_text", "dtype_to_text"]

_PICKLED = "pickle:"


@functools.lru_cache(maxsize=256)
def dtype_to_text(dtype: np.dtype[Any]) -> str:
    """Return the text that stands for a dtype in messages."""
    if dtype.names is None and dtype.kind != "T" and np.dtype(dtype.str) == dtype:
        return dtype.str
    return _PICKLED + base64.b64encode(pickle.dumps(dtype)).decode()


@functools.lru_cache(maxsize=256)
def dtype_from_text(text: str) -> np.dtype[Any]:
    """Return the dtype that :func:`dtype_to_text` wrote.

    Raises:
        DataLossError: it did not write that.
    """
    shown = repr(text if len(text) < 100 else f"{text[:100]} ...")
    try:
        if text.startswith(_PICKLED):
            # Only peers that know the cluster's token get here, and those may send code anyway.
            dtype = pickle.loads(base64.b64decode(text[len(_PICKLED) :]))
        elif len(text) < 100:
            dtype = np.dtype(text)
        else:
            raise ValueError("it is too long")  # NumPy would read an endless list of fields
    except Exception as error:
        raise DataLossError(
            f"a tensor came with dtype {shown}, which cannot be read: {error}"
        ) from error
    # One with dimensions of its own would change the shape of its array.
    if (
        not isinstance(dtype, np.dtype)
        or (dtype.hasobject and dtype.kind != "T")
        or dtype.subdtype is not None
    ):
        raise DataLossError(f"a tensor came with dtype {shown}, which no tensor can have")
    return dtype
