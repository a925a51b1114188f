"""Test files in every import mode: a task finds their functions, and never executes the files."""

from __future__ import annotations

from pathlib import Path

import pytest

MODES = ["prepend", "append", "importlib"]

EXECUTED = """
import os, pathlib
with open(os.environ["EXECUTED"], "a") as log:
    log.write(f"{__name__} {os.getpid()}\\n")
"""
"""Begins a file that notes in which process it is executed."""

CASE = """
METHODS = ["fork", "spawn"]
import importlib, multiprocessing, pickle, sys
import pytest

class Metric:
    def __init__(self, value=1):
        self.value = value

def square(x):
    return x * x

def again(obj):
    return pickle.loads(pickle.dumps(obj))

def look():
    home = importlib.import_module(__name__)
    assert home is sys.modules[Metric.__module__]
    assert home.__file__ == __file__
    assert home.Metric is Metric and again(Metric(3)).value == 3
    return again(square)(3), __name__

def in_child(method):
    with multiprocessing.get_context(method).Pool(1) as pool:
        return [type(one) is Metric and one.value for one in pool.map(Metric, [1, 2])]

@pytest.mark.cluster(workers=1, ps=0, scope="module")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
class TestIt:
    def test_it(self, local_cluster):
        assert local_cluster.run(look) == [(9, __name__)]
        (metric,) = local_cluster.run(Metric)
        assert type(metric) is Metric
        assert local_cluster.run(lambda x: x, square) == [square]

    @pytest.mark.parametrize("method", METHODS)
    def test_children(self, local_cluster, method):
        assert local_cluster.run(in_child, method) == [[1, 2]]

    def test_method(self, local_cluster):
        assert local_cluster.run(self.double, 2) == [4]
        assert local_cluster.run(lambda: again(TestIt.double)(self, 3)) == [6]

    def double(self, x):
        return 2 * x
"""


@pytest.fixture
def executed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the log of executions."""
    path = pytester.path / "executed"
    monkeypatch.setenv("EXECUTED", str(path))
    return path


def check(pytester: pytest.Pytester, executed: Path, passed: int, *args: str) -> None:
    """Run pytest; nothing but that process has executed a file of the tests."""
    result = pytester.runpytest_subprocess("-q", *args, timeout=100)
    result.assert_outcomes(passed=passed)
    lines = executed.read_text().splitlines()
    assert len({line.split()[1] for line in lines}) == 1, lines
    assert len(lines) == len(set(lines)), lines


@pytest.mark.parametrize("mode", MODES)
def test_a_module_without_package(pytester: pytest.Pytester, executed: Path, mode: str) -> None:
    pytester.makepyfile(test_it=EXECUTED + CASE)
    check(pytester, executed, 4, f"--import-mode={mode}")


@pytest.mark.parametrize("mode", MODES)
def test_a_package_with_relative_imports(
    pytester: pytest.Pytester, executed: Path, mode: str
) -> None:
    package = pytester.mkpydir("checks").joinpath("deep")
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "helpers.py").write_text(
        "state = []\ndef add(x):\n    state.append(x)\n    return state\n"
    )
    (package / "test_it.py").write_text(
        EXECUTED
        + "from .helpers import add\n"
        + CASE
        + """
    def test_a_helper_keeps_state(self, local_cluster):
        def later():
            from . import helpers
            from .helpers import state
            from .test_it import square
            return helpers.state is state and square(len(state))

        local_cluster.run(add, 1)
        assert local_cluster.run(add, 2) == [[1, 2]]
        assert local_cluster.run(later) == [4]
"""
    )
    check(pytester, executed, 5, f"--import-mode={mode}")


def test_equal_names_in_mode_importlib(pytester: pytest.Pytester, executed: Path) -> None:
    for folder in ("a", "b"):
        pytester.mkdir(folder)
        (pytester.path / folder / "test_it.py").write_text(EXECUTED + CASE)
    check(pytester, executed, 8, "--import-mode=importlib")


@pytest.mark.parametrize("mode", MODES)
def test_a_conftest(pytester: pytest.Pytester, executed: Path, mode: str) -> None:
    pytester.makeconftest(
        EXECUTED
        + """
