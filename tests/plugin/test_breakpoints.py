"""breakpoint() in a task: at a terminal, with ``pytest -s``, it prompts there."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.plugin.typist import PS, WORKER, Typist, prompt

Type = Callable[..., Typist]


def test_in_a_function(pytester: pytest.Pytester, at_a_terminal: Type) -> None:
    pytester.makepyfile(
        """
        def stops(x):
            print("words before")
            breakpoint()
            x += 1
            print("words after")
            return x

        def test_it(local_cluster):
            assert local_cluster.ps[0].run(stops, 6) == 70
            print("the test goes on")
        """
    )
    user = at_a_terminal("-s")
    seen = user.sees(prompt(PS))
    assert "[/job:ps/task:0] words before\n" in seen
    assert re.search(r">>> breakpoint\(\) in /job:ps/task:0, pid \d+ >>>", seen)
    assert re.search(r"> \S+test_in_a_function.py\([34]\)stops\(\)\n-> ", seen)
    user.types("p x")
    assert user.sees(prompt(PS)).splitlines()[1] == "6"
    user.types("n")
    while "-> print" not in user.sees(prompt(PS)):  # Python 3.13 begins a line earlier
        user.types("n")
    user.types("where")
    assert "stops()" in user.sees(prompt(PS))
    user.types("x = 70")
    user.sees(prompt(PS))
    user.types("b 6")
    user.sees(prompt(PS))
    user.types("c")
    seen = user.sees(prompt(PS))
    assert "-> return x" in seen
    assert "[/job:ps/task:0] words after\n" in seen
    user.types("c")
    assert "the test goes on\n" in user.sees("1 passed")
    assert user.ends() == pytest.ExitCode.OK


def test_stepping_ends_with_the_function(pytester: pytest.Pytester, at_a_terminal: Type) -> None:
    pytester.makepyfile(
        """
        def stops():
            breakpoint()
            return 5

        def again():
            return 6

        def test_it(local_cluster):
            worker = local_cluster.workers[0]
            assert worker.run(stops) == 5
            assert worker.run(again) == 6
            assert worker.run(stops) == 5
        """
    )
    user = at_a_terminal("-s")
    for _ in range(2):
        user.sees(prompt(WORKER))
        user.types("n")
        while "--Return--" not in user.sees(prompt(WORKER)):
            user.types("n")
        user.types("s")
    user.sees("1 passed")
    assert user.ends() == pytest.ExitCode.OK


def test_in_operations_threads_and_at_the_start(
    pytester: pytest.Pytester, at_a_terminal: Type
) -> None:
    pytester.makepyfile(
        """
        import threading
        import numpy as np
        import pytest
        from pytest_localcluster import NativeRuntime, function

        def stops(x):
            breakpoint(header="in an operation")
            return x + 1

        def test_operation(local_cluster):
            with local_cluster.session() as session:
                assert session.run(function(stops)(np.float64(1))) == 2

        def begins_a_thread():
            thread = threading.Thread(target=stops, args=(1,))
            thread.start()
            thread.join()

        def test_thread(local_cluster):
            local_cluster.workers[0].run(begins_a_thread)

        class Stops(NativeRuntime):
            def serve(self, assignment):
                breakpoint()
                return super().serve(assignment)

        @pytest.mark.cluster(workers=1, ps=0, runtime=Stops())
        def test_start(local_cluster):
            pass
        """
    )
    user = at_a_terminal("-s")
    for _ in range(2):
        assert ">>> in an operation >>>" in user.sees(prompt(WORKER))
        user.types("p x")
        user.sees(prompt(WORKER))
        user.types("c")
    user.sees(prompt(WORKER))
    user.types("c")
    user.sees("3 passed")
    assert user.ends() == pytest.ExitCode.OK


def test_one_after_the_other(pytester: pytest.Pytester, at_a_terminal: Type) -> None:
    pytester.makepyfile(
        """
        import pytest

        def stops():
            breakpoint()
            x = 1
            return x

        @pytest.mark.cluster(workers=2, ps=0)
        def test_it(local_cluster):
            local_cluster.run(stops)
        """
    )
    pytester.makeconftest(
        "from pytest_localcluster import _terminal\n_terminal._STEP = 60.0  # however busy we are"
    )
    user = at_a_terminal("-s")
    which = r"\((/job:worker/task:[01]) Pdb\) $"
    first = re.search(which, user.sees(which))
    assert first is not None
    user.types("p 6 * 7")
    assert "42" in user.sees(prompt(first[1])), "the other one waits"
    user.types("n")
    user.sees(prompt(first[1]))  # also while this one steps
    user.types("c")
    second = re.search(which, user.sees(which))
    assert second is not None
    assert second[1] != first[1]
    user.types("c")
    user.sees("1 passed")
    assert user.ends() == pytest.ExitCode.OK


def test_a_step_that_needs_another_task(pytester: pytest.Pytester, at_a_terminal: Type) -> None:
    pytester.makepyfile(
        """
        from pytest_localcluster import Session, current_task, device, function

        def stops():
            breakpoint()
            return 1

        def steps():
            breakpoint()
            with device("/job:ps/task:0"):
                op = function(stops)()
            with Session(current_task().target) as session:
                return session.run(op)

        def test_it(local_cluster):
            assert local_cluster.workers[0].run(steps) == 1
        """
    )
    user = at_a_terminal("-s")
    while "-> return session.run(op)" not in user.sees(prompt(WORKER)):
        user.types("n")
    user.types("n")
    user.sees(prompt(PS))
    user.types("c")
    user.sees(prompt(WORKER))
    user.types("c")
    user.sees("1 passed")
    assert user.ends() == pytest.ExitCode.OK


def test_quit_ends_the_run(pytester: pytest.Pytester, at_a_terminal: Type) -> None:
    pytester.makepyfile(
        """
        def test_it(local_cluster):
            local_cluster.workers[0].run(breakpoint)  # nothing comes after it
            local_cluster.workers[0].run(lambda: [breakpoint(), print("not here")])

        def test_never(local_cluster):
            pass
        """
    )
    user = at_a_terminal("-s")
    user.sees(prompt(WORKER))
    user.types("q")
    user.sees("BdbQuit.*Quitting debugger.*1 failed")
    assert user.ends() == pytest.ExitCode.INTERRUPTED


def test_deadlines_wait(pytester: pytest.Pytester, at_a_terminal: Type) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_localcluster._clock import Deadline, poll
        from pytest_localcluster._results import gather
        from pytest_localcluster._terminal import in_use

        def stops():
            breakpoint()
            return 1

        @pytest.mark.timeout(3)
        def test_it(local_cluster):
            worker = local_cluster.workers[0]
            future = worker.submit(stops)
            assert poll(in_use, Deadline(20))
            assert gather({worker: future}, timeout=0.5) == [1]
        """
    )
    user = at_a_terminal("-s", "--cluster-hang-dump=3")
    user.sees(prompt(WORKER))
    user.types("import time; time.sleep(3.5)")
    user.sees(prompt(WORKER))
    user.types("c")
    assert "has run for" not in user.sees("1 passed")
    assert user.ends() == pytest.ExitCode.OK


def test_a_task_that_dies_frees_the_terminal(
    pytester: pytest.Pytester, at_a_terminal: Type
) -> None:
    pytester.makepyfile(
        """
        from pytest_localcluster._clock import Deadline, poll
        from pytest_localcluster._terminal import in_use

        def stops():
            breakpoint()
            return 1

        def test_it(local_cluster):
            killed, other = local_cluster.ps[0], local_cluster.workers[0]
            killed.submit(stops)
            assert poll(in_use, Deadline(20))
            waits = other.submit(stops)
            killed.kill()
            assert waits.result() == 1
        """
    )
    user = at_a_terminal("-s")
    user.sees(prompt(WORKER))
    user.types("c")
    user.sees("1 passed")
    assert user.ends() == pytest.ExitCode.OK
