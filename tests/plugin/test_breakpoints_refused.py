"""breakpoint() in a task where it cannot prompt, or somebody wants it otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.plugin.typist import Typist

Run = Callable[..., pytest.RunResult]
Type = Callable[..., Typist]

REFUSED = """
import os
import pytest

def stops():
    breakpoint()

def test_it(local_cluster):
    local_cluster.workers[0].run(stops)
"""


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ((), "pytest captures input and output"),
        (("-s", "-n1"), "pytest-xdist runs this test in a worker, which has no terminal"),
        (("-s",), "the input of the test process is no terminal"),
    ],
)
def test_refused(pytester: pytest.Pytester, run: Run, args: tuple[str, ...], why: str) -> None:
    pytester.makepyfile(REFUSED)
    result = run(*args)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E   *UnsupportedError: breakpoint() in /job:worker/task:0 needs `pytest -s` in a*",
            f"E   *pid *, {why}",
            "E   *| *test_refused.py:5 in stops",
            "E   *To fix this: run this test alone with -s, give it launcher='thread', or set*",
        ]
    )


def test_passed_over(pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(REFUSED)
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    run().assert_outcomes(passed=1)


def test_a_debugger_of_ones_own(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        own="def debug():\n    print('own words')\n",
        test_it=REFUSED + "    assert 'own words' in local_cluster.workers[0].log.text()\n",
    )
    monkeypatch.setenv("PYTHONBREAKPOINT", "own.debug")
    run().assert_outcomes(passed=1)


def test_a_fork_of_a_task_is_refused(pytester: pytest.Pytester, at_a_terminal: Type) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest
        from pytest_localcluster import UnsupportedError

        def forks():
            if (pid := os.fork()) == 0:
                with pytest.raises(UnsupportedError, match="a fork of the task"):
                    breakpoint()
                os._exit(3)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        def test_it(local_cluster):
            assert local_cluster.workers[0].run(forks) == 3
        """
    )
    user = at_a_terminal("-s")
    user.sees("1 passed")
    assert user.ends() == pytest.ExitCode.OK


def test_threads_have_the_usual_debugger(pytester: pytest.Pytester, at_a_terminal: Type) -> None:
    pytester.makepyfile(REFUSED)
    user = at_a_terminal("--cluster-launcher=thread")
    user.sees(r"PDB set_trace \(IO-capturing turned off\).*\(Pdb\) $")
    user.types("c")
    user.sees("1 passed")
    assert user.ends() == pytest.ExitCode.OK
