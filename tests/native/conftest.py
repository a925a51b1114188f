"""Clusters of native tasks inside the test's own process, spoken to through the generated stubs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grpc
import pytest

from pytest_localcluster._channel import open_channel, token_metadata
from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._context import TaskContext, current_task
from pytest_localcluster._ports import lease_ports
from pytest_localcluster._proto.config_pb2 import ConfigProto
from pytest_localcluster._proto.graph_pb2 import GraphDef, NamedValue, NodeDef, Value
from pytest_localcluster._proto.master_pb2 import (
    CloseSessionRequest,
    CreateSessionRequest,
    ExtendSessionRequest,
    RunStepRequest,
    RunStepResponse,
    SendTensorRequest,
)
from pytest_localcluster._proto.server_pb2 import ServerDef
from pytest_localcluster._proto.worker_pb2 import RecvTensorRequest
from pytest_localcluster._runtimes import Assignment
from pytest_localcluster._runtimes.native import RUNTIME
from pytest_localcluster._runtimes.native.server import NativeServer
from pytest_localcluster._spec import ClusterSpec, Task
from pytest_localcluster._tensors import (
    INLINE_LIMIT,
    chunks_of,
    size_of,
    value_from_chunks,
    value_from_proto,
    value_to_proto,
)
from tests.native.stubs import master_stub, worker_stub

TOKEN = "the token of these tests"
METADATA = token_metadata(TOKEN)


class Failed(Exception):
    """A step ended with a status."""

    def __init__(self, response: RunStepResponse) -> None:
        super().__init__(response.status.message)
        self.status = response.status
        self.code = response.status.code


class Cluster:
    """Tasks in threads of this process."""

    def __init__(
        self,
        jobs: Mapping[str, int],
        config: ConfigProto | None = None,
        configs: Mapping[str, ConfigProto] | None = None,
    ) -> None:
        self.leases = lease_ports(sum(jobs.values()))
        ports = iter(self.leases)
        self.spec = ClusterSpec(
            {job: [next(ports).address for _ in range(count)] for job, count in jobs.items()}
        )
        self.config = config
        self.configs = configs or {}
        self.servers: dict[str, NativeServer] = {}
        self._channels: dict[str, grpc.Channel] = {}
        for task in self.spec.tasks:
            self.start(str(task))

    def assignment(self, name: str, token: str = TOKEN) -> Assignment:
        task = Task.parse(name)
        definition = ServerDef(
            cluster=self.spec.as_cluster_def(),
            job_name=task.job,
            task_index=task.index,
            protocol="grpc",
            default_session_config=self.configs.get(name, self.config),
        )
        context = TaskContext(task, self.spec, f"grpc://{self.address(name)}", {})
        return Assignment(context, definition.SerializeToString(), token)

    def address(self, name: str) -> str:
        task = Task.parse(name)
        return self.spec.task_address(task.job, task.index)

    def start(self, name: str) -> NativeServer:
        server = RUNTIME.serve(self.assignment(name))
        assert isinstance(server, NativeServer)
        self.servers[name] = server
        return server

    def channel(self, name: str) -> grpc.Channel:
        if name not in self._channels:
            self._channels[name] = open_channel(self.address(name))
        return self._channels[name]

    def master(self, name: str = "/job:worker/task:0") -> Any:
        return master_stub(self.channel(name))

    def worker(self, name: str = "/job:worker/task:0") -> Any:
        return worker_stub(self.channel(name))

    def session(self, name: str = "/job:worker/task:0", **config: Any) -> Session:
        return Session(self, name, ConfigProto(**config) if config else None)

    def variables(self, name: str) -> dict[str, Any]:
        return dict(RUNTIME.variables(self.address(name), TOKEN, 10))

    def stop(self) -> None:
        for channel in self._channels.values():
            channel.close()
        try:
            for server in self.servers.values():
                server.stop()
        finally:
            for lease in self.leases:
                lease.release()


class Session:
    """A client as small as can be."""

    def __init__(self, cluster: Cluster, name: str, config: ConfigProto | None) -> None:
        self.master = cluster.master(name)
        self.worker = cluster.worker(name)
        self.handle: str = self.master.CreateSession(
            CreateSessionRequest(config=config), metadata=METADATA
        ).session_handle

    def add(self, *nodes: NodeDef) -> None:
        self.master.ExtendSession(
            ExtendSessionRequest(session_handle=self.handle, graph_def=GraphDef(node=nodes)),
            metadata=METADATA,
        )

    def send(self, key: str, value: Any, *, keep: bool = False) -> Value:
        messages = (
            SendTensorRequest(session_handle=self.handle, key=key, keep=keep, data=data)
            for data in chunks_of(value)
        )
        self.master.SendTensor(messages, metadata=METADATA)
        return Value(stored=key)

    def feed(self, name: str, value: Any) -> NamedValue:
        if size_of(value) > INLINE_LIMIT:
            return NamedValue(name=name, value=self.send(f"feed {name}", value))
        return NamedValue(name=name, value=value_to_proto(value))

    def request(
        self,
        fetches: Sequence[str] = (),
        feeds: Mapping[str, Any] | None = None,
        targets: Sequence[str] = (),
    ) -> RunStepRequest:
        return RunStepRequest(
            session_handle=self.handle,
            feed=[self.feed(name, value) for name, value in (feeds or {}).items()],
            fetch=fetches,
            target=targets,
        )

    def run(
        self,
        *fetches: str,
        feeds: Mapping[str, Any] | None = None,
        targets: Sequence[str] = (),
        timeout: float | None = 20,
    ) -> Any:
        """Run a step; return the value of the fetch, or a list of several."""
        request = self.request(fetches, feeds, targets)
        if timeout is not None:
            request.timeout_in_ms = int(timeout * 1000)
            timeout += 20  # as the client does, though not for as long: to hear what was not done
        response = self.master.RunStep(request, metadata=METADATA, timeout=timeout)
        if response.status.code:
            raise Failed(response)
        values = [self.value(response.step_id, value) for value in response.fetch]
        return values[0] if len(fetches) == 1 else values

    def value(self, step_id: int, value: Value) -> Any:
        if value.WhichOneof("kind") != "stored":
            return value_from_proto(value)
        request = RecvTensorRequest(step_id=step_id, key=value.stored)
        return value_from_chunks(self.worker.RecvTensor(request, metadata=METADATA))

    def close(self) -> None:
        self.master.CloseSession(CloseSessionRequest(session_handle=self.handle), metadata=METADATA)


def start(session: Session, *fetches: str, timeout: float | None = None) -> Any:
    """Start a step; return a function that waits for it and raises its failure."""
    future = session.master.RunStep.future(
        session.request(fetches), metadata=METADATA, timeout=timeout
    )

    def outcome() -> Any:
        response = future.result(timeout=10)
        if response.status.code:
            raise Failed(response)
        return response

    outcome.cancel = future.cancel  # type: ignore[attr-defined]  # a handle that is a function
    return outcome


def nothing_is_left(cluster: Cluster) -> bool:
    """Wait until no task holds anything of any step."""
    return poll(
        lambda: all(
            not len(server._steps) and not server._site.running
            for server in cluster.servers.values()
        ),
        Deadline(10),
    )


class Shared:
    """What operations and the test share: the tasks of these tests live in the test's process."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.reached = threading.Semaphore(0)
        self.opened = threading.Event()

    def wait_for_operation(self) -> None:
        assert self.reached.acquire(timeout=5), "no operation came to the gate"


def shared() -> Shared:
    """Return the test's; by this way also in functions, which come into a task by value."""
    found = sys.modules["tests.native.conftest"]._shared
    assert isinstance(found, Shared)
    return found


_shared: Shared | None = None


@pytest.fixture(autouse=True, name="shared")
def _fresh_shared() -> Iterator[Shared]:
    global _shared
    _shared = Shared()
    yield _shared
    _shared.opened.set()


def gate(*_: Any) -> int:
    """An operation that says that it runs, and ends when the test lets it."""
    here = shared()
    here.reached.release()
    assert here.opened.wait(20)
    return 1


def counted(name: str) -> Callable[..., int]:
    """An operation that notes each of its calls."""

    def count(*_: Any) -> int:
        shared().calls.append((name, str(current_task().task)))
        return 1

    return count


@pytest.fixture
def make_cluster() -> Iterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(workers: int = 1, ps: int = 1, **options: Any) -> Cluster:
        made.append(Cluster({"ps": ps, "worker": workers}, **options))
        return made[-1]

    yield make
    shared().opened.set()
    for cluster in made:
        cluster.stop()


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    return make_cluster(2, 2)
