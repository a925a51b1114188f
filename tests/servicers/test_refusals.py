"""What ServicerRuntime refuses, and what it says then; equality and reprs."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from pytest_localcluster import (
    ClusterConfig,
    ConfigProto,
    LocalCluster,
    ServicerRuntime,
    SpecError,
)
from pytest_localcluster._runtimes.servicers.registration import identity
from tests.servicers.services import add_echo

GENERATED = health_pb2_grpc.add_HealthServicer_to_server


def add(server: Any, task: Any) -> None:
    """Register nothing."""


def add_by_and_by(server: Any) -> Any:
    yield


def add_three(server: Any, task: Any, more: Any) -> None:
    """A function with a parameter that nobody fills."""


async def add_now_and_then(server: Any) -> Any:
    yield


@pytest.mark.parametrize(
    ("make", "message", "remedy"),
    [
        (lambda: ServicerRuntime(), "is given no job", "write ServicerRuntime(worker=...)"),
        (lambda: ServicerRuntime({}), "is given no job", "write ServicerRuntime(worker=...)"),
        (
            lambda: ServicerRuntime(add),  # type: ignore[arg-type]
            "ServicerRuntime takes a mapping from job to functions, not <function add",
            "write ServicerRuntime(worker=...), or ServicerRuntime({'worker': ...})",
        ),
        (
            lambda: ServicerRuntime({"ps": add}, ps=add),
            "is given job 'ps' twice, in the mapping and by keyword",
            "list its functions in one of the two",
        ),
        (lambda: ServicerRuntime({"a b": add}), "'a b'", ""),
        (
            lambda: ServicerRuntime(health=add),  # type: ignore[arg-type]
            "health is True or False, not <function add",
            "put a job called 'health' in the mapping",
        ),
        (
            lambda: ServicerRuntime(ps=add, token=add),  # type: ignore[arg-type]
            "token is True or False, not <function add",
            "put a job called 'token' in the mapping: {'token': ...}",
        ),
        (
            lambda: ServicerRuntime(ps=[]),
            "is given an empty list for job 'ps'",
            "lambda server: None",
        ),
        (
            lambda: ServicerRuntime(ps=[add, None]),  # type: ignore[list-item]
            "for job 'ps' ServicerRuntime takes functions, not None",
            (
                "pass a function add(server, task) that registers your services, such as "
                "functools.partial(add_GreeterServicer_to_server, Greeter())"
            ),
        ),
        (
            lambda: ServicerRuntime(ps=HealthServicer()),
            "for job 'ps' ServicerRuntime takes functions, not <grpc_health",
            "pass a function add(server, task)",
        ),
        (
            lambda: ServicerRuntime(ps=GENERATED),
            (
                "add_HealthServicer_to_server, for job 'ps', is called with a servicer too, "
                "and is given none"
            ),
            "write functools.partial(add_HealthServicer_to_server, Health()), with your own Health",
        ),
        (
            lambda: ServicerRuntime(ps=functools.partial(GENERATED, HealthServicer)),
            (
                "partial(add_HealthServicer_to_server, ...), for job 'ps', is given the class "
                "HealthServicer, not a servicer"
            ),
            "write functools.partial(add_HealthServicer_to_server, HealthServicer())",
        ),
        (
            lambda: ServicerRuntime(ps=add_by_and_by),
            "add_by_and_by, for job 'ps', is a generator function, which would never run",
            "have it register the services and return",
        ),
        (
            lambda: ServicerRuntime(ps=add_now_and_then),
            "add_now_and_then, for job 'ps', is a generator function, which would never run",
            "have it register the services and return",
        ),
        (
            lambda: ServicerRuntime(ps=add_three),
            (
                "add_three, for job 'ps', cannot be called as add(server, task), "
                "nor as add(server): its parameters are (server: "
            ),
            "pass a function add(server, task)",
        ),
        (
            lambda: ServicerRuntime(ps=lambda: None),
            "<lambda>, for job 'ps', cannot be called as add(server, task)",
            "pass a function add(server, task)",
        ),
    ],
)
def test_what_no_runtime_can_be_made_of(
    make: Callable[[], object], message: str, remedy: str
) -> None:
    with pytest.raises(SpecError, match=re.escape(message)) as caught:
        make()
    assert remedy in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("runtime", "fields", "message", "remedy"),
    [
        (
            ServicerRuntime(ps=add),
            {"workers": 1},
            "ServicerRuntime has no function for the tasks of job 'worker'; it has some for 'ps'",
            (
                "write ServicerRuntime(worker=...), ask for no tasks of that job, or give it "
                'another runtime: runtime={"worker": "native", ...}'
            ),
        ),
        (
            ServicerRuntime(worker=add, cheif=add),
            {"jobs": {"chief": 1}, "ps": 0},
            "no function for the tasks of job 'chief'; it has some for 'worker', 'cheif'",
            "is 'cheif' a slip? write ServicerRuntime(chief=...)",
        ),
        (
            {"worker": "native", "ps": ServicerRuntime(worker=add)},
            {},
            "no function for the tasks of job 'ps'",
            "write ServicerRuntime(ps=...)",
        ),
        (
            ServicerRuntime(worker=add, ps=add),
            {"ps_config": ConfigProto()},
            "ps_config is given, and nothing would read it: ServicerRuntime serves job 'ps'",
            "hand your functions what they need to know, or use env=",
        ),
    ],
)
def test_what_no_cluster_can_be_made_of(
    runtime: Any, fields: dict[str, Any], message: str, remedy: str
) -> None:
    with pytest.raises(SpecError, match=re.escape(message)) as caught:
        LocalCluster(runtime=runtime, **fields)
    assert remedy in (caught.value.remedy or "")


def test_jobs_without_tasks_need_no_functions() -> None:
    LocalCluster(runtime=ServicerRuntime(ps=add), workers=0, ps=1)
    LocalCluster(runtime=ServicerRuntime(ps=add), workers=0, ps=0)
    native = {"worker": "native", "ps": ServicerRuntime(ps=add)}
    LocalCluster(runtime=native, worker_config=ConfigProto())


class Locked(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc has no types
    def __init__(self) -> None:
        self.lock = threading.Lock()


def test_a_servicer_that_cannot_go_into_a_process() -> None:
    runtime = ServicerRuntime(ps=functools.partial(GENERATED, Locked()))
    with pytest.raises(SpecError) as caught:
        LocalCluster(runtime=runtime, workers=0)
    assert str(caught.value) == (
        "partial(add_HealthServicer_to_server, ...), for job 'ps', cannot go into a task: "
        "it does not pickle\n"
        "  | TypeError: cannot pickle '_thread.lock' object\n"
        "  To fix this: make the servicer in the task: "
        "def add(server): add_GreeterServicer_to_server(Greeter(), server)"
    )
    with LocalCluster(runtime=runtime, workers=0, launcher="thread"):
        """A thread needs no pickle."""


def test_equality() -> None:
    servicer = HealthServicer()
    partial = functools.partial(GENERATED, servicer)
    same = [
        ServicerRuntime(worker=[add], ps=partial),
        ServicerRuntime({"ps": (functools.partial(GENERATED, servicer),)}, worker=add),
    ]
    assert same[0] == same[1]
    assert hash(same[0]) == hash(same[1])
    assert ClusterConfig(runtime=same[0]) == ClusterConfig(runtime=same[1])
    others = [
        ServicerRuntime(worker=add, ps=functools.partial(GENERATED, HealthServicer())),
        ServicerRuntime(worker=add),
        ServicerRuntime(worker=[add, add], ps=partial),
        ServicerRuntime(worker=add, ps=partial, token=True),
        ServicerRuntime(worker=add, ps=partial, health=False),
    ]
    assert same[0] not in others
    assert same[0] != "native"
    assert identity(functools.partial(add, task=servicer)) != identity(functools.partial(add))


def test_reprs() -> None:
    partial = functools.partial(GENERATED, HealthServicer())
    assert repr(ServicerRuntime(worker=add, ps=[partial, lambda server: None], token=True)) == (
        "ServicerRuntime(worker=add, "
        "ps=[partial(add_HealthServicer_to_server, ...), <lambda>], token=True)"
    )
    named = ServicerRuntime({"health": add, "ps": AsyncNot()}, health=False)
    assert repr(named) == "ServicerRuntime({'health': add, 'ps': AsyncNot}, health=False)"


class AsyncNot:
    def __call__(self, server: Any) -> None:
        add_echo(server)
