"""Runtimes in markers: what can be known to be impossible is a collection error."""

from __future__ import annotations

import pytest

MISTAKES = [
    ("runtime='tensorflow'", ["needs TensorFlow", "pip install 'pytest-localcluster[tensorflow]'"]),
    (
        "runtime={'worker': 'tensorflow', 'ps': 'native'}",
        ["needs TensorFlow", "pip install 'pytest-localcluster[tensorflow]'"],
    ),
    ("runtime='tensorflow', launcher='thread'", ["TensorFlow"]),
    (
        "runtime=CommandRuntime(ps=['x']), launcher='thread'",
        ["a program cannot run in a thread", "use launcher='process'"],
    ),
    ("runtime=NativeRuntime", ["runtime=NativeRuntime is a class", "runtime=NativeRuntime(...)"]),
    ("runtime=print", ["has no method serve()"]),
    ("runtime=Serves()", ["is no runtime"]),
    ("runtime={'worker': 'nativ'}", ["unknown runtime 'nativ'"]),
]


@pytest.mark.parametrize(("arguments", "messages"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_mistake(pytester: pytest.Pytester, arguments: str, messages: list[str]) -> None:
    pytester.makeconftest("import sys; sys.modules['tensorflow'] = None  # as if not installed")
    pytester.makepyfile(
        test_it=f"""
        import pytest
        from pytest_localcluster import CommandRuntime, NativeRuntime

        class Serves:
            def serve(self, assignment):
                pass

        @pytest.mark.cluster({arguments})
        def test_bad(local_cluster):
            pass
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    shown = result.stdout.str()
    assert "ERROR collecting test_it.py" in shown
    assert "test_it.py::test_bad: no such cluster can be had" in shown
    for message in messages:
        assert message in shown


def test_jobs_that_a_fixture_decides_on_are_no_mistake(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest
        from pytest_localcluster import ClusterConfig

        @pytest.fixture(scope="session")
        def cluster_config():
            return ClusterConfig(workers=0)
        """
    )
    pytester.makepyfile(
        """
        import pytest
        from pytest_localcluster import CommandRuntime

        SLEEP = CommandRuntime(ps=["sleep", "1000"], ready=lambda server: True)

        @pytest.mark.cluster(runtime=SLEEP)
        def test_it(local_cluster):
            assert local_cluster.ps[0].is_alive()

        @pytest.mark.cluster(runtime=SLEEP, workers=1)
        def test_left_out(local_cluster):
            pass
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*CommandRuntime has no command for the tasks of job 'worker'*"])


def test_a_red_report_shows_what_a_program_said(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import re
        import pytest
        from pytest_localcluster import CommandRuntime

        TALKS = CommandRuntime(
            ps=["sh", "-c", "echo I am {job} {index}; exec sleep 1000"], ready=re.compile("I am")
        )

        @pytest.mark.cluster(workers=0, ps=2, runtime=TALKS)
        def test_it(local_cluster):
            assert False
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*Captured log /job:ps/task:0*", "I am ps 0", "*log /job:ps/task:1*", "I am ps 1"]
    )
