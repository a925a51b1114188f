"""One cluster that lives in this pytest process, and what it did during the running test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._chaos import Chaos
    from .._cluster import LocalCluster
    from .._logs import Follower
    from .._server import Server
    from ..errors import ServerExited

__all__ = ["Watched"]


class Watched:
    """One cluster, and how far it was when the running test began."""

    def __init__(
        self,
        cluster: LocalCluster,
        follower: Follower | None,
        fixture: str | None,
        lasts: bool,
    ) -> None:
        self.cluster = cluster
        self.servers = list(cluster.servers)  # after another start it has new ones
        self.fixture = fixture  # which was being set up
        self.lasts = lasts  # longer than one test, as far as fixtures go
        self.kept = False  # beyond the end of pytest
        self.failed = False  # a test that ran while it was there
        self.follower = follower
        self._marks: dict[Server, int] = {}
        self._chaos: dict[Chaos, int | None] = {}  # what was over, and how far the rest was
        # Deaths, by whose and which process.
        self._known: AbstractSet[tuple[Server, int | None]] = set()

    def begin(self) -> None:
        """Count from here: a test begins."""
        self._marks = {}
        for server in self.servers:
            with contextlib.suppress(OSError):  # the report says what is wrong with the log
                self._marks[server] = server.log.mark()
        self._chaos = {chaos: chaos.mark() for chaos in self.cluster._chaos}
        self._known = self._dead().keys()

    def chaos(self) -> list[str]:
        """Return what ``chaos()`` has done since the test began."""
        marks = ((chaos, self._chaos.get(chaos, 0)) for chaos in self.cluster._chaos)
        return [chaos.since(mark) for chaos, mark in marks if mark is not None]

    def printed(self, limit: int) -> Iterator[tuple[Server, str, int]]:
        """Yield each task that printed since the last call, what, and how many bytes were cut."""
        for server in self.servers:
            try:
                end, mark = server.log.mark(), self._marks.get(server, server.log.origin)
                start = max(mark, end - limit)
                data = server.log.read(start, end - start)[1] if end > mark else b""
                text = data.decode(errors="replace")
            except OSError as error:  # whatever somebody did to the file, the run goes on
                yield server, f"its log cannot be read: {error}\n", 0
                continue
            if text:
                self._marks[server] = end
                yield server, text, start - mark

    def deaths(self, *, known: bool = False) -> list[ServerExited]:
        """Return the tasks that died on their own since the test began.

        With ``known`` they count as reported from now on.
        """
        found = {which: death for which, death in self._dead().items() if which not in self._known}
        if known:
            self._known = self._known | found.keys()
        return list(found.values())

    def _dead(self) -> dict[tuple[Server, int | None], ServerExited]:
        deaths = ((server, server.unexpected_death()) for server in self.servers)
        return {(server, death.pid): death for server, death in deaths if death is not None}

    def tidy(self) -> None:
        """Remove the tasks' own folders, which only a failed test leaves beside its logs."""
        if self.failed or self.kept:
            return
        from shutil import rmtree

        from .._foreign import BorrowedServer

        for server in self.servers:
            # A task that is not this process's may go on with its folder.
            if server.dir is not None and not isinstance(server, BorrowedServer):
                rmtree(server.dir, ignore_errors=True)

    def test_is_over(self, test: str) -> None:
        """Note of tasks that have ended with their cluster which test that was."""
        if not self.kept:
            for server in self.servers:
                server.test_is_over(test)

    def ended(self) -> None:
        """Show what is left of the live output."""
        if self.follower is not None:
            self.follower.close()
