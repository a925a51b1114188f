"""Coverage inside tasks: when coverage.py measures this process, it measures tasks too.

The process that forks the tasks is told to measure itself, with the configuration in force here and
two things more: each process writes a data file of its own, and does so when it ends, which tasks
do by ``os._exit``. A task inherits what was measured before its fork, such as the modules that were
imported ahead, and adds what it runs. Whoever combines the files of this process finds those too.
"""

from __future__ import annotations

import sys
from weakref import WeakKeyDictionary

__all__ = ["VARIABLE", "environment", "measure_as"]

VARIABLE = "COVERAGE_PROCESS_CONFIG"
"""By which coverage.py hears that it is to measure a process, and how."""

_configs: WeakKeyDictionary[object, str] = WeakKeyDictionary()
_given: dict[str, str] = {}


def measure_as(environ: dict[str, str]) -> None:
    """Have tasks of this process measured as those of another one, whose environment() this is."""
    _given.clear()
    _given.update(environ)


def environment() -> dict[str, str]:
    """Return what makes a process measure itself as this one does; nothing if this one does not.

    Relative paths are meant as they are when this is first asked.
    """
    current = getattr(getattr(sys.modules.get("coverage"), "Coverage", None), "current", None)
    measuring = None if current is None else current()
    if measuring is None:
        return dict(_given)
    if not hasattr(measuring.config, "patch"):
        return {}  # releases before 7.10 cannot be told
    if measuring not in _configs:
        config = measuring.config.copy()
        config.parallel = True
        config.patch = [*{*config.patch, "_exit"}]
        _configs[measuring] = config.serialize()
    return {VARIABLE: _configs[measuring]}
