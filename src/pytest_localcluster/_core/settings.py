"""The test's settings that hold in its tasks, too: filters of warnings, levels of loggers."""

from __future__ import annotations

from typing import NamedTuple

from .. import _warned
from . import logging

__all__ = ["News", "Settings", "apply"]


class News(NamedTuple):
    """Settings that changed; None stands for those that did not.

    Attributes:
        filters: all filters of warnings.
        levels: the levels that changed, by the name of the logger.
    """

    filters: list[_warned.Filter] | None
    levels: dict[str | None, int] | None


class Settings:
    """The settings of this process, as one task knows them."""

    def __init__(self) -> None:
        self._filters = _warned.Filters()
        self._levels = logging.Levels()

    def news(self) -> News | None:
        """Return what the task does not know; None if it knows all."""
        filters, levels = self._filters.news(), self._levels.news()
        return None if filters is None and levels is None else News(filters, levels)


def apply(news: News | None) -> None:
    """Have these settings hold in this process."""
    if news is None:
        return
    if news.filters is not None:
        _warned.apply(news.filters)
    if news.levels is not None:
        logging.apply(news.levels)
