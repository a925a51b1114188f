"""What tasks warn is in the summary of warnings, and goes by the filters of the test."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]


def summary(result: pytest.RunResult) -> str:
    """Return what the summary of warnings says, without what pytest says of it."""
    return result.stdout.str().partition("= warnings summary =")[2].partition("-- Docs:")[0]


@pytest.fixture(autouse=True)
def work(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        work="""
        import warnings

        class OwnWarning(UserWarning):
            def __init__(self, what, why):
                super().__init__(what, why)

        def old(what="this"):
            warnings.warn(f"{what} is old", DeprecationWarning)
            return what

        def own():
            warnings.warn(OwnWarning("odd", "it is"))
        """
    )


def test_summary(pytester: pytest.Pytester, run_both: Run) -> None:
    pytester.makepyfile(
        """
        import pytest
        import work

        @pytest.mark.cluster(workers=2, ps=1)
        def test_run(local_cluster):
            assert local_cluster.run(work.old) == ["this", "this"]
            local_cluster.ps[0].run(work.old)

        def test_submit(local_cluster):
            future = local_cluster.workers[0].submit(work.old, "that")
            assert future.result() == "that"

        def test_raise(local_cluster):
            def fail():
                work.own()
                raise KeyError("end")

            with pytest.raises(KeyError):
                local_cluster.ps[0].run(fail)
        """
    )
    result = run_both("--cluster-logs=all", "-rA")
    result.assert_outcomes(passed=3, warnings=4)
    text = summary(result)
    line = r'warnings.warn\(f"\{what\} is old", DeprecationWarning\)  # in '
    for nodeid, said, source in (
        ("test_run", "DeprecationWarning: this is old", line + "/job:worker/task:0, /job:w"),
        ("test_run", "DeprecationWarning: this is old", line + "/job:ps/task:0"),
        ("test_submit", "DeprecationWarning: that is old", line + "/job:worker/task:0"),
        ("test_raise", r"OwnWarning: \('odd', 'it is'\)", r"warnings.*  # in /job:ps/task:0"),
    ):
        assert re.search(rf"::{nodeid}\n  \S+/work.py:\d+: {said}\n    {source}", text), text
    assert "Captured log" not in result.stdout.str(), "it is not in the tasks' logs too"


def test_what_no_function_of_run_has_warned(pytester: pytest.Pytester, run: Run) -> None:
    """Neither operations nor threads answer to the test: their words come at its end."""
    pytester.makepyfile(
        """
        import threading
        import numpy as np
        import pytest
        import work
        from pytest_localcluster import NativeRuntime, cluster_fixture, function

        shared = cluster_fixture(scope="module", workers=1, ps=1)

        def step(cluster, what):
            with cluster.session() as session:
                session.run(function(lambda x: work.old(what) and x)(np.float64(1)))

        def test_shared(shared):
            step(shared, "shared")

        def test_shared_too(shared):
            step(shared, "shared too")

        def test_that_stops_it(local_cluster):
            step(local_cluster, "stopped")

        class WarnsAsItStarts(NativeRuntime):
            def serve(self, assignment):
                work.old("start")
                return super().serve(assignment)

        @pytest.mark.cluster(workers=1, ps=0, runtime=WarnsAsItStarts())
        def test_start(local_cluster):
            pass

        def test_end(local_cluster):
            def late():
                import atexit
                atexit.register(work.old, "end")

            local_cluster.ps[0].run(late)

        def test_many(local_cluster):
            def much():
                for number in range(1100):
                    work.old(number)

            def step(x):
                much()
                return x

            with local_cluster.session() as session:
                session.run(function(step)(np.float64(1)))
            assert "1099 is old" in local_cluster.workers[0].log.text(), "nobody came for it"
        """
    )
    result = run()
    result.assert_outcomes(passed=6, warnings=1005)
    text = summary(result)
    for nodeid, what in (
        ("test_shared", "shared"),
        ("test_shared_too", "shared too"),
        ("test_that_stops_it", "stopped"),
        ("test_start", "start"),
        ("test_end", "end"),
    ):
        assert re.search(rf"::{nodeid}\n  \S+/work.py:\d+: DeprecationWarning: {what} is", text)


def test_filters(pytester: pytest.Pytester, run_both: Run, ini: Callable[[str], object]) -> None:
    ini("filterwarnings =\n    ignore:nobody:DeprecationWarning\n    error::work.OwnWarning")
    pytester.makepyfile(
        """
        import pytest
        import work

        pytestmark = pytest.mark.cluster(workers=1, ps=0, scope="module")

        def test_ini(local_cluster):
            local_cluster.run(work.old, "nobody")
            with pytest.raises(work.OwnWarning, match="odd") as caught:
                local_cluster.run(work.own)
            assert "in own" in str(caught.value.__cause__), "raised in the task, where it warns"

        @pytest.mark.filterwarnings("error:.*red:DeprecationWarning", "ignore::UserWarning")
        def test_marker(local_cluster):
            local_cluster.run(work.old, "shown")
            local_cluster.run(work.own)
            local_cluster.run(work.old, "red")

        def test_next(local_cluster):
            local_cluster.run(work.old, "red no more")

        @pytest.mark.filterwarnings("ignore:more")
        def test_last(local_cluster):
            local_cluster.run(work.old, "more")
        """
    )
    result = run_both("-Werror:by-option:DeprecationWarning")
    result.assert_outcomes(passed=3, failed=1, warnings=2)
    result.stdout.fnmatch_lines(["*DeprecationWarning: red is old", "*work.py:*"])
    text = summary(result)
    assert "shown is old" in text
    assert "red no more is old" in text


def test_error_holds_for_operations(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import numpy as np
        import pytest
        from pytest_localcluster import constant, errors

        @pytest.mark.filterwarnings("error::RuntimeWarning")
        def test_it(session_cluster):
            with session_cluster.session() as session:
                with pytest.raises(errors.OpError) as caught:
                    session.run(np.log(constant(np.float64(0))))
            assert isinstance(caught.value.__cause__, RuntimeWarning)
        """
    )
    run().assert_outcomes(passed=1)


