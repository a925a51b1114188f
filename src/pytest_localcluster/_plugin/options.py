"""The command line and its ini twins, checked before anything runs."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from .leaks import MODES

if TYPE_CHECKING:
    from .._config import ClusterConfig
    from .attach import Attachment

__all__ = ["OPTIONS", "Options", "add_options", "read_options"]

LOGS = ("failed", "all", "none")
KEEP = ("never", "failed")
TIMELINE = ("off", "failed", "all")

_IN_SECONDS = ("cluster_start_timeout", "cluster_hang_dump")

T = TypeVar("T")


class Options:
    """What the command line and the ini file ask for.

    Not a dataclass, which would take most of the time that loading the plugin takes.

    Attributes:
        fields: fields of :class:`ClusterConfig`, only those that were given.
        logs: which tests' reports show logs: ``"failed"``, ``"all"`` or ``"none"``.
        log_dir: where to keep every task's log, absolute; None keeps none.
        port_range: the lowest and the highest port to lease; None is any.
        leak_check: what becomes of a test that leaks: ``"error"``, ``"warn"`` or ``"off"``.
        hang_dump: after how many seconds a test's report gets all stacks; None is never.
        attachment: the running cluster to use; None starts clusters.
        keep: which tests' clusters to leave running: ``"never"`` or ``"failed"``.
        timeline: which tests get timelines: ``"off"`` (none), ``"failed"`` or ``"all"``.
    """

    def __init__(
        self,
        fields: dict[str, Any],
        logs: str,
        log_dir: Path | None,
        port_range: tuple[int, int] | None,
        leak_check: str,
        hang_dump: float | None,
        attachment: Attachment | None,
        keep: str,
        timeline: str,
    ) -> None:
        self.fields = fields
        self.logs = logs
        self.log_dir = log_dir
        self.port_range = port_range
        self.leak_check = leak_check
        self.hang_dump = hang_dump
        self.attachment = attachment
        self.keep = keep
        self.timeline = timeline

    def cluster_config(self) -> ClusterConfig:
        """Return the config that every cluster of this run begins with."""
        from .._config import ClusterConfig

        return ClusterConfig(**self.fields)


OPTIONS = pytest.StashKey[Options]()


def add_options(parser: pytest.Parser) -> None:
    """Declare the options; all but ``cluster_preload`` exist as both option and ini."""
    group = parser.getgroup("localcluster", "clusters for tests (pytest-localcluster)")
    for name, metavar, text in (
        ("cluster-runtime", "NAME", "what a task serves, unless a marker says more: native"),
        ("cluster-launcher", "NAME", "where a task runs: process (the default), thread or ray"),
        ("cluster-start-timeout", "SECONDS", "how long a cluster may take to start"),
        ("cluster-logs", "failed|all|none", "whose reports show the tasks' logs (default: failed)"),
        ("cluster-log-dir", "DIR", "keep every task's log there, in a folder for each test"),
        ("cluster-port-range", "LOW-HIGH", "lease ports from this range, both ends included"),
        ("cluster-leak-check", "error|warn|off", "what a test gets that leaks (default: error)"),
        ("cluster-hang-dump", "SECONDS", "after that long, show the stacks of tasks and test"),
        ("cluster-keep", "never|failed", "whose clusters to leave running (default: never)"),
        ("cluster-timeline", "off|failed|all", "which tests get timelines, as pages and traces"),
        ("cluster-attach", "FILE", "start no cluster: use the running one that FILE describes"),
    ):
        ini = name.replace("-", "_")
        group.addoption(f"--{name}", dest=ini, metavar=metavar, help=f"{text} (ini: {ini})")
        # In [tool.pytest] a number is a number. Before 9.2 no type of pytest's is one or a string.
        kind: Any = str | float if ini in _IN_SECONDS and pytest.version_tuple >= (9, 2) else None
        parser.addini(ini, f"{text}; --{name} goes before this", type=kind, default="")
    parser.addini(
        "cluster_preload",
        "modules to import once, before tasks are forked, such as those under test",
        type="args",
        default=[],
    )


def read_options(config: pytest.Config) -> Options:
    """Read and check what was given.

    Raises:
        pytest.UsageError: a value that cannot be; names the option, or the ini value, at fault.
    """
    fields: dict[str, Any] = {}
    for name in ("runtime", "launcher"):
        _read(config, f"cluster_{name}", partial(_field, fields, name))
    _read(
        config,
        "cluster_start_timeout",
        lambda given: _field(fields, "start_timeout", _number(given)),
    )
    preload = _ini(config, "cluster_preload")
    if preload:
        text = " ".join(map(str, preload))
        _checked("cluster_preload (ini)", text, lambda _: _field(fields, "preload", preload))
    return Options(
        fields=fields,
        logs=_read(config, "cluster_logs", _logs) or "failed",
        log_dir=_read(config, "cluster_log_dir", lambda text: _folder(config, text)),
        port_range=_read(config, "cluster_port_range", _ports),
        leak_check=_read(config, "cluster_leak_check", _leak_check) or "error",
        hang_dump=_read(config, "cluster_hang_dump", _seconds),
        keep=_read(config, "cluster_keep", _keep) or "never",
        timeline=_read(config, "cluster_timeline", _timeline) or "off",
        attachment=_read(config, "cluster_attach", lambda text: _attach(config, text)),
    )


def _read(config: pytest.Config, name: str, convert: Callable[[Any], T]) -> T | None:
    """Return the converted value of an option, or else of its ini twin, or else None."""
    text = config.getoption(name)
    if text is not None:
        return _checked(f"--{name.replace('_', '-')}", text, convert)
    given = _ini(config, name)
    return None if given == "" else _checked(f"{name} (ini)", given, convert)


def _ini(config: pytest.Config, name: str) -> Any:
    """Return an ini value: a string, the number that [tool.pytest] holds, or a list of modules."""
    try:
        given = config.getini(name)
    except TypeError as error:  # pytest 9.0 and 9.1: a type that it does not expect
        given = config._inicfg[name].value  # type: ignore[attr-defined, unused-ignore]
        if name not in _IN_SECONDS or isinstance(given, (bool, list, dict)):
            raise pytest.UsageError(str(error)) from None
    if isinstance(given, list) and name != "cluster_preload":
        raise pytest.UsageError(f"{name} (ini) = {given!r}: write one value, not a list")
    return given


def _checked(source: str, given: Any, convert: Callable[[Any], T]) -> T:
    try:
        return convert(given)
    except ValueError as error:  # SpecError is one
        message = str(error)
    raise pytest.UsageError(f"{source} = {given!r}: {message}")


def _field(fields: dict[str, Any], name: str, value: object) -> None:
    from .._config import ClusterConfig  # only if a value was given: it costs a millisecond

    fields[name] = getattr(ClusterConfig().replace(**{name: value}), name)


def _number(given: str | float) -> float | str:
    try:
        return float(given)
    except ValueError:
        return given  # ClusterConfig says what is wrong with it


def _logs(text: str) -> str:
    if text not in LOGS:
        raise ValueError(f"use one of {', '.join(LOGS)}")
    return text


def _leak_check(text: str) -> str:
    if text not in MODES:
        raise ValueError(f"use one of {', '.join(MODES)}")
    return text


def _keep(text: str) -> str:
    if text not in KEEP:
        raise ValueError(f"use one of {', '.join(KEEP)}")
    return text


def _timeline(text: str) -> str:
    if text not in TIMELINE:
        raise ValueError(f"use one of {', '.join(TIMELINE)}")
    return text


def _seconds(given: str | float) -> float:
    number = _number(given)
    if not isinstance(number, float) or not 0 < number < threading.TIMEOUT_MAX:
        raise ValueError("use a number of seconds above 0")
    return number


def _ports(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d{1,5})\s*-\s*(\d{1,5})\s*", text)
    if match is None:
        raise ValueError("write it as LOW-HIGH, such as 20000-20999")
    low, high = int(match[1]), int(match[2])
    if not 0 < low <= high < 65536:
        raise ValueError("LOW must not be above HIGH, and ports go from 1 to 65535")
    return low, high


def _path(config: pytest.Config, name: str, text: str) -> Path:
    """Return the path that an option gives from where pytest was started, an ini file from there.

    xdist hands the options to its workers, and theirs may be another directory: so it stays.
    """
    if config.getoption(name) is not None:
        base = config.invocation_params.dir
    else:
        base = config.inipath.parent if config.inipath is not None else config.rootpath
    path = (base / text).absolute()
    setattr(config.option, name, str(path))
    return path


def _attach(config: pytest.Config, text: str) -> Attachment:
    from .attach import Attachment  # only if it is asked for: it asks the tasks, by gRPC

    return Attachment(config, _path(config, "cluster_attach", text))


def _folder(config: pytest.Config, text: str) -> Path:
    folder = _path(config, "cluster_log_dir", text)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"{existing} is a file; name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"no file can be made there ({error.strerror}); name a folder that you may write to"
        ) from None
    return folder
