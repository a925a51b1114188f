"""The two calls that we make to TensorFlow servers ourselves.

TensorFlow has one for both, ``tf.compat.v1.Session.reset``. It clears the state of all tasks while
their steps still run, which crashes them, and waits for ever for a task that is dead.
"""

from __future__ import annotations

import contextlib

import grpc

from ..._channel import open_channel
from ..._clock import grpc_timeout
from ..._proto.server_pb2 import ServerDef

__all__ = ["clear", "end_sessions"]

# How long a server may take to end what is under way: milliseconds will do, unless it is suspended,
# and then it is not to be waited for.
_PATIENCE = 1.0

# A ResetRequest whose device filter, the string that it numbers 2, matches no task that would be
# cleared. TensorFlow has no Python class of it, but any message that has a string there will do.
_NOBODY = ServerDef(job_name="/job:nobody").SerializeToString()


def end_sessions(address: str) -> None:
    """End all sessions of a server's master, and their steps; nothing happens if it is gone."""
    with contextlib.suppress(grpc.RpcError), open_channel(address, plain=True) as channel:
        channel.unary_unary("/tensorflow.MasterService/Reset")(
            _NOBODY, timeout=grpc_timeout(_PATIENCE)
        )


def clear(address: str) -> None:
    """Clear a server's variables and queues, which no step may be using any more.

    Raises:
        grpc.RpcError: it could not be asked.
    """
    with open_channel(address, plain=True) as channel:
        channel.unary_unary("/tensorflow.WorkerService/CleanupAll")(b"")
