"""A server that serves nothing: for tests of what is around a server."""

from __future__ import annotations

from pytest_localcluster import Task


class Serving:
    def stop(self) -> None:
        pass

    def reset(self) -> None:
        pass

    def forget(self, task: Task) -> None:
        pass
