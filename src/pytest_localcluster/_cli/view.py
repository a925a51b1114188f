"""What ``up`` shows: a live table on a terminal, lines where there is none."""

from __future__ import annotations

import contextlib
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from .._launch.reports import describe_exit
from .._logs import follow

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from .._cluster import LocalCluster
    from .._server import Server

__all__ = ["console_for", "view_of"]

_PAUSE = 1.0
"""Seconds between two looks at memory and logs; a death is seen at once."""


class View(Protocol):
    """Something that shows a cluster; a context manager."""

    def __enter__(self) -> Self:
        """Begin to show it."""

    def __exit__(self, *_: object) -> None:
        """Show no more of it."""

    def update(self) -> None:
        """Show how it is now."""

    def wait(self) -> None:
        """Wait until there may be something new to show."""


def view_of(cluster: LocalCluster, path: Path, *, plain: bool) -> View:
    """Return what suits the standard output: the table, or lines.

    Args:
        cluster: a running cluster.
        path: of its file.
        plain: lines in any case.
    """
    facts = [
        f"{cluster!r}",
        f"  for tests:    pytest --cluster-attach={path}",
        f'  for clients:  eval "$(python -m pytest_localcluster env {path})"',
        f"  to end it:    Ctrl-C, SIGTERM, or python -m pytest_localcluster down {path}",
    ]
    console = console_for(plain=plain, what="the live table")
    return _Lines(cluster, facts) if console is None else _LiveTable(cluster, facts, console)


def console_for(*, plain: bool, what: str) -> Console | None:
    """Return rich's console if there is a terminal for it; say so if only rich is missing."""
    if plain or not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        print(f"{what} needs rich, which is not installed: pip install 'pytest-localcluster[cli]'")
        return None
    return Console()


class _View:
    def __init__(self, cluster: LocalCluster, facts: list[str]) -> None:
        self._cluster = cluster
        self._facts = facts

    def wait(self) -> None:
        """Wait for the end of a task, or for a while."""
        poller = select.poll()
        for server in self._cluster.servers:
            process = server._life.process
            for descriptor in process.news() if process is not None else ():
                poller.register(descriptor, select.POLLIN)
        poller.poll(_PAUSE * 1000)


class _Lines(_View):
    """One line for whatever happens, and each line that a task prints."""

    def __enter__(self) -> Self:
        self._states: dict[Server, str] = {}
        for line in self._facts:
            print(line, flush=True)
        logs = [(f"[{server.task}]", server.log) for server in self._cluster.servers]
        self._follower = follow(logs, _write)
        return self

    def __exit__(self, *_: object) -> None:
        self._follower.close()

    def update(self) -> None:
        for server in self._cluster.servers:
            state = _state(server)
            if self._states.get(server) != state:
                self._states[server] = state
                print(f"{server.task} at {server.address}, pid {server.pid}: {state}", flush=True)


class _LiveTable(_View):
    """A table of the tasks, drawn anew."""

    def __init__(self, cluster: LocalCluster, facts: list[str], console: Console) -> None:
        super().__init__(cluster, facts)
        self._console = console

    def __enter__(self) -> Self:
        from rich.live import Live

        for line in self._facts:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self) -> None:
        self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for column in ("task", "state", "address", "pid"):
            table.add_column(column, no_wrap=True)
        table.add_column("memory", justify="right", no_wrap=True)
        table.add_column("last log line", no_wrap=True, overflow="ellipsis")
        for server in self._cluster.servers:
            state = _state(server)
            table.add_row(
                str(server.task),
                Text(state, "green" if state == "running" else "red"),
                server.address,
                str(server.pid),
                _memory(server),
                Text.from_ansi(server.log.tail(1).rstrip()),
            )
        return table


def _state(server: Server) -> str:
    if server.is_alive():
        return "suspended" if server.is_suspended() else "running"
    return describe_exit(server.exitcode)


def _memory(server: Server) -> str:
    """Return what a task takes, its part of what it shares included; "" if nobody tells."""
    for file, name in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        with contextlib.suppress(OSError):
            for line in _lines(Path(f"/proc/{server.pid}/{file}")):
                if line.startswith(name):
                    return f"{int(line.split()[1]) / 1024:.0f} MiB"
    return ""


def _lines(path: Path) -> Iterator[str]:
    with path.open() as file:
        yield from file


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
