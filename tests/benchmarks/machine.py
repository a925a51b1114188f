"""What the machine gives: the parts that every start is made of, without anything of ours.

Budgets are in milliseconds, and machines differ, also one from itself on another day: figures of
two runs compare if these do.
"""

from __future__ import annotations

import mmap
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from ._measure import Row, in_a_fork, per_call

PAGES = 2000


def bare(repeat: int) -> Iterator[Row]:
    """An interpreter, a gRPC server, a fork, and the pages that are copied after it."""
    interpreter = per_call(
        lambda: subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True), repeat
    )
    yield Row("bare: python -c ''", interpreter, laps=repeat)
    yield Row("bare: a gRPC server made, started, stopped", per_call(_serve, repeat), laps=repeat)
    yield Row("bare: fork and exit", per_call(_fork, repeat), laps=repeat)
    pages = mmap.mmap(-1, PAGES * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_NOHUGEPAGE)
    _touch(pages)
    copied = statistics.median(in_a_fork(lambda: _touch(pages)) for _ in range(repeat))
    yield Row("bare: a page copied after a fork", copied / PAGES * 1e6, "us", laps=repeat)
    pages.close()


def _serve() -> None:
    import grpc

    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
    server.add_insecure_port("127.0.0.1:0")
    server.start()
    server.stop(None).wait()


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _touch(pages: mmap.mmap) -> float:
    """Write to each page; return the seconds."""
    began = time.perf_counter()
    for offset in range(0, len(pages), mmap.PAGESIZE):
        pages[offset] = 1
    return time.perf_counter() - began
