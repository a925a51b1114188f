"""Keys of handles, by which one that comes back from a task is found again."""

from __future__ import annotations

import secrets
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

__all__ = ["View", "handle_of", "key_of"]

_keys: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
_handles: WeakValueDictionary[str, Any] = WeakValueDictionary()


def key_of(handle: Any) -> str:
    """Return a handle's key, which no handle of another process has."""
    key = _keys.get(handle)
    if key is None:
        key = _keys[handle] = secrets.token_hex(8)
        _handles[key] = handle
    return key


def handle_of(key: str) -> Any:
    """Return the handle of this process that has the key; None if there is none."""
    return _handles.get(key)


class View:
    """Stands for a handle in another process: data, and refusals.

    Args:
        key: of the handle.
    """

    def __init__(self, key: str) -> None:
        self._key = key

    def __getattr__(self, name: str) -> Any:
        kind = self._handle_class() if not name.startswith("_") else None
        found = getattr(kind, name, None)
        if found is None and name not in self._data_of_handle:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if not callable(found):
            raise self._refusal(name, called=False)

        def refuse(*_: object, **__: object) -> None:
            raise self._refusal(name, called=True)

        return refuse

    _data_of_handle: tuple[str, ...] = ()
    """Attributes of the handle that its class does not name."""

    def _handle_class(self) -> type:
        raise NotImplementedError

    def _refusal(self, name: str, *, called: bool) -> Exception:
        raise NotImplementedError
