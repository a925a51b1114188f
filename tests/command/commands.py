"""Commands for tasks, made of what every machine has."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parents[1] / "conformance/program.py"
SERVE: list[Any] = [sys.executable, "-S", PROGRAM, "{port}"]


def shell(line: str, *more: str) -> list[str]:
    """Return a command that says ``line`` and stays."""
    return ["sh", "-c", f"{line}; exec sleep 1000", *more]


def said(text: str = "done") -> re.Pattern[str]:
    return re.compile(text)


HEALTHY = """
import sys
from concurrent.futures import ThreadPoolExecutor
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
servicer = health.HealthServicer()
server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
"""
