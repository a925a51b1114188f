from pytest_localcluster._proto import config_pb2 as _config_pb2
from pytest_localcluster._proto import device_pb2 as _device_pb2
from pytest_localcluster._proto import graph_pb2 as _graph_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateSessionRequest(_message.Message):
    __slots__ = ("graph_def", "config")
    GRAPH_DEF_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    graph_def: _graph_pb2.GraphDef
    config: _config_pb2.ConfigProto
    def __init__(self, graph_def: _Optional[_Union[_graph_pb2.GraphDef, _Mapping[str, object]]] = ..., config: _Optional[_Union[_config_pb2.ConfigProto, _Mapping[str, object]]] = ...) -> None: ...

class CreateSessionResponse(_message.Message):
    __slots__ = ("session_handle",)
    SESSION_HANDLE_FIELD_NUMBER: _ClassVar[int]
    session_handle: str
    def __init__(self, session_handle: _Optional[str] = ...) -> None: ...

class ExtendSessionRequest(_message.Message):
    __slots__ = ("session_handle", "graph_def")
    SESSION_HANDLE_FIELD_NUMBER: _ClassVar[int]
    GRAPH_DEF_FIELD_NUMBER: _ClassVar[int]
    session_handle: str
    graph_def: _graph_pb2.GraphDef
    def __init__(self, session_handle: _Optional[str] = ..., graph_def: _Optional[_Union[_graph_pb2.GraphDef, _Mapping[str, object]]] = ...) -> None: ...

class ExtendSessionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SendTensorRequest(_message.Message):
    __slots__ = ("session_handle", "key", "keep", "data")
    SESSION_HANDLE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    session_handle: str
    key: str
    keep: bool
    data: _graph_pb2.ValueChunk
    def __init__(self, session_handle: _Optional[str] = ..., key: _Optional[str] = ..., keep: bool = ..., data: _Optional[_Union[_graph_pb2.ValueChunk, _Mapping[str, object]]] = ...) -> None: ...

class SendTensorResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RunStepRequest(_message.Message):
    __slots__ = ("session_handle", "feed", "fetch", "target", "timeout_in_ms")
    SESSION_HANDLE_FIELD_NUMBER: _ClassVar[int]
    FEED_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_IN_MS_FIELD_NUMBER: _ClassVar[int]
    session_handle: str
    feed: _containers.RepeatedCompositeFieldContainer[_graph_pb2.NamedValue]
    fetch: _containers.RepeatedScalarFieldContainer[str]
    target: _containers.RepeatedScalarFieldContainer[str]
    timeout_in_ms: int
    def __init__(self, session_handle: _Optional[str] = ..., feed: _Optional[_Iterable[_Union[_graph_pb2.NamedValue, _Mapping[str, object]]]] = ..., fetch: _Optional[_Iterable[str]] = ..., target: _Optional[_Iterable[str]] = ..., timeout_in_ms: _Optional[int] = ...) -> None: ...

class RunStepResponse(_message.Message):
    __slots__ = ("fetch", "status", "step_id")
    FETCH_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    fetch: _containers.RepeatedCompositeFieldContainer[_graph_pb2.Value]
    status: _graph_pb2.Status
    step_id: int
    def __init__(self, fetch: _Optional[_Iterable[_Union[_graph_pb2.Value, _Mapping[str, object]]]] = ..., status: _Optional[_Union[_graph_pb2.Status, _Mapping[str, object]]] = ..., step_id: _Optional[int] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ("session_handle",)
    SESSION_HANDLE_FIELD_NUMBER: _ClassVar[int]
    session_handle: str
    def __init__(self, session_handle: _Optional[str] = ...) -> None: ...

class CloseSessionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDevicesRequest(_message.Message):
    __slots__ = ("session_handle",)
    SESSION_HANDLE_FIELD_NUMBER: _ClassVar[int]
    session_handle: str
    def __init__(self, session_handle: _Optional[str] = ...) -> None: ...

class ListDevicesResponse(_message.Message):
    __slots__ = ("local_device", "remote_device")
    LOCAL_DEVICE_FIELD_NUMBER: _ClassVar[int]
    REMOTE_DEVICE_FIELD_NUMBER: _ClassVar[int]
    local_device: _containers.RepeatedCompositeFieldContainer[_device_pb2.DeviceAttributes]
    remote_device: _containers.RepeatedCompositeFieldContainer[_device_pb2.DeviceAttributes]
    def __init__(self, local_device: _Optional[_Iterable[_Union[_device_pb2.DeviceAttributes, _Mapping[str, object]]]] = ..., remote_device: _Optional[_Iterable[_Union[_device_pb2.DeviceAttributes, _Mapping[str, object]]]] = ...) -> None: ...

class ResetRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResetResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