def test_caught_by_the_test(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import warnings
        import pytest
        import work

        class Mine(UserWarning):
            pass

        def test_warns(local_cluster):
            for _ in range(2):
                with pytest.warns(DeprecationWarning, match="^this is old$") as caught:
                    local_cluster.run(work.old)
                assert caught[0].filename == work.__file__
            with pytest.warns(work.OwnWarning, match="odd"):
                local_cluster.run(work.own)
            with pytest.warns(Mine) as caught:
                local_cluster.run(lambda: warnings.warn(Mine("mine")))
            assert type(caught[0].message) is Mine

        def test_recwarn(local_cluster, recwarn):
            local_cluster.run(work.old)
            assert len(recwarn) == 1

        def test_silenced(local_cluster):
            def quiet():
                with warnings.catch_warnings(record=True) as caught:
                    work.old()
                return len(caught)

            assert local_cluster.run(quiet) == [1]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                local_cluster.run(work.old)
        """
    )
    run().assert_outcomes(passed=3, warnings=0)


def test_categories_that_the_test_has_not_imported(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        elsewhere="""
        class ElsewhereWarning(FutureWarning):
            pass
        """,
        test_it="""
        import os, sys, warnings
        import pytest

        def test_import(local_cluster):
            def warn():
                import elsewhere
                warnings.warn("far away", elsewhere.ElsewhereWarning)

            with pytest.warns(FutureWarning, match="^ElsewhereWarning: far away"):
                local_cluster.run(warn)
            assert "elsewhere" not in sys.modules

        def test_lock(local_cluster):
            def warn():
                import threading
                warnings.warn(UserWarning(threading.Lock()))

            with pytest.warns(UserWarning, match="^<unlocked"):
                local_cluster.run(warn)

        @pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
        def test_fork(local_cluster):
            def warn():
                if (pid := os.fork()) == 0:
                    warnings.warn("in a fork")
                    os._exit(0)
                os.waitpid(pid, 0)

            local_cluster.workers[0].run(warn)
            assert "UserWarning: in a fork" in local_cluster.workers[0].log.text()

        @pytest.mark.filterwarnings("ignore::pytest.PytestWarning")
        def test_cheap(local_cluster):
            assert local_cluster.run(lambda: "_pytest" in sys.modules) == [False]
        """,
    )
    run().assert_outcomes(passed=4, warnings=0)


def test_without_pytest(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(
        script="""
        import warnings
        import work
        from pytest_localcluster import LocalCluster

        warnings.simplefilter("always")
        with LocalCluster(workers=1, ps=0) as cluster:
            cluster.run(work.old)
        """
    )
    result = pytester.runpython(path)
    result.stderr.fnmatch_lines(["*work.py:8: DeprecationWarning: this is old", "  *# in /job:w*"])
