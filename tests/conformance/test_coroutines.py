"""Coroutine functions in tasks are awaited there; generators are refused."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import types
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest

from pytest_localcluster import LocalCluster, ServerExited, SpecError, current_task
from tests.conformance.conftest import PROCESSES

pytestmark = pytest.mark.usefixtures("python")


async def step(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


class Steps:
    async def method(self, x: int) -> int:
        return await step(x)

    async def __call__(self, x: int) -> int:
        return await step(x)

    @classmethod
    async def of_class(cls, x: int) -> int:
        return await step(x)

    @staticmethod
    async def static(x: int) -> int:
        return await step(x)


class Awaited:
    def __init__(self, x: int) -> None:
        self.x = x

    def __await__(self) -> Generator[Any, Any, int]:
        return step(self.x).__await__()


def traced(function: Callable[[int], Any]) -> Callable[[int], Any]:
    @functools.wraps(function)
    def wrapper(x: int) -> Any:
        return function(x)

    return wrapper


@types.coroutine
def of_a_generator(x: int) -> Generator[None, None, int]:
    yield
    return x + 1


FORMS: list[Callable[[int], Any]] = [
    step,
    Steps().method,
    Steps(),
    Steps.of_class,
    Steps.static,
    traced(step),
    functools.partial(functools.partial(Steps().method)),
    lambda x: step(x),
    of_a_generator,
]


def test_every_form_is_awaited(cluster: LocalCluster) -> None:
    assert cluster.run(step, 1) == [2, 2]
    assert [cluster.ps[0].run(form, n) for n, form in enumerate(FORMS)] == [
        *range(1, len(FORMS) + 1)
    ]
    assert cluster.ps[0].submit(step, x=5).result(30) == 6


def test_other_objects_that_can_be_awaited_are_values(cluster: LocalCluster) -> None:
    """Such as a future of Dask, whose user does not expect its result."""
    values = [*cluster.run(Awaited, 3), *cluster.run(lambda: Awaited(4))]
    assert [(type(value), value.x) for value in values] == [(Awaited, x) for x in (3, 3, 4, 4)]


def test_the_context_of_the_task_is_there(cluster: LocalCluster) -> None:
    async def who() -> list[str]:
        def look() -> str:
            return str(current_task().task)

        tasks = asyncio.create_task(asyncio.sleep(0, look())), asyncio.to_thread(look)
        return [look(), *await asyncio.gather(*tasks)]

    assert cluster.run(who) == [[f"/job:worker/task:{n}"] * 3 for n in range(2)]


def test_a_call_leaves_nothing_behind(cluster: LocalCluster) -> None:
    async def values(notes: list[str]) -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            notes.append("generator closed")

    async def wait(notes: list[str]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            notes.append("task cancelled")

    async def leave(notes: list[str]) -> int:
        kept = asyncio.create_task(wait(notes)), values(notes)
        asyncio.__dict__["kept_by_a_test"] = kept, notes  # a module that both calls have
        await asyncio.sleep(0)
        return await anext(kept[1])

    def look() -> list[str]:
        notes: list[str] = asyncio.__dict__.pop("kept_by_a_test")[1]
        return sorted(notes)

    worker = cluster.workers[0]
    assert worker.run(leave, []) == 1
    assert worker.run(look) == ["generator closed", "task cancelled"]


def test_what_it_raises(cluster: LocalCluster, launcher: str) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError("no such step")

    async def cancel() -> None:
        raise asyncio.CancelledError("enough")

    with pytest.raises(LookupError, match="no such step") as caught:
        cluster.ps[0].run(fail)
    if launcher != "thread":
        text = str(caught.value.__cause__)
        assert 'raise LookupError("no such step")' in text
        assert "run_until_complete" not in text, "how it was called is no news"
    with pytest.raises(asyncio.CancelledError, match="enough"):
        cluster.ps[0].run(cancel)
    assert cluster.ps[0].run(step, 1) == 2


def test_a_task_may_run_a_loop_itself(cluster: LocalCluster) -> None:
    assert cluster.ps[0].run(lambda: asyncio.run(step(1))) == 2


def test_results_can_be_awaited(cluster: LocalCluster) -> None:
    async def fail() -> None:
        raise LookupError("no such step")

    async def main() -> list[int]:
        calls = [server.submit(step, n) for n, server in enumerate(cluster.servers)]
        results = await asyncio.gather(*map(asyncio.wrap_future, calls))
        with pytest.raises(LookupError, match="no such step"):
            await asyncio.wrap_future(cluster.ps[0].submit(fail))
        return results

    assert asyncio.run(main()) == [1, 2, 3]


def numbers() -> Iterator[int]:
    yield 1


async def numbers_to_await() -> AsyncIterator[int]:
    yield 1


class Numbers:
    def method(self) -> Iterator[int]:
        yield 1

    def __call__(self) -> Iterator[int]:
        yield 1


async def a_generator() -> Iterator[int]:
    return numbers()


def collected(function: Callable[[], Iterator[int]]) -> Callable[[], list[int]]:
    @functools.wraps(function)
    def wrapper() -> list[int]:
        return list(function())

    return wrapper


BEFORE: list[Callable[[], Any]] = [
    numbers,
    numbers_to_await,
    Numbers().method,
    Numbers(),
    functools.partial(numbers),
]
AFTER: list[Callable[[], Any]] = [
    lambda: numbers(),
    lambda: (n for n in [1]),
    lambda: numbers_to_await(),
    a_generator,
]


def test_generators_are_refused(cluster: LocalCluster) -> None:
    worker = cluster.workers[0]
    for function in BEFORE:
        with pytest.raises(SpecError, match="generator function, of which a call runs nothing"):
            worker.submit(function)
        with pytest.raises(TypeError, match=r"To fix this: collect its values .*(list|async for)"):
            cluster.run(function)
    for returns in AFTER:
        with pytest.raises(TypeError, match="returned an? (async )?generator") as caught:
            worker.run(returns)
        assert "To fix this: collect its values in the task: return " in str(caught.value)
    assert worker.run(collected(numbers)) == [1]
    assert worker.run(lambda: list(numbers())) == [1]


@pytest.mark.parametrize("launcher", PROCESSES, indirect=True)
class TestProcesses:
    def test_an_exit_ends_the_task(self, cluster: LocalCluster) -> None:
        async def leave() -> None:
            await asyncio.sleep(0)
            raise SystemExit(4)

        with pytest.raises(ServerExited, match="exited with status 4"):
            cluster.ps[0].run(leave)

    def test_an_interrupt_ends_the_task(self, cluster: LocalCluster) -> None:
        async def interrupt() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()

        with pytest.raises(ServerExited, match="exited with status 1") as caught:
            cluster.ps[0].run(interrupt)
        assert "KeyboardInterrupt" in str(caught.value)

    def test_one_that_waits_is_stopped(self, cluster: LocalCluster) -> None:
        async def wait() -> None:
            await asyncio.Event().wait()

        waiting = cluster.ps[0].submit(wait)
        with pytest.raises(TimeoutError, match="/job:worker/task:0 .* has not finished"):
            cluster.workers[0].run(wait, timeout=0.1)
        cluster.stop()
        assert isinstance(waiting.exception(30), ServerExited)
