"""Somebody at a terminal, who runs pytest and debugs with it."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys

from pytest_localcluster._clock import Deadline

PS, WORKER = "/job:ps/task:0", "/job:worker/task:0"


class Typist:
    """Somebody who runs pytest at a terminal."""

    def __init__(self, *args: str) -> None:
        self._screen, terminal = pty.openpty()
        command = [sys.executable, "-m", "pytest", "-q", "--color=no", *args]
        self.pytest = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal)
        os.close(terminal)
        self._unread = ""

    def sees(self, pattern: str, seconds: float = 60.0) -> str:
        """Wait for ``pattern`` on the screen; return what came before it, and itself."""
        deadline = Deadline(seconds)
        while (match := re.search(pattern, self._unread, re.DOTALL)) is None:
            left = deadline.remaining()
            assert select.select([self._screen], [], [], left)[0], f"no {pattern}: {self._unread}"
            try:
                data = os.read(self._screen, 4096)
            except OSError:  # everybody has closed it
                data = b""
            assert data, f"no {pattern}: {self._unread}"
            self._unread += data.decode().replace("\r\n", "\n")
        seen, self._unread = self._unread[: match.end()], self._unread[match.end() :]
        return seen

    def types(self, line: str) -> None:
        os.write(self._screen, f"{line}\n".encode())

    def ends(self) -> int:
        """Wait for the end of the run."""
        while True:
            try:
                if not os.read(self._screen, 4096):
                    break
            except OSError:
                break
        return self.pytest.wait(30)

    def close(self) -> None:
        os.close(self._screen)
        self.pytest.kill()
        self.pytest.wait()


def prompt(task: str) -> str:
    """Return the pattern of a prompt that waits."""
    return rf"\({task} Pdb\) $"
