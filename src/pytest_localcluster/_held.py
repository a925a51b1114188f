"""What this package holds in this process, and for whom: the leak check's register.

Whatever a cluster takes (a process, a thread, a descriptor, a port) is written down here when it is
made, and struck off when it is given back. So a leak is found by what is still written down when
its owner is gone, and nothing that is not ours can ever be taken for one.

It costs a microsecond an entry, and nothing is looked at unless somebody asks for :func:`leaks`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
import weakref
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "Held",
    "anything",
    "forget_ended",
    "hold",
    "hold_thread",
    "identity",
    "is_stopped",
    "leaks",
    "lives",
    "owned_by",
    "owner",
    "stack_of",
]

_PACKAGE = __name__.partition(".")[0]


class Held:
    """One thing that is ours for a while; it may own others.

    Attributes:
        what: what it is, such as ``the process of /job:ps/task:0``.
        owner: what it goes with; None if it is on its own.
        where: the line of the user's that had it made, ``file:line``; "" if there is none.
        since: the test that ran when it was made; "" if none did.
        remedy: what to do about it if it stays.
        given_back: whether it is gone, as far as we know.
    """

    __slots__ = (
        "__weakref__",
        "_alive",
        "_says",
        "given_back",
        "owner",
        "remedy",
        "since",
        "what",
        "where",
    )

    def __init__(
        self,
        what: str,
        owner: Held | None,
        alive: Callable[[], bool] | None,
        says: Callable[[], str] | None,
        remedy: str,
    ) -> None:
        self.what = what
        self.owner = owner
        self.remedy = remedy
        self.given_back = False
        self.where: str = _line_of_the_user() if owner is None else owner.where
        self.since: str = _test() if owner is None else owner.since
        self._alive = alive
        self._says = says

    def give_back(self) -> None:
        """Strike it off. Idempotent."""
        self.given_back = True
        _register.pop(self, None)

    def leaked(self) -> bool:
        """Tell whether it is still there although its owner is not; on its own, if it says so."""
        if self.given_back or (self.owner is not None and not self.owner.given_back):
            return False
        if self._alive is not None and not self._alive():
            if self.owner is not None:
                self.give_back()  # it is gone, and nobody had to do that
            return False
        return self.owner is not None or self._alive is not None

    def may_end(self) -> bool:
        """Tell whether it is something that ends by itself, such as a thread."""
        return self.owner is not None and self._alive is not None

    def report(self) -> str:
        """Return what it is, where it was made, in which test, and the remedy."""
        made = " ".join(
            part
            for part in (self.where and f"at {self.where}", self.since and f"in {self.since}")
            if part
        )
        of = f", of {self.owner.what}" if self.owner is not None else ""
        lines = [f"{self.what}{of}", f"  made {made}" if made else ""]
        said = self._says() if self._says is not None else ""
        lines += [f"  | {line}" for line in said.rstrip().splitlines()]
        lines.append(f"  To fix this: {self.remedy}" if self.remedy else "")
        return "\n".join(filter(None, lines))

    def __repr__(self) -> str:
        return f"<Held {self.what}: {'given back' if self.given_back else 'held'}>"


_register: dict[Held, None] = {}  # in the order in which things were made
_owner: ContextVar[Held | None] = ContextVar("pytest_localcluster_owner", default=None)


def hold(
    what: str,
    *,
    owner: Held | None = None,
    alive: Callable[[], bool] | None = None,
    says: Callable[[], str] | None = None,
    remedy: str = "",
) -> Held:
    """Write down something that is made now; the caller strikes it off when it is given back.

    Args:
        what: what it is.
        owner: what it goes with; None is the owner that is in force, if one is.
        alive: tells whether it is still there; None is until it was given back. For a thing
            without an owner it tells whether it has leaked.
        says: tells more of it, for the report.
        remedy: what to do if it stays.
    """
    held = Held(what, _owner.get() if owner is None else owner, alive, says, remedy)
    _register[held] = None
    return held


def hold_thread(thread: threading.Thread, what: str = "", *, owner: Held | None = None) -> Held:
    """Write down a thread, which is given back by ending."""
    known = weakref.ref(thread)

    def alive() -> bool:
        found = known()
        return found is not None and found.is_alive()

    def says() -> str:
        found = known()
        return "" if found is None else stack_of(found.ident)

    return hold(
        what or f"the thread {thread.name!r}",
        owner=owner,
        alive=alive,
        says=says,
        remedy="have what it is doing end before the cluster is stopped",
    )


def owner() -> Held | None:
    """Return what is made now belongs to."""
    return _owner.get()


@contextlib.contextmanager
def owned_by(held: Held | None) -> Iterator[None]:
    """Have what this thread makes belong to ``held``, for a while."""
    before = _owner.set(held)
    try:
        yield
    finally:
        _owner.reset(before)


def anything() -> bool:
    """Tell whether anything at all is written down."""
    return bool(_register)


def forget_ended() -> None:
    """Strike off what has ended by itself, and with it whatever it keeps in memory."""
    leaks()


def leaks() -> list[Held]:
    """Return what is still there although its owner is gone, in the order in which it was made."""
    return [held for held in list(_register) if held.leaked()]


def identity(pid: int) -> str:
    """Return what tells a process from others that have had, or will have, its number.

    It is "" where the system does not tell, or there is no such process.
    """
    state, born = _stat(pid)
    return "" if state in ("Z", "X") else born


def is_stopped(pid: int) -> bool:
    """Tell whether a signal has stopped a process, whoever sent it; False if nobody can tell."""
    return _stat(pid)[0] in ("T", "t")


def _stat(pid: int) -> tuple[str, str]:
    """Return the state of a process and when it was born, as the kernel counts."""
    try:
        # The program's name, in brackets, may hold anything; the 22nd field is the time of birth.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return "", ""
    return fields[0].decode(), fields[19].decode()


def lives(pid: int, known: str) -> bool:
    """Tell whether the process that had this identity is still there; a zombie is not."""
    if known:
        return identity(pid) == known
    if Path("/proc/self/stat").exists():
        return False  # it was gone before anybody could ask
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def stack_of(ident: int | None) -> str:
    """Return where a thread of this process is; "" if it is gone."""
    frame = sys._current_frames().get(ident or 0)
    return "" if frame is None else "".join(traceback.format_stack(frame))


def _test() -> str:
    """Return the test that runs; pytest says so to whoever wants to know."""
    return os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]


def _line_of_the_user() -> str:
    frame = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.partition(".")[0] in ("_pytest", "pluggy", "threading"):
            return ""  # a fixture of ours, or a thread: nobody wrote a line for it
        if name.partition(".")[0] != _PACKAGE and name != "contextlib":
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]  # the last one has none
    return ""
