from pytest_localcluster._proto import device_pb2 as _device_pb2
from pytest_localcluster._proto import graph_pb2 as _graph_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("device_attributes",)
    DEVICE_ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    device_attributes: _containers.RepeatedCompositeFieldContainer[_device_pb2.DeviceAttributes]
    def __init__(self, device_attributes: _Optional[_Iterable[_Union[_device_pb2.DeviceAttributes, _Mapping[str, object]]]] = ...) -> None: ...

class RegisterGraphRequest(_message.Message):
    __slots__ = ("session_handle", "graph_def", "send", "fetch", "recv", "container", "log_device_placement", "allow_soft_placement", "master", "feed")
    class RecvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SESSION_HANDLE_FIELD_NUMBER: _ClassVar[int]
    GRAPH_DEF_FIELD_NUMBER: _ClassVar[int]
    SEND_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    RECV_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    LOG_DEVICE_PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    ALLOW_SOFT_PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    MASTER_FIELD_NUMBER: _ClassVar[int]
    FEED_FIELD_NUMBER: _ClassVar[int]
    session_handle: str
    graph_def: _graph_pb2.GraphDef
    send: _containers.RepeatedScalarFieldContainer[str]
    fetch: _containers.RepeatedScalarFieldContainer[str]
    recv: _containers.ScalarMap[str, str]
    container: str
    log_device_placement: bool
    allow_soft_placement: bool
    master: str
    feed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, session_handle: _Optional[str] = ..., graph_def: _Optional[_Union[_graph_pb2.GraphDef, _Mapping[str, object]]] = ..., send: _Optional[_Iterable[str]] = ..., fetch: _Optional[_Iterable[str]] = ..., recv: _Optional[_Mapping[str, str]] = ..., container: _Optional[str] = ..., log_device_placement: bool = ..., allow_soft_placement: bool = ..., master: _Optional[str] = ..., feed: _Optional[_Iterable[str]] = ...) -> None: ...

class RegisterGraphResponse(_message.Message):
    __slots__ = ("graph_handle", "status")
    GRAPH_HANDLE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    graph_handle: str
    status: _graph_pb2.Status
    def __init__(self, graph_handle: _Optional[str] = ..., status: _Optional[_Union[_graph_pb2.Status, _Mapping[str, object]]] = ...) -> None: ...

class DeregisterGraphRequest(_message.Message):
    __slots__ = ("graph_handle", "session_handle")
    GRAPH_HANDLE_FIELD_NUMBER: _ClassVar[int]
    SESSION_HANDLE_FIELD_NUMBER: _ClassVar[int]
    graph_handle: str
    session_handle: str
    def __init__(self, graph_handle: _Optional[str] = ..., session_handle: _Optional[str] = ...) -> None: ...

class DeregisterGraphResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RunGraphRequest(_message.Message):
    __slots__ = ("graph_handle", "step_id", "feed", "wait_in_ms")
    GRAPH_HANDLE_FIELD_NUMBER: _ClassVar[int]
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    FEED_FIELD_NUMBER: _ClassVar[int]
    WAIT_IN_MS_FIELD_NUMBER: _ClassVar[int]
    graph_handle: str
    step_id: int
    feed: _containers.RepeatedCompositeFieldContainer[_graph_pb2.NamedValue]
    wait_in_ms: int
    def __init__(self, graph_handle: _Optional[str] = ..., step_id: _Optional[int] = ..., feed: _Optional[_Iterable[_Union[_graph_pb2.NamedValue, _Mapping[str, object]]]] = ..., wait_in_ms: _Optional[int] = ...) -> None: ...

class RunGraphResponse(_message.Message):
    __slots__ = ("fetch", "status", "unknown_graph")
    FETCH_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_GRAPH_FIELD_NUMBER: _ClassVar[int]
    fetch: _containers.RepeatedCompositeFieldContainer[_graph_pb2.Value]
    status: _graph_pb2.Status
    unknown_graph: bool
    def __init__(self, fetch: _Optional[_Iterable[_Union[_graph_pb2.Value, _Mapping[str, object]]]] = ..., status: _Optional[_Union[_graph_pb2.Status, _Mapping[str, object]]] = ..., unknown_graph: bool = ...) -> None: ...

class CleanupGraphRequest(_message.Message):
    __slots__ = ("step_id", "status")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    step_id: int
    status: _graph_pb2.Status
    def __init__(self, step_id: _Optional[int] = ..., status: _Optional[_Union[_graph_pb2.Status, _Mapping[str, object]]] = ...) -> None: ...

class CleanupGraphResponse(_message.Message):
    __slots__ = ("running",)
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    running: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, running: _Optional[_Iterable[str]] = ...) -> None: ...

class RecvTensorRequest(_message.Message):
    __slots__ = ("step_id", "key", "wait_in_ms")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    WAIT_IN_MS_FIELD_NUMBER: _ClassVar[int]
    step_id: int
    key: str
    wait_in_ms: int
    def __init__(self, step_id: _Optional[int] = ..., key: _Optional[str] = ..., wait_in_ms: _Optional[int] = ...) -> None: ...

class PullTensorResponse(_message.Message):
    __slots__ = ("value", "status")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    value: _graph_pb2.Value
    status: _graph_pb2.Status
    def __init__(self, value: _Optional[_Union[_graph_pb2.Value, _Mapping[str, object]]] = ..., status: _Optional[_Union[_graph_pb2.Status, _Mapping[str, object]]] = ...) -> None: ...

class ReadVariablesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReadVariablesResponse(_message.Message):
    __slots__ = ("name", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    data: _graph_pb2.ValueChunk
    def __init__(self, name: _Optional[str] = ..., data: _Optional[_Union[_graph_pb2.ValueChunk, _Mapping[str, object]]] = ...) -> None: ...

class CleanupAllRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CleanupAllResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
