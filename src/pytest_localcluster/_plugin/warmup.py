"""The first cluster of a run waits for imports: here they begin as soon as it is known what runs.

A forkserver imports beside the tests, so while pytest runs what needs no cluster, it gets ready.
Only what is sure to be asked for is begun: not for tests that may be skipped, nor for what only
the test or a fixture of the suite's own can tell. A worker of xdist, which knows all tests but not
which of them it will be given, looks one test ahead.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from .._core import library
from .fixtures import FIELDS
from .marker import param_of, wanted
from .options import OPTIONS
from .run import RUN, WHERE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .._config import ClusterConfig

__all__ = ["warm_up"]

_RUN_NOTHING = ("collectonly", "setuponly", "setupplan", "showfixtures", "show_fixtures_per_test")


def warm_up(session: pytest.Session) -> None:
    """Start the forkservers for the tests of ``session``, each once."""
    config = session.config
    if any(config.getoption(name, None) for name in _RUN_NOTHING):
        return
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(_OneAhead(config), "localcluster-warmup")
    else:
        _WarmUp(config).begin(session.items)
    with library.first():
        from .. import _cluster  # noqa: F401  # what the test process itself needs for a start


class _WarmUp:
    def __init__(self, config: pytest.Config) -> None:
        self._options = config.stash[OPTIONS]
        self._run = config.stash[RUN]
        self._seen: set[tuple[object, ...]] = set()

    def begin(self, items: Iterable[pytest.Item | None]) -> None:
        with library.first():
            from .._launchers import prepare

        for item in items:
            # Who asks for what cannot be is told elsewhere; what fails here a start tries again.
            with suppress(Exception):
                for scope, config in self._configs(item):
                    if scope == "run" and self._run.of_many:
                        self._run.prepare(config)  # it is not we who start that
                    else:
                        prepare(config)

    def _configs(self, item: Any) -> Iterator[tuple[str, ClusterConfig]]:
        """Yield what ``item`` is sure to start, but for what an equal one had, and its scope."""
        definitions = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
        used = {name: found[-1].func for name, found in definitions.items() if found}
        ours = f"{__package__}.fixtures"
        if getattr(used.get("cluster_config"), "__module__", "") != ours or _may_skip(item):
            return
        param, marks = param_of(item), item.iter_markers("cluster")
        key = (*map(id, marks), id(param), *map(id, used.values()))
        if key in self._seen:
            return
        self._seen.add(key)
        base = self._options.cluster_config()
        for name, function in used.items():
            if hasattr(function, FIELDS):
                indirect = getattr(getattr(item, "callspec", None), "params", {}).get(name, {})
                scope = "run" if hasattr(function, WHERE) else ""
                yield scope, base.replace(**{**getattr(function, FIELDS), **indirect})
            elif function.__module__ == ours and name == "local_cluster":
                yield wanted(item, base, param)
            elif function.__module__ == ours and name == "session_cluster":
                yield "", base


class _OneAhead(_WarmUp):
    """Begins for the test that runs, and for the next one."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        self.begin([item, nextitem])


def _may_skip(item: pytest.Item) -> bool:
    return any(mark.name in ("skip", "skipif") for mark in item.iter_markers())
