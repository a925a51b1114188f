"""Real tasks of the native runtime, served by the test process itself."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from pytest_localcluster import ClusterSpec, ConfigProto, Session, Task, _channel, _context, _ports
from pytest_localcluster._context import TaskContext
from pytest_localcluster._proto.server_pb2 import ServerDef
from pytest_localcluster._runtimes import Assignment, Serving
from pytest_localcluster._runtimes.native import NativeRuntime


@dataclass
class Tasks:
    """Two workers and two ps that can be stopped and started one by one."""

    token: str = field(default_factory=lambda: secrets.token_hex(8))
    config: ConfigProto = field(default_factory=lambda: ConfigProto(device_count={"CPU": 2}))
    serving: dict[Task, Serving] = field(default_factory=dict)
    leases: dict[Task, _ports.PortLease] = field(default_factory=dict)

    @property
    def spec(self) -> ClusterSpec:
        addresses: dict[str, list[str]] = {}
        for task, lease in self.leases.items():
            addresses.setdefault(task.job, []).append(lease.address)
        return ClusterSpec(addresses)

    def target(self, job: str = "worker", index: int = 0) -> str:
        return f"grpc://{self.leases[Task(job, index)].address}"

    def start(self, task: Task) -> None:
        context = TaskContext(task, self.spec, self.target(task.job, task.index), {})
        server_def = ServerDef(
            cluster=self.spec.as_cluster_def(),
            job_name=task.job,
            task_index=task.index,
            default_session_config=self.config,
        )
        assignment = Assignment(context, server_def.SerializeToString(), self.token)
        self.leases[task].hand_over()
        self.serving[task] = NativeRuntime().serve(assignment)

    def stop(self, task: Task) -> None:
        self.serving.pop(task).stop()
        self.leases[task].take_back()

    def restart(self, task: Task) -> None:
        self.stop(task)
        self.start(task)
        _channel.renew_all(self.leases[task].address)
        for other, serving in self.serving.items():
            if other != task:
                serving.forget(task)


@pytest.fixture(scope="module")
def all_tasks() -> Iterator[Tasks]:
    with ExitStack() as undo:
        tasks = Tasks()
        for job in ("worker", "ps"):
            for index in range(2):
                lease = undo.enter_context(_ports.lease_port())
                tasks.leases[Task(job, index)] = lease
                _context.register_token(lease.address, tasks.token)
                undo.callback(_context.forget_token, lease.address)
                undo.callback(_channel.close_all, lease.address)
        for task in tasks.leases:
            tasks.start(task)
            undo.callback(tasks.stop, task)
        yield tasks


@pytest.fixture
def tasks(all_tasks: Tasks) -> Tasks:
    for serving in all_tasks.serving.values():
        serving.reset()
    return all_tasks


@pytest.fixture
def session(tasks: Tasks) -> Iterator[Session]:
    with Session(tasks.target()) as session:
        yield session
