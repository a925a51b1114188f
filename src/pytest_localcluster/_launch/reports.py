"""What launchers say of a task that did not come up or has died."""

from __future__ import annotations

import linecache
import re
import signal
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from .._core import exceptions
from ..errors import ClusterError, ServerExited, StartError, StartTimeout, UnsupportedError
from .fate import Unseen, describe_exit

if TYPE_CHECKING:
    from .._context import TaskContext
    from .._logs import TaskLog

__all__ = [
    "describe_exit",
    "died_starting",
    "exited",
    "hung",
    "never_ready",
    "no_python",
    "not_forked",
    "not_killed",
    "not_suspended",
    "raised",
    "start_failed",
    "start_timeout",
    "with_source",
]

TAIL = 20
"""How many lines of a task's log an error shows at most, besides a crash's stack."""

_TAIL_BYTES = 512 * 1024
_CRASH = "Fatal Python error: "
_CRASH_FRAMES = 20
_DUMP = re.compile(
    r"|\.\.\.|<[^>]+>|  .+|(Current thread|Thread|Python runtime state:|Extension modules:) .*"
)
"""The lines of a dump by :mod:`faulthandler`, after the first."""

_FRAME = re.compile(r'  File "(?P<file>.+)", line (?P<line>\d+) in (?P<name>.+)')


def exited(
    context: TaskContext,
    log: TaskLog | None,
    pid: int | None,
    code: int | None,
    doing: str = "",
    *,
    oom: str | None = None,
) -> ServerExited:
    """Return the error for a task that died.

    Args:
        context: the task.
        log: its log, whose last lines are the evidence; None where another error shows them.
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
        evidence=None if log is None else _words(code, pid) or _tail(log),
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


def died_starting(
    context: TaskContext,
    log: TaskLog,
    pid: int | None,
    code: int | None,
    what: str,
    doing: str,
    *,
    oom: str | None = None,
) -> StartError:
    """Return the error for a task that died before its cluster was up.

    Its cause is the ServerExited with the exit code. The last lines of the log are in the
    StartError alone: a red report shows both.
    """
    error = start_failed(context, log, pid, what, code)
    error.__cause__ = exited(context, None, pid, code, doing, oom=oom)
    return error


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


def not_killed(context: TaskContext, pid: int | None, seconds: float | None) -> ClusterError:
    """Return the error for a task that was sent SIGKILL, and whose end was not seen in time."""
    return ClusterError(
        f"{context.task} was not seen to end within {seconds:g} s of SIGKILL",
        remedy="look at /proc/PID/stack of the task, and whether its parent is stopped, which "
        "sends the signal and waits for the end",
        **_where(context, pid),
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


def raised(data: bytes, text: str) -> BaseException:
    """Return the exception that a task raised, or for want of it one that is called the same."""
    error = exceptions.load_exception(data, text)
    return exceptions.unknown_exception(text) if error is None else error


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
    lines = code.words.splitlines()[-TAIL:]
    marks = [line == "ready to import" or line.startswith("importing ") for line in lines]
    last = [] if pid is not None else lines[-1:]
    lines = [line for line, mark in zip(lines, marks, strict=True) if not mark] or last
    return "\n".join(["it printed last:", *lines]) if lines else None


def _tail(log: TaskLog) -> str | None:
    """Return the last lines of a log, in order; the stack of a crash among them is shortened."""
    text = log.since(max(log.begun, log.mark() - _TAIL_BYTES))
    start = text.rfind(_CRASH)
    dump, after = _split_dump(text[start:]) if start >= 0 else ([], text)
    after_lines = after.splitlines()[-TAIL:]
    left = TAIL - len(after_lines)
    lines = after_lines
    if start >= 0 and left > 0:  # later lines alone are the last ones otherwise
        lines = [*text[:start].splitlines()[-left:], *_shortened(dump), *after_lines]
    text = "\n".join(lines)
    return f"last log lines of {log.path}:\n{text}" if text.strip() else None


def _split_dump(text: str) -> tuple[list[str], str]:
    """Return the lines of the dump that a text begins with, and the text after it."""
    first, *rest = text.splitlines(keepends=True)
    count = next(
        (n for n, line in enumerate(rest) if not _DUMP.fullmatch(line.rstrip("\n"))), len(rest)
    )
    return [line.rstrip("\n") for line in (first, *rest[:count])], "".join(rest[count:])


def _shortened(dump: list[str]) -> list[str]:
    """Return the reason of a crash and the stack of the thread that crashed, with its source."""
    begin = next((n for n, line in enumerate(dump) if line.startswith("Current thread 0x")), None)
    if begin is None:
        return with_source("\n".join(dump[:_CRASH_FRAMES])).splitlines()
    stack = list(takewhile(bool, dump[begin:]))
    if len(stack) > _CRASH_FRAMES:
        stack = [*stack[:_CRASH_FRAMES], "  ..."]
    return [dump[0], *with_source("\n".join(stack)).splitlines()]
