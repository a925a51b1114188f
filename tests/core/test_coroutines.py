"""Kinds of functions: awaited, refused, or plain."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from pytest_localcluster._core import coroutines
from pytest_localcluster._core.coroutines import GeneratorError


async def coroutine() -> int:
    return 1


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Holder:
    def __init__(self, function: Any = None) -> None:
        self.function = function

    @property
    def numbers(self) -> Iterator[int]:
        yield 1

    def __iter__(self) -> Iterator[int]:
        yield 1


def test_plain_functions_pass() -> None:
    mocks: list[Any] = [MagicMock(), AsyncMock()]
    for function in (int, len, Holder, *mocks, functools.partial(int, "3"), [].append, sys.exit):
        coroutines.check(function)


def test_results_are_what_they_are() -> None:
    holder, mock = Holder(), MagicMock()
    assert coroutines.call(Holder, (), {}).__class__ is Holder
    assert coroutines.call(lambda: holder, (), {}) is holder
    assert coroutines.call(lambda: mock, (), {}) is mock, "a mock has every method but __await__"
    assert coroutines.call(AsyncMock(return_value=3), (), {}) == 3
    assert coroutines.call(lambda: coroutine, (), {}) is coroutine, "a function is no coroutine"


@pytest.mark.parametrize("function", [generator, async_generator])
def test_a_name_and_a_remedy_are_told(function: Any) -> None:
    for form in (function, functools.partial(function)):
        with pytest.raises(GeneratorError, match=f"{function.__name__} is an? .*generator func"):
            coroutines.check(form)


def test_plain_functions_do_not_pay_for_asyncio() -> None:
    import subprocess

    code = (
        "import sys; from pytest_localcluster._core import coroutines; "
        "coroutines.call(int, ('3',), {}); print('asyncio' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
