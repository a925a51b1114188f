"""Stubs to whose every method a test sends one request, also where a stream could take more."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from pytest_localcluster._proto import master_pb2, worker_pb2
from pytest_localcluster._proto.master_pb2_grpc import MasterServiceStub
from pytest_localcluster._proto.worker_pb2_grpc import WorkerServiceStub

__all__ = ["master_stub", "worker_stub"]


def master_stub(channel: grpc.Channel) -> Any:
    stub: Any = MasterServiceStub(channel)  # type: ignore[no-untyped-call]
    return _single(stub, channel, master_pb2.DESCRIPTOR.services_by_name["MasterService"])


def worker_stub(channel: grpc.Channel) -> Any:
    stub: Any = WorkerServiceStub(channel)  # type: ignore[no-untyped-call]
    return _single(stub, channel, worker_pb2.DESCRIPTOR.services_by_name["WorkerService"])


def _single(stub: Any, channel: grpc.Channel, service: Any) -> Any:
    for method in service.methods:
        if method.client_streaming and method.server_streaming:
            # On the wire a call with one message is a stream of one.
            call = channel.unary_unary(
                f"/{service.full_name}/{method.name}",
                request_serializer=GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
            setattr(stub, method.name, call)
    return stub
