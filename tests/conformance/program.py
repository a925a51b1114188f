"""A program as tasks may be: it serves where it is told to, and says so."""

from __future__ import annotations

import socket
import sys

*given, port = sys.argv[1:]
host = given[0] if given else "127.0.0.1"
with socket.create_server((host, int(port))) as server:
    print("serving at port", port, flush=True)
    while True:
        connection, _ = server.accept()
        connection.close()
