"""The one call that we make to a TensorFlow server ourselves.

TensorFlow's client for it, ``tf.compat.v1.Session.reset``, cannot say which tasks are meant: it has
the server tell all the others, and would wait for ever for one that is dead.
"""

from __future__ import annotations

from ..._channel import open_channel
from ..._proto.server_pb2 import ServerDef

__all__ = ["reset"]


def reset(address: str, tasks: str, timeout: float | None = None) -> None:
    """Have a server close all sessions of its master, and clear some tasks' variables and queues.

    Args:
        address: that of the server, ``host:port``.
        tasks: the device filter for the tasks to clear, such as ``/job:ps/task:0``.
        timeout: how many seconds that may take.

    Raises:
        grpc.RpcError: it could not be asked.
    """
    # A ResetRequest with a device filter, which is the string that it numbers 2. TensorFlow has no
    # Python class of it, but any message that has a string there will do.
    request = ServerDef(job_name=tasks).SerializeToString()
    with open_channel(address) as channel:
        channel.unary_unary("/tensorflow.MasterService/Reset")(request, timeout=timeout)
