"""Reading a task's variables from outside, for ``Server.variables()``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc

from ..._channel import open_channel, token_metadata
from ..._clock import grpc_timeout
from ..._proto.worker_pb2 import ReadVariablesRequest, ReadVariablesResponse
from ..._proto.worker_pb2_grpc import WorkerServiceStub
from ..._tensors import value_from_chunks
from .statuses import error_of

if TYPE_CHECKING:
    from ..._proto.graph_pb2 import ValueChunk

__all__ = ["read_variables"]


def read_variables(address: str, token: str, timeout: float | None) -> dict[str, Any]:
    """Return the variables of the task at ``address``, by name.

    Raises:
        OpError: the task could not be asked, or not within ``timeout`` seconds.
    """
    with open_channel(address) as channel:
        stub: Any = WorkerServiceStub(channel)  # type: ignore[no-untyped-call]
        stream = stub.ReadVariables(
            ReadVariablesRequest(), timeout=grpc_timeout(timeout), metadata=token_metadata(token)
        )
        try:
            return dict(_variables(stream))
        except grpc.RpcError as error:
            raise error_of(error, f"the task at {address}") from None


def _variables(stream: Iterator[ReadVariablesResponse]) -> Iterator[tuple[str, Any]]:
    message = next(stream, None)
    while message is not None:
        name, after = message.name, None

        def data(first: ReadVariablesResponse = message) -> Iterator[ValueChunk]:
            nonlocal after
            yield first.data
            for later in stream:
                if later.name:  # the next variable's first
                    after = later
                    return
                yield later.data

        yield name, value_from_chunks(data())
        message = after
