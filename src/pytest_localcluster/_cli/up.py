"""``up``: a cluster without a test, until somebody ends it."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import __version__
from .._cluster import LocalCluster
from .._clusterfile import ProcessId
from .._config import ClusterConfig
from .._core import stand_ins
from .._handover import file_of
from .._launch import shelter
from ..errors import SpecError
from .view import view_of

__all__ = ["run"]

_STOP_SECONDS = 0.8
"""Who presses Ctrl-C waits for it."""

_ENDS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


def run(given: argparse.Namespace) -> int:
    """Start it, write its file, show it; end it at a signal."""
    config = _config(given)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_interrupted())
        path = given.file
        try:
            if path is not None:
                path = Path(path).absolute()
            stand_ins.expect_operations()
            cluster = LocalCluster(config, log_dir=given.log_dir)
            stack.enter_context(cluster)
            if path is None:
                # In the folder that is removed however this process ends.
                path = shelter.new_folder() / "cluster.json"
            file_of(cluster, __version__, owner=ProcessId.of(os.getpid())).write(path)
            stack.callback(path.unlink, missing_ok=True)
            view = stack.enter_context(view_of(cluster, path, plain=given.plain))
            while True:
                view.update()
                view.wait()
        except KeyboardInterrupt:
            pass  # that is how it ends
        finally:
            _ignore()  # once is enough: the rest takes less than a second
    return 0


def _config(given: argparse.Namespace) -> ClusterConfig:
    fields: dict[str, Any] = {
        "jobs": dict(_job(text) for text in given.jobs),
        "preload": given.preload,
        "stop_timeout": _STOP_SECONDS,
    }
    for name in ("workers", "ps", "start_timeout"):
        if getattr(given, name) is not None:
            fields[name] = _number(getattr(given, name))
    if given.runtime is not None:
        fields["runtime"] = given.runtime
    config = ClusterConfig(**fields)
    if not config.tasks():
        raise SpecError("a cluster without tasks is nothing to start", remedy="use --workers 1")
    return config


def _job(text: str) -> tuple[str, Any]:
    name, mark, count = text.partition("=")
    if not mark:
        raise SpecError(f"--jobs {text!r} does not say how many", remedy=f"write {text}=1")
    return name, _number(count)


def _number(text: str) -> Any:
    """Return the number that a text is; the text itself otherwise, for the config to refuse."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


@contextlib.contextmanager
def _interrupted() -> Iterator[None]:
    """Have the signals that end a program raise KeyboardInterrupt, also where one is ignored."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in _ENDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore() -> None:
    for number in _ENDS:
        signal.signal(number, signal.SIG_IGN)
