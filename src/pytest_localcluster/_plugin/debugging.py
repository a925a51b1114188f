"""Breakpoints in tasks, as the test process sees them: whether there can be any, and what waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from .watch import Watch

__all__ = ["Debugging"]


class Debugging:
    """What the observer of clusters does for the debugger of a task.

    The terminal is one task's, for the length of a prompt: the tasks' output is shown before it and
    after it. To other plugins, such as those that time tests out, it is a prompt of pytest's own.
    """

    def __init__(self, config: pytest.Config, watch: Watch) -> None:
        self._config = config
        self._watch = watch
        self._pdb: object = None

    def refusal(self) -> str:
        """Return why tasks have no terminal; "" if they may ask for one."""
        if hasattr(self._config, "workerinput"):
            return "pytest-xdist runs this test in a worker, which has no terminal"
        if not self._watch.shows_live:
            return "pytest captures input and output"
        return ""

    def prompting(self) -> None:
        """Show what tasks have printed so far, and no more; it is the debugger's turn."""
        for watched in self._watch.living():
            if watched.follower is not None:
                watched.follower.pause()
        if self._pdb is None:
            import pdb

            self._pdb = pdb.Pdb(nosigint=True, readrc=False)
            self._config.hook.pytest_enter_pdb(config=self._config, pdb=self._pdb)

    def resumed(self, how: str) -> None:
        """Show again what tasks print; end the run if that was what was typed."""
        for watched in self._watch.living():
            if watched.follower is not None:
                watched.follower.resume()
        if how != "step":
            self._config.hook.pytest_leave_pdb(config=self._config, pdb=self._pdb)
            self._pdb = None
        if how == "quit":
            session: Any = self._config.pluginmanager.get_plugin("session")
            session.shouldstop = "Quitting debugger"  # as pytest's own does, if not as abruptly
