"""The first cluster of a run waits for imports: here they begin as soon as a test will need them.

A forkserver imports beside the tests, so while pytest collects, and runs what needs no cluster, it
gets ready. Only what is sure to be asked for is begun: not where nothing will run, nor for tests
that may yet be deselected, nor for a ``cluster_config`` of the suite's own, which nobody knows
before it is called.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from .fixtures import FIELDS
from .marker import param_of, wanted
from .options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._config import ClusterConfig

__all__ = ["WarmUp"]

_RUN_NOTHING = ("collectonly", "setuponly", "setupplan", "show_fixtures_per_test")
_DESELECT = ("keyword", "markexpr", "deselect", "lf", "stepwise")


class WarmUp:
    """Starts the forkservers for what has been collected, each once."""

    def __init__(self, config: pytest.Config) -> None:
        self._options = config.stash[OPTIONS]
        self._nothing_runs = _any_given(config, _RUN_NOTHING)
        self._all_run = not (self._nothing_runs or _any_given(config, _DESELECT))
        self._seen: set[tuple[object, ...]] = set()

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Begin for a test that is sure to run."""
        if self._all_run and uses_clusters(item):
            self._begin(item)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self._nothing_runs:
            return
        remaining = [item for item in session.items if uses_clusters(item)]
        for item in remaining:
            self._begin(item)
        if remaining:
            from .. import _cluster  # noqa: F401  # what the test process itself needs for a start

    def _begin(self, item: pytest.Item) -> None:
        # Who asks for what cannot be is told elsewhere; what fails here is tried again by a start.
        from ..errors import ClusterError, SpecError

        with suppress(SpecError, ClusterError, OSError):
            for config in self._configs(item):
                _prepare(config)

    def _configs(self, item: pytest.Item) -> Iterator[ClusterConfig]:
        """Yield what ``item`` may start, but for what an equal one had."""
        definitions = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
        used = {name: found[-1].func for name, found in definitions.items() if found}
        ours = f"{__package__}.fixtures"
        if getattr(used.get("cluster_config"), "__module__", "") != ours:
            return
        param, marks = param_of(item), item.iter_markers("cluster")
        key: tuple[object, ...] = (*map(id, marks), id(param), *map(id, used.values()))
        if key in self._seen:
            return
        self._seen.add(key)
        base = self._options.cluster_config()
        for name, function in used.items():
            if hasattr(function, FIELDS):
                yield base.replace(**getattr(function, FIELDS))
            elif function.__module__ == ours and name == "local_cluster":
                yield wanted(item, base, param)[1]
            elif function.__module__ == ours and name in ("session_cluster", "cluster_factory"):
                yield base


def uses_clusters(item: pytest.Item) -> bool:
    """Tell whether one of the fixtures of ``item`` is for clusters of ours."""
    return "cluster_config" in getattr(item, "fixturenames", ())


def _any_given(config: pytest.Config, options: tuple[str, ...]) -> bool:
    return any(config.getoption(name, None) for name in options)


def _prepare(config: ClusterConfig) -> None:
    if not isinstance(config.launcher, str):
        return  # somebody's own: when it is asked first may matter
    from .._launch import launcher_for
    from .._runtimes import find_runtimes

    runtimes: dict[str, Any] = find_runtimes(config)
    for job, count in config.counts().items():
        if count:
            launcher_for(config, runtimes[job]).prepare()
