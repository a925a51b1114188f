"""What launchers say of a task that did not come up or has died."""

from __future__ import annotations

import linecache
import re
import signal
from typing import TYPE_CHECKING, Any

from .._core import exceptions
from ..errors import ClusterError, ServerExited, StartError, StartTimeout, UnsupportedError
from .fate import Unseen, describe_exit

if TYPE_CHECKING:
    from .._context import TaskContext
    from .._logs import TaskLog

__all__ = [
    "describe_exit",
    "exited",
    "hung",
    "never_ready",
    "no_python",
    "not_forked",
    "not_suspended",
    "raised",
    "start_failed",
    "start_timeout",
    "with_source",
]

TAIL = 20
_CRASH = "Fatal Python error: "
_CRASH_LINES = 100
_FRAME = re.compile(r'  File "(?P<file>.+)", line (?P<line>\d+) in (?P<name>.+)')


def exited(
    context: TaskContext,
    log: TaskLog,
    pid: int | None,
    code: int | None,
    doing: str = "",
    *,
    oom: str | None = None,
) -> ServerExited:
    """Return the error for a task that died.

    Args:
        context: the task.
        log: what it printed.
        pid: its process.
        code: how it ended.
        doing: what it died in, or of.
        oom: what tells of a kill for want of memory, "" if nothing does; None if nobody looked,
            since whoever killed it is known.
    """
    remedy = f"read the log of {context.task} for what it did last"
    status = None
    if code == -signal.SIGKILL and oom is not None and not isinstance(code, Unseen):
        if oom:
            status = f"probably for want of memory: {oom}"
            remedy = "give the tests more memory, or have the task hold less; dmesg may say more"
        else:
            remedy += "; no kill() or stop() was it: had memory run out, dmesg would say so"
    if isinstance(code, Unseen):
        doing, remedy = "", "look who ended that process; dmesg names what the kernel killed"
    return ServerExited(
        f"{context.task} {describe_exit(code)}{doing}",
        exitcode=None if isinstance(code, Unseen) else code,
        status=status,
        evidence=_words(code, pid) or _tail(log),
        remedy=remedy,
        **_where(context, pid),
    )


def start_failed(
    context: TaskContext, log: TaskLog, pid: int | None, what: str, code: int | None = None
) -> StartError:
    """Return the error for a task whose start failed: raise it from the cause."""
    return StartError(
        f"{context.task} did not start: {what}",
        evidence=_words(code, pid) or _tail(log),
        remedy="mend what the log shows; it happened while the task started",
        **_where(context, pid),
    )


def not_forked(context: TaskContext, what: str) -> StartError:
    """Return the error for a task that the system refused a process: raise it from the cause."""
    return StartError(
        f"{context.task} did not start: no process could be forked for it: {what}",
        remedy="have fewer tasks or test processes at a time, or allow more processes "
        "(`ulimit -u`, a container's pids limit) or memory",
        **_where(context, None),
    )


def start_timeout(
    context: TaskContext, pid: int | None, seconds: float, last_line: str, stacks: str
) -> StartTimeout:
    """Return the error for a task that is alive, but not ready."""
    return StartTimeout(
        f"{context.task} was not ready after {seconds:g} s",
        status=f"still alive; last seen: {last_line or 'starting'}",
        evidence=stacks or None,
        remedy="raise --cluster-start-timeout (start_timeout=), "
        "or mend where the stacks show it waiting",
        **_where(context, pid),
    )


def never_ready(
    context: TaskContext, log: TaskLog, pid: int | None, seconds: float, program: str, missing: str
) -> StartTimeout:
    """Return the error for a task that was started, and does not become ready."""
    return StartTimeout(
        f"{context.task} was not ready after {seconds:g} s: {missing}",
        status=f"still alive; its program is: {program}" if program else "still alive",
        evidence=_tail(log) or "it has printed nothing",
        remedy="raise --cluster-start-timeout (start_timeout=), or mend the program or what "
        "ready= asks of it",
        **_where(context, pid),
    )


def no_python(
    context: TaskContext, pid: int | None, program: str, function: str
) -> UnsupportedError:
    """Return the error for a function that a program was asked to run."""
    return UnsupportedError(
        f"{context.task} cannot run {function}: it is no Python",
        status=f"its program is: {program}",
        remedy="run it in a task of another job: runtime= can be a mapping from job to "
        "runtime, and only jobs of a CommandRuntime are not Python",
        task=str(context.task),
        pid=pid,
    )


def not_suspended(context: TaskContext, pid: int | None) -> ClusterError:
    """Return the error for a task that was sent SIGSTOP, and does not stop."""
    return ClusterError(
        f"{context.task} did not stop when it was suspended",
        status="some thread of it is in a call of the kernel that no signal interrupts",
        remedy="look at /proc/PID/stack; resume() it, or kill() it",
        **_where(context, pid),
    )


def hung(pid: int | None, seconds: float, said: str) -> ClusterError:
    """Return the error for a forkserver that does not answer."""
    return ClusterError(
        f"the process that starts the tasks did not answer within {seconds:g} s",
        pid=pid,
        status="it was killed, and its tasks with it",
        evidence=said or None,
        remedy="look what stopped it; the next start has another one",
    )


def raised(context: TaskContext, data: bytes, text: str) -> BaseException:
    """Return the exception of a task's, or the error for one that cannot be made here again."""
    error = exceptions.load_exception(data, text)
    if error is not None:
        return error
    last = text.rstrip().rpartition("\n")[2]
    return ClusterError(
        f"{context.task} raised what cannot be brought here: {last}",
        task=str(context.task),
        evidence=text,
        remedy="raise an exception that pickle can take apart and put together again",
    )


def with_source(stacks: str) -> str:
    """Put the source line under each frame of a dump by :mod:`faulthandler`."""
    lines = []
    for line in stacks.splitlines():
        lines.append(line)
        frame = _FRAME.fullmatch(line)
        if frame is not None:
            source = linecache.getline(frame["file"], int(frame["line"])).strip()
            if source:
                lines.append(f"    {source}")
    return "\n".join(lines)


def _where(context: TaskContext, pid: int | None) -> dict[str, Any]:
    task = context.task
    address = context.cluster_spec.task_address(task.job, task.index)
    return {"task": str(task), "address": address, "pid": pid}


def _words(code: int | None, pid: int | None) -> str | None:
    """Return the last lines of a forkserver that took its tasks along.

    Of the modules that it has imported the last one is named, unless the task was there already.
    """
    if not isinstance(code, Unseen):
        return None
    lines = code.words.splitlines()[-_CRASH_LINES:]
    marks = [line == "ready to import" or line.startswith("importing ") for line in lines]
    last = [] if pid is not None else lines[-1:]
    lines = [line for line, mark in zip(lines, marks, strict=True) if not mark] or last
    return "\n".join(["it printed last:", *lines]) if lines else None


def _tail(log: TaskLog) -> str | None:
    """Return the last lines, or all that an interpreter says when it crashes."""
    text = log.tail(TAIL + _CRASH_LINES, since=log.begun)
    before, crash, after = text.rpartition(_CRASH)
    lines = (before if crash else text).splitlines(keepends=True)[-TAIL:]
    text = "".join(lines) + with_source(crash + after)
    return f"last log lines of {log.path}:\n{text}" if text.strip() else None
