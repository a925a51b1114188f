"""On what a run was made: the machine and the releases, and nothing by which one finds it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

OURS = ("pytest-localcluster", "grpcio", "protobuf", "numpy", "pytest", "pytest-xdist")
PEERS = ("tensorflow", "tensorflow-cpu", "distributed", "ray", "torch")


def host(peers: str = "") -> dict[str, str]:
    """Return name and value of each fact; ``peers`` is an interpreter that has them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {
        "CPU": _line("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": str(cores),
        "memory": f"{_memory():.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    facts |= versions(OURS)
    if peers:
        code = (
            "import json, sys; sys.path.insert(0, '.');"
            f"from tests.benchmarks._host import versions; print(json.dumps(versions({PEERS!r})))"
        )
        done = subprocess.run([peers, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            facts |= json.loads(done.stdout)
    return facts


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Return the releases of those that are installed here."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _line(path: str, name: str) -> str | None:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError:
        return None
    values = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for key, _, value in values if key.strip() == name), None)
