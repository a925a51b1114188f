"""The marker: what a test asks for, and mistakes in it as one collection error per module."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .._config import ClusterConfig

__all__ = ["DESCRIPTION", "MarkerCheck", "param_of", "scope_of", "wanted"]

SCOPES = ("function", "class", "module", "session", "run")

DESCRIPTION = (
    "cluster(*, workers=1, ps=1, ..., scope='function'): the cluster that local_cluster is in "
    "this test; any field of pytest_localcluster.ClusterConfig by keyword, and the scope "
    f"({', '.join(SCOPES)}) whose tests share it. Keywords of nearer markers win."
)


def wanted(
    item: pytest.Item, base: ClusterConfig, param: object = None
) -> tuple[str, ClusterConfig]:
    """Return the scope and the config of a test's ``local_cluster``.

    Keyword by keyword the first of these that has it wins: the indirect parameter, the nearest
    marker, farther markers, ``base``.

    Raises:
        SpecError: a keyword or value that cannot be.
    """
    fields = _asked(item, param)
    scope = fields.pop("scope", "function")
    return scope, base.replace(**fields)


def scope_of(item: pytest.Item, param: object = None) -> str:
    """Return the scope of a test's ``local_cluster``.

    Raises:
        SpecError: a keyword or value that cannot be.
    """
    scope: str = _asked(item, param).get("scope", "function")
    return scope


def _asked(item: pytest.Item, param: object) -> dict[str, Any]:
    """Return what the markers and the parameter of ``item`` ask for; ``scope`` may be in it."""
    import difflib

    from ..errors import SpecError

    layers = [_keywords(mark) for mark in _markers(item)]
    if param is not None:
        if not isinstance(param, Mapping):
            raise SpecError(
                f"the indirect parameter of local_cluster is {param!r}",
                remedy="use a mapping of keywords, such as dict(workers=4)",
            )
        layers.append(dict(param))
    names = _names()
    for name in (name for layer in layers for name in layer):
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "use one of those below"
            raise SpecError(f"a cluster has no {name!r}", remedy=hint)
    merged = _merge(layers)
    scope = merged.get("scope", "function")
    if scope not in SCOPES:
        raise SpecError(
            f"unknown scope {scope!r}", remedy=f"use one of {', '.join(map(repr, SCOPES))}"
        )
    return merged


def _names() -> list[str]:
    from dataclasses import fields

    from .._config import ClusterConfig

    return [*(field.name for field in fields(ClusterConfig)), "scope"]


def _markers(item: pytest.Item) -> list[pytest.Mark]:
    """Return the cluster markers of ``item``, the nearest last."""
    found: list[pytest.Mark] = []
    for node in item.listchain():
        marks = [mark for mark in node.own_markers if mark.name == "cluster"]
        if isinstance(node, pytest.Class):
            # pytest lists a base class's markers before those of the class that derives from it.
            marks.sort(key=partial(_distance, node.obj))
        found.extend(reversed(marks))
    return found


def _distance(cls: type, mark: pytest.Mark) -> int:
    for distance, base in enumerate(cls.__mro__):
        marks = base.__dict__.get("pytestmark", ())
        if any(
            getattr(one, "mark", one) is mark
            for one in (marks if isinstance(marks, list) else [marks])
        ):
            return distance
    return -1  # added by a hook: nearer than what the source says


def _keywords(mark: pytest.Mark) -> dict[str, Any]:
    if mark.args:
        from ..errors import SpecError

        raise SpecError(
            f"the marker takes keywords only, not {', '.join(map(repr, mark.args))}",
            remedy="write @pytest.mark.cluster(workers=2, ps=1)",
        )
    return dict(mark.kwargs)


def _merge(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge keywords, later layers winning; ``workers`` also wins over ``jobs["worker"]``."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for job, name in (("worker", "workers"), ("ps", "ps")):
            if isinstance(layer.get("jobs"), Mapping) and job in layer["jobs"]:
                merged.pop(name, None)
            elif name in layer and isinstance(merged.get("jobs"), Mapping):
                merged["jobs"] = {key: n for key, n in merged["jobs"].items() if key != job}
        merged.update(layer)
    return merged


class MarkerCheck:
    """Turns mistakes in markers into collection errors, the same with and without xdist.

    A usage error would end the whole run, and be an internal error in an xdist worker. So the
    collection of the module fails, as it does when the module cannot be imported; all else runs.
    """

    def __init__(self) -> None:
        self._bad_modules: set[str] = set()
        self._reported: set[str] = set()
        self._other_errors = False

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        problems = _problems(node for node in report.result or () if isinstance(node, pytest.Item))
        if problems:
            module = _module(collector)
            if module not in self._bad_modules:
                self._bad_modules.add(module)
                self._reported.add(report.nodeid)
                report.outcome = "failed"
                report.longrepr = problems  # plain text: xdist shows equal ones once
            report.result = []
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        # A mistake in a class is met when tests above the class are collected already.
        if self._bad_modules:
            items[:] = [item for item in items if _module(item) not in self._bad_modules]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and report.nodeid not in self._reported:
            self._other_errors = True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        if self._reported and not self._other_errors:
            # xdist runs what could be collected, and so do we without it. Errors that are not
            # ours interrupt the run as they always do.
            session.config.option.continue_on_collection_errors = True


def _module(node: pytest.Item | pytest.Collector) -> str:
    return next((one for one in node.listchain() if isinstance(one, pytest.File)), node).nodeid


def _problems(items: Iterable[pytest.Item]) -> str:
    """Return what is wrong with the markers of ``items``, each mistake once; "" if nothing is."""
    found: dict[str, list[str]] = {}
    for item in items:
        param = param_of(item)
        if param is None and not any(item.iter_markers("cluster")):
            continue
        from ..errors import SpecError

        try:
            _check(_asked(item, param))
        except SpecError as error:
            found.setdefault(str(error), []).append(item.nodeid)
    if not found:
        return ""
    lines = []
    for message, tests in found.items():
        more = f" and {len(tests) - 1} more" if len(tests) > 1 else ""
        lines.append(f"{tests[0]}{more}: no such cluster can be had")
        lines.extend(f"  {line}" for line in message.splitlines())
    lines.append(f"The keywords of the cluster marker are: {', '.join(_names())}")
    return "\n".join(lines)


def _check(asked: dict[str, Any]) -> None:
    from .._config import ClusterConfig
    from .._core.fields import Names
    from .._runtimes import check_fields, find_runtime

    fields = {name: value for name, value in asked.items() if name not in ("scope", "runtime")}
    config = ClusterConfig().replace(**fields)
    wanted = asked.get("runtime", "native")
    runtimes = {}
    for job, runtime in wanted.items() if isinstance(wanted, Mapping) else (("", wanted),):
        # How many tasks of which jobs there are may be for the fixture cluster_config to say,
        # later: so a mapping is not held against the jobs, and no runtime is asked for any.
        runtimes[job] = find_runtime(config.replace(runtime=runtime).runtime)
        runtimes[job].check(config, ())
    # For the same reason fields are held against no more than the marker itself says.
    jobs: dict[str, int | None] = dict(config.counts())
    for job, name in (("worker", "workers"), ("ps", "ps")):
        if name not in asked and job not in asked.get("jobs", ()):
            jobs[job] = None
    names = {job: config.port_names(job) for job in jobs} if "ports" in asked else None
    served = {job: runtimes.get(job, runtimes.get("")) for job, count in jobs.items() if count}
    check_fields(
        config,
        {job: runtime for job, runtime in served.items() if runtime is not None},
        Names(jobs if "jobs" in asked else None, names),
    )


def param_of(item: pytest.Item) -> object:
    """Return the indirect parameter that ``item`` has for ``local_cluster``, or None."""
    callspec, info = getattr(item, "callspec", None), getattr(item, "_fixtureinfo", None)
    if callspec is None or info is None or "local_cluster" not in callspec.params:
        return None
    # Without indirect=True, or for a fixture of the user's own of that name, it means other things.
    definition = info.name2fixturedefs["local_cluster"][-1]
    ours = definition.func.__module__ == f"{__package__}.fixtures"
    return callspec.params["local_cluster"] if ours else None
