"""A program as tasks may be: it serves at the port that it is given, and says so."""

from __future__ import annotations

import socket
import sys

with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    print("serving at port", sys.argv[1], flush=True)
    while True:
        connection, _ = server.accept()
        connection.close()
