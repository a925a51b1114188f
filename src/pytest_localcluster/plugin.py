"""The pytest plugin: its fixtures and hooks by name. The rooms behind it are in ``_plugin``.

Loading it imports pytest and the standard library, nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from . import _observer
from ._core import environment, test_files
from ._plugin.fixtures import (
    cluster_config,
    cluster_factory,
    cluster_fixture,
    lease_port,
    local_cluster,
    session_cluster,
)
from ._plugin.hang import HangDump, TimeoutDump
from ._plugin.leaks import LeakCheck
from ._plugin.marker import DESCRIPTION, MarkerCheck
from ._plugin.options import OPTIONS, add_options, read_options
from ._plugin.run import RUN, RunScope
from ._plugin.watch import WATCH, Watch

__all__ = [
    "cluster_config",
    "cluster_factory",
    "cluster_fixture",
    "lease_port",
    "local_cluster",
    "session_cluster",
]

_PATTERNS = pytest.StashKey[Sequence[str]]()
_PREVIOUS = pytest.StashKey["_observer.Observer | None"]()
_OUTER_JOB = pytest.StashKey[Mapping[str, str]]()
_OUTSIDE = pytest.StashKey[Mapping[str, str]]()
_INPUT = "localcluster_outer_job"
_outer_job: Mapping[str, str] = {}  # of the pytest that starts next: it has no configuration yet


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options and their ini twins, and note what an outer job has left."""
    global _outer_job
    add_options(parser)
    # Here, before any conftest.py is imported: those set variables of the tests' own.
    _outer_job = environment.outer_job()


def pytest_configure(config: pytest.Config) -> None:
    """Check the options, and watch clusters from here on."""
    config.addinivalue_line("markers", DESCRIPTION)
    if "pyfakefs" in sys.modules:
        from ._core.files import spare_this_package

        spare_this_package()
    config.stash[OPTIONS] = options = read_options(config)
    config.stash[WATCH] = watch = Watch(config, options)
    config.stash[RUN] = RunScope(config, options, watch)
    config.stash[_PREVIOUS] = _observer.observe(watch)
    # A worker of xdist has inherited the environment that the controller had when it started it.
    given = getattr(config, "workerinput", {}).get(_INPUT)
    config.stash[_OUTER_JOB] = _outer_job if given is None else given
    config.stash[_OUTSIDE] = environment.begin(config.stash[_OUTER_JOB])
    config.stash[_PATTERNS] = test_files.configure(config.getini("python_files"))
    config.pluginmanager.register(MarkerCheck(), "localcluster-marker")
    config.pluginmanager.register(watch, "localcluster-watch")
    if options.leak_check != "off":
        check = LeakCheck(watch, options.leak_check)
        config.pluginmanager.register(check, "localcluster-leaks")
    config.pluginmanager.register(TimeoutDump(watch), "localcluster-timeouts")
    if options.hang_dump is not None:
        config.pluginmanager.register(HangDump(watch, options.hang_dump), "localcluster-hang-dump")
    if options.logs == "all":
        watch.begin_to_report()  # the controller of xdist shows logs, and has no cluster of its own
    if options.keep == "failed":
        from ._plugin.keep import KeepFailed

        config.pluginmanager.register(KeepFailed(watch), "localcluster-keep")
    if options.timeline != "off":
        from ._plugin.timeline import Timelines

        timelines = Timelines(watch, options.timeline, config, options.log_dir)
        config.pluginmanager.register(timelines, "localcluster-timelines")
    if options.attachment is not None:
        config.pluginmanager.register(options.attachment, "localcluster-attachment")
    if options.port_range is not None:
        from . import _ports

        _ports.configure(options.port_range)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand a worker of xdist the variables of the outer job, as they were for the controller."""
    node.workerinput[_INPUT] = node.config.stash[_OUTER_JOB]


@pytest.hookimpl(tryfirst=True)  # whoever makes it imports the file
def pytest_pycollect_makemodule(module_path: Path) -> None:
    """Note which files are test modules: a task does not import them."""
    test_files.note_collected(str(module_path))


@pytest.hookimpl(tryfirst=True)  # before xdist has us given tests: all shall have joined by then
def pytest_collection_finish(session: pytest.Session) -> None:
    """Get ready for clusters, if there are tests that use them."""
    if "coverage" in sys.modules:
        from ._coverage import environment

        environment()  # now, while relative paths are meant as its configuration means them
    if session.config.stash[OPTIONS].attachment is not None:
        return
    names = (getattr(item, "fixturenames", None) or () for item in session.items)
    if any("cluster_config" in used for used in names):
        session.config.stash[RUN].join(session.items)
        from ._plugin.warmup import warm_up

        warm_up(session)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """End what starts the tasks as soon as no test needs it."""
    # Before pytest-cov, whose wrapper is outside of this one, combines the data of all processes.
    try:
        return (yield)
    finally:
        if not session.config.stash[WATCH].clusters():
            session.config.stash[RUN].leave()
            _end_forkservers(session.config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what is left, and end what starts the tasks."""
    watch = config.stash.get(WATCH, None)
    if watch is None:
        return  # the options were refused
    watch.close()
    if watch.timelines is not None:
        watch.timelines.close()
    config.stash[RUN].leave()
    _end_forkservers(config)
    _observer.observe(config.stash[_PREVIOUS])
    test_files.configure(config.stash[_PATTERNS])
    environment.begin(config.stash[_OUTSIDE])
    if config.stash[OPTIONS].port_range is not None:
        from . import _ports

        _ports.configure(None)


def _end_forkservers(config: pytest.Config) -> None:
    # Not for a pytest inside of a test: the outer one may have clusters.
    for name in ("shelter", "process"):  # the folder first: guards go with their forkservers
        module = sys.modules.get(f"{__package__}._launch.{name}")
        if module is not None and config.stash[_PREVIOUS] is None:
            module.shutdown()
