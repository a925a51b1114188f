"""What goes into a task by value, and that it comes back as what it was."""

from __future__ import annotations

import enum
import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from pytest_localcluster._core import exceptions, pickling
from pytest_localcluster.errors import RemoteTraceback


@dataclass
class Point:
    x: int
    y: int


class Colour(enum.Enum):
    RED = 1


class Complaint(Exception):
    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


OFFSET = 10


def add_offset(value: int) -> int:
    return value + OFFSET


def elsewhere(function: Any, *args: Any) -> Any:
    """Run ``function`` in an interpreter that cannot import this module, as in a task."""
    code = (
        "import sys\n"
        "from pytest_localcluster._core import exceptions, pickling\n"
        "function, args = pickling.loads(sys.stdin.buffer.read())\n"
        "try: answer = True, pickling.dumps_back(function(*args))\n"
        "except Exception as error: answer = False, exceptions.dump_exception(error)\n"
        "sys.stdout.buffer.write(pickling.dumps_back(answer))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickling.dumps((function, args)),
        stdout=subprocess.PIPE,
        check=True,
    )
    well, answer = pickling.loads(done.stdout)
    if not well:
        error = exceptions.load_exception(*answer)
        assert error is not None, answer
        raise error
    return pickling.loads(answer)


def test_functions_of_a_test_module_go_by_value() -> None:
    assert elsewhere(add_offset, 1) == 11
    assert elsewhere(functools.partial(add_offset, 2)) == 12


def test_lambdas_and_closures_go() -> None:
    base = 5
    assert elsewhere(lambda x: x + base, 1) == 6


def test_instances_of_a_test_modules_class_stay_its_instances() -> None:
    point = elsewhere(lambda p: Point(p.y, p.x), Point(1, 2))
    assert type(point) is Point
    assert point == Point(2, 1)
    assert elsewhere(lambda: Colour.RED) is Colour.RED


def test_a_local_class_stays_the_same_class() -> None:
    class Local:
        def __init__(self, value: int) -> None:
            self.value = value

        def double(self) -> int:
            return 2 * self.value

    back = elsewhere(lambda x: [x, Local(x.value + 1)], Local(3))
    assert [type(item) for item in back] == [Local, Local]
    assert [item.double() for item in back] == [6, 8]


def test_the_class_here_is_not_touched_by_what_comes_back() -> None:
    before = dict(vars(Point))
    elsewhere(lambda: Point(1, 2))
    assert dict(vars(Point)) == before


def test_a_class_made_elsewhere_comes_by_value() -> None:
    def make() -> Any:
        class Made:
            value = 3

        return Made()

    assert elsewhere(make).value == 3


def test_exceptions_come_back_with_type_data_and_traceback() -> None:
    def complain() -> None:
        raise Complaint("too loud", 42)

    with pytest.raises(Complaint, match="too loud") as caught:
        elsewhere(complain)
    assert caught.value.code == 42
    cause = caught.value.__cause__
    assert isinstance(cause, RemoteTraceback)
    assert 'raise Complaint("too loud", 42)' in str(cause)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("k"),
        OSError(2, "no such file", "x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_pythons_own_exceptions_come_back_whole(error: Exception) -> None:
    again = exceptions.load_exception(*exceptions.dump_exception(error))
    assert type(again) is type(error)
    assert str(again) == str(error)


LAZY = """
def double(number: Number, times: int = 2) -> Number:
    return number * times

class Number:
    value: float

class Fraction:
    above: Number
    below: Absent
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated at once")
def test_annotations_that_are_evaluated_when_they_are_read() -> None:
    namespace: dict[str, Any] = {"__name__": "nowhere"}
    exec(compile(LAZY, "nowhere.py", "exec", dont_inherit=True), namespace)
    number = namespace.pop("Number")
    double, fraction = namespace["double"], namespace["Fraction"]
    for _ in range(2):
        loaded = pickling.loads(pickling.dumps(double))
        assert loaded(4) == 8
        assert loaded.__annotations__ == {"number": "Number", "times": "int", "return": "Number"}
        assert _in_another_process(fraction) == {"above": "Number", "below": "Absent"}
    assert _in_another_process(number) == {"value": float}
    namespace.update(Number=number, Absent=int)
    assert double.__annotations__ == {"number": number, "times": int, "return": number}
    assert fraction.__annotations__ == {"above": number, "below": int}


def _in_another_process(kind: type) -> Any:
    """Return the annotations of a class in a process that does not know it yet."""
    code = (
        "import sys; from pytest_localcluster._core import pickling\n"
        "kind = pickling.loads(sys.stdin.buffer.read())\n"
        "sys.stdout.buffer.write(pickling.dumps(kind.__annotations__))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickling.dumps(kind), stdout=subprocess.PIPE, check=True
    )
    return pickling.loads(done.stdout)


def test_functions_of_installed_modules_go_by_reference() -> None:
    for function in (np.exp, np.add.reduce, os.getpid, os.path.join, len, np.linalg.norm):
        data = pickling.dumps(function)
        assert len(data) < 100, function
        loaded = pickling.loads(data)
        assert loaded is function or loaded == function


def test_nothing_stays_registered_with_cloudpickle() -> None:
    from cloudpickle import cloudpickle

    pickling.dumps(add_offset)
    assert not cloudpickle._PICKLE_BY_VALUE_MODULES
