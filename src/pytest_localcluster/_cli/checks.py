"""What a look at the machine comes to: one line of ``doctor``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["OK", "PROBLEM", "WARNING", "Check", "Look", "number_in", "tried"]

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Check:
    """Something that clusters need, and how it is here.

    Attributes:
        what: what was looked at.
        found: how it is.
        state: ``ok``; ``warning``, if something will not work as well as it could; ``problem``, if
            something will not work.
        remedy: what to do about it, if it is not ok.
    """

    what: str
    found: str
    state: str = OK
    remedy: str = ""


Look = Callable[[], Iterator[Check]]


def tried(look: Look) -> Iterator[Check]:
    """Yield what a look finds; that it failed, if it does: the others are still of use."""
    try:
        yield from look()
    except Exception as error:
        name = look.__name__.replace("_", " ")
        found = f"it could not be looked at: {type(error).__name__}: {error}"
        yield Check(name, found, WARNING, "report this, with what is special about the machine")


def number_in(path: Path | str) -> int | None:
    """Return the number that a file of the system holds; None if it has none."""
    try:
        text = Path(path).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