import pytest, pickle
class Helper:
    pass
def helped(obj):
    return type(pickle.loads(pickle.dumps(obj))) is Helper
@pytest.fixture
def helper():
    return helped, Helper()
"""
    )
    pytester.makepyfile(
        test_it=EXECUTED
        + """
import pytest
@pytest.mark.cluster(workers=1, ps=0)
def test_it(local_cluster, helper):
    function, obj = helper
    assert local_cluster.run(function, obj) == [True]
    assert local_cluster.run(lambda: (function, obj))[0][0] is function
"""
    )
    check(pytester, executed, 1, f"--import-mode={mode}")


@pytest.mark.parametrize("mode", MODES)
def test_other_names(pytester: pytest.Pytester, executed: Path, mode: str) -> None:
    pytester.makeini("[pytest]\npython_files = check_*.py")
    pytester.makepyfile(
        check_it=EXECUTED
        + CASE
        + """
    def test_import(self, local_cluster):
        assert local_cluster.run(importlib.import_module, "json")[0].__name__ == "json"
        assert local_cluster.run(lambda: importlib.import_module(OTHER).value) == [2]

OTHER = __name__.replace("check_it", "check_other")
""",
        check_other=EXECUTED + "value = 2\ndef test_nothing(): pass\n",
    )
    check(pytester, executed, 6, f"--import-mode={mode}")


def test_a_file_that_is_named_on_the_command_line(
    pytester: pytest.Pytester, executed: Path
) -> None:
    pytester.makepyfile(script=EXECUTED + CASE)
    check(pytester, executed, 4, "script.py")


def test_a_helper_with_rewritten_asserts_is_imported(
    pytester: pytest.Pytester, executed: Path
) -> None:
    pytester.makeconftest("import pytest\npytest.register_assert_rewrite('helpers')\n")
    pytester.makepyfile(
        helpers="state = []\ndef add(x):\n    assert x\n    state.append(x)\n    return state\n",
        test_it=EXECUTED
        + """
import pytest, helpers
@pytest.mark.cluster(workers=1, ps=0)
def test_it(local_cluster):
    local_cluster.run(helpers.add, 1)
    assert local_cluster.run(helpers.add, 2) == [[1, 2]]
""",
    )
    check(pytester, executed, 1)


def test_a_task_may_import_a_test_file_first(pytester: pytest.Pytester, executed: Path) -> None:
    pytester.makepyfile(
        test_it=EXECUTED
        + """
import importlib, pytest
value = 3
@pytest.mark.cluster(workers=1, ps=0)
def test_it(local_cluster):
    for _ in range(2):
        assert local_cluster.run(importlib.import_module, "test_it")[0].value == 3
    assert local_cluster.run(lambda: importlib.reload(importlib.import_module("test_it")).value)
""",
    )
    check(pytester, executed, 1)


def test_a_script(pytester: pytest.Pytester, executed: Path) -> None:
    script = pytester.makepyfile(
        script=EXECUTED
        + """
import multiprocessing, pickle, sys
from pytest_localcluster import LocalCluster

class Metric:
    pass

def again(obj):
    return type(pickle.loads(pickle.dumps(obj))) is Metric

def in_child(method):
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.map(again, [Metric()])

if __name__ == "__main__":
    with LocalCluster(workers=1, ps=0) as cluster:
        assert cluster.run(again, Metric()) == [True]
        assert cluster.run(lambda x: x, again)[0] is again
        for method in ("fork", "spawn", "forkserver"):
            assert cluster.run(in_child, method) == [[True]], method
"""
    )
    result = pytester.runpython(script)
    assert result.ret == 0
    assert len(executed.read_text().splitlines()) == 1
