"""Calls of several tasks at once."""

from __future__ import annotations

import threading
import warnings
from collections import UserDict
from concurrent.futures import Future
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pytest_localcluster import _warned
from pytest_localcluster._results import Result, gather

if TYPE_CHECKING:
    from collections.abc import ValuesView


class _Futures(UserDict[Any, Future[None]]):
    """Notes the begin of a wait for all of them."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.awaited = threading.Event()

    def values(self) -> ValuesView[Future[None]]:
        self.awaited.set()
        return super().values()


def test_alike_warnings_are_shown_once_however_far_apart_the_answers_are() -> None:
    sources: list[Future[None]] = [Future(), Future()]
    life: Any = SimpleNamespace()
    futures = _Futures({index: Result(source, life) for index, source in enumerate(sources)})

    def answer(index: int) -> None:
        kept = _warned.keep(UserWarning("alike"), UserWarning, __file__, 1)
        _warned.receive(f"/job:worker/task:{index}", [kept])
        sources[index].set_result(None)

    def answer_late() -> None:
        futures.awaited.wait(30)
        answer(1)

    answer(0)
    late = threading.Thread(target=answer_late)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        late.start()
        assert gather(futures, 30) == [None, None]
    late.join()
    assert [str(warning.message) for warning in seen] == ["alike"]
