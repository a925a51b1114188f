"""Sockets that a plugin has taken away from the tests."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["need_sockets"]

_BLOCKED = "A test tried to use socket"  # so begins what pytest-socket raises, and warns of


@contextmanager
def need_sockets(what: str) -> Iterator[None]:
    """Have a block name what needs sockets, and the remedy, if pytest-socket refuses it one.

    Raises:
        StartError: that is so.
    """
    try:
        yield
    except (RuntimeError, UserWarning) as error:
        if not str(error).startswith(_BLOCKED):
            raise
        raise StartError(
            f"pytest-socket refuses the sockets of this machine that {what} needs: {error}",
            remedy="allow them with --allow-hosts=127.0.0.1,::1 --allow-unix-socket, which blocks "
            "all others, or for one test with @pytest.mark.enable_socket",
        ) from error
