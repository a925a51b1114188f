"""Names in annotations that are not evaluated yet: :func:`typing.get_type_hints` looks them up."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, ForwardRef

__all__ = ["annotations_of", "names_in"]


def annotations_of(obj: Any) -> dict[str, Any]:
    """Return an object's own annotations; as text where they cannot be evaluated."""
    found: dict[str, Any] | None
    if sys.version_info < (3, 14):
        # Not inspect.get_annotations(), which takes several times as long.
        found = obj.__dict__.get("__annotations__")  # noqa: RUF063
        if found is None and not isinstance(obj, type):
            found = obj.__annotations__
        return found or {}
    try:
        return dict(obj.__annotations__)
    except NameError:  # of a name that only type checkers import
        annotationlib: Any = importlib.import_module("annotationlib")
        as_text = annotationlib.Format.STRING
        return dict(annotationlib.get_annotations(obj, format=as_text))


def names_in(annotations: Mapping[str, Any]) -> set[str]:
    """Return the names that the text in annotations uses."""
    found: set[str] = set()
    for annotation in annotations.values():
        if not isinstance(annotation, type):
            for text in _texts(annotation):
                found.update(_names(text))
    return found


def _texts(annotation: Any) -> Iterable[str]:
    if isinstance(annotation, str):
        yield annotation
    elif isinstance(annotation, ForwardRef):
        yield annotation.__forward_arg__
    else:
        for inner in getattr(annotation, "__args__", None) or ():
            yield from _texts(inner)


@lru_cache(maxsize=1024)
def _names(text: str) -> tuple[str, ...]:
    try:
        return compile(text, "<annotation>", "eval", dont_inherit=True).co_names
    except (SyntaxError, ValueError):
        return ()
