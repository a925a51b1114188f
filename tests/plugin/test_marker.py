"""The marker: which of several wins, and mistakes in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

PROBE = """
import pytest
from pytest_localcluster._plugin.marker import wanted

@pytest.fixture
def asked(request, cluster_config):
    scope, config = wanted(request.node, cluster_config, getattr(request, "param", None))
    return scope, config.workers, config.ps
"""
"""A fixture that shows what the marker asks for, without starting it."""


def test_precedence_keyword_by_keyword(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        PROBE
        + """
from pytest_localcluster import ClusterConfig

@pytest.fixture(scope="session")
def cluster_config():
    return ClusterConfig(workers=2, ps=2)
"""
    )
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.cluster(workers=3, scope="module")

        def test_module(asked):
            assert asked == ("module", 3, 2)

        @pytest.mark.cluster(workers=4)
        def test_function(asked):
            assert asked == ("module", 4, 2)

        @pytest.mark.cluster(workers=6)
        @pytest.mark.cluster(workers=7, scope="session")
        def test_two_on_one(asked):
            assert asked == ("session", 7, 2)

        @pytest.mark.cluster(ps=5, scope="class")
        class TestClass:
            def test_class(self, asked):
                assert asked == ("class", 3, 5)

            @pytest.mark.cluster(ps=6)
            def test_method(self, asked):
                assert asked == ("class", 3, 6)

            @pytest.mark.cluster(ps=6)
            @pytest.mark.parametrize("asked", [dict(ps=7), dict(workers=1)], indirect=True)
            def test_parameter(self, asked):
                assert asked in [("class", 3, 7), ("class", 1, 6)]

        class TestDerived(TestClass):
            pytestmark = pytest.mark.cluster(ps=8)

            def test_derived(self, asked):
                assert asked == ("class", 3, 8)

            def test_class(self, asked):
                assert asked == ("class", 3, 8)
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=12)


def test_a_nearer_count_wins_however_it_is_written(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(PROBE)
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.cluster(jobs={"worker": 3, "chief": 1}, ps=2)

        def test_module(asked):
            assert asked == ("function", 3, 2)

        @pytest.mark.cluster(workers=4)
        def test_number(asked):
            assert asked == ("function", 4, 2)

        @pytest.mark.cluster(jobs={"ps": 5})
        def test_jobs(asked):
            assert asked == ("function", 1, 5)
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=3)


def test_is_registered(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.cluster(*workers=1*scope='function'*"])


MISTAKES = [
    ("worker=2", ["a cluster has no 'worker'", "did you mean 'workers'?"]),
    ("2, 1", ["the marker takes keywords only, not 2, 1", "write @pytest.mark.cluster(workers=2"]),
    ("workers=-1", ["workers=-1: there cannot be fewer than no tasks"]),
    ("workers=True", ["workers=True does not count tasks"]),
    ("ps=1.5", ["ps=1.5 does not count tasks"]),
    ("ps='two'", ["ps='two' does not count tasks"]),
    ("runtime='nativ'", ["unknown runtime 'nativ'", "use one of 'native'"]),
    ("launcher='docker'", ["unknown launcher 'docker'", "use one of 'process', 'thread'"]),
    ("scope='modul'", ["unknown scope 'modul'", "'function', 'class', 'module', 'session'"]),
    ("protocol='http'", ["protocol='http' cannot be had", "use 'grpc'"]),
    ("jobs={'a/b': 1}", ["'a/b' is no name for a job"]),
    ("workers=2, jobs={'worker': 3}", ["job 'worker' is asked for twice"]),
    ("start_timeout=0", ["start_timeout=0 is no time to wait"]),
]


@pytest.mark.parametrize(("arguments", "messages"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_mistake(pytester: pytest.Pytester, arguments: str, messages: list[str]) -> None:
    pytester.makepyfile(
        test_it=f"""
        import pytest

        def test_good():
            pass

        @pytest.mark.cluster({arguments})
        def test_bad(local_cluster):
            pass
        """
    )
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    shown = result.stdout.str()
    assert "ERROR collecting test_it.py" in shown
    assert "test_it.py::test_bad: no such cluster can be had" in shown
    for message in messages:
        assert message in shown
    assert "keywords of the cluster marker are: workers, ps, jobs, protocol," in shown
    assert ", scope" in shown


@pytest.mark.parametrize("parameter", ["dict(worker=2)", "3", "dict(scope='modul')"])
def test_mistake_in_a_parameter(pytester: pytest.Pytester, parameter: str) -> None:
    pytester.makepyfile(
        test_it=f"""
        import pytest

        @pytest.mark.parametrize("local_cluster", [dict(workers=2), {parameter}], indirect=True)
        def test_bad(local_cluster):
            pass
        """
    )
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    shown = result.stdout.str()
    assert "test_it.py::test_bad[" in shown
    expected = {
        "dict(worker=2)": "a cluster has no 'worker'",
        "3": "the indirect parameter of local_cluster is 3",
        "dict(scope='modul')": "unknown scope 'modul'",
    }
    assert expected[parameter] in shown


def test_a_parameter_of_the_same_name_is_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_direct="""
        import pytest

        @pytest.mark.parametrize("local_cluster", ["one", "two"])
        def test_it(local_cluster):
            assert local_cluster in ("one", "two")
        """,
        test_own="""
        import pytest

        @pytest.fixture
        def local_cluster(request):
            return request.param

        @pytest.mark.parametrize("local_cluster", ["one"], indirect=True)
        def test_it(local_cluster):
            assert local_cluster == "one"
        """,
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=3)


MODULES = {
    "test_bad": """
        import pytest

        def test_first():
            pass

        class TestOne:
            @pytest.mark.cluster(worker=2)
            def test_a(self): pass

            @pytest.mark.cluster(worker=2)
            def test_b(self): pass

        class TestTwo:
            @pytest.mark.cluster(3)
            def test_c(self): pass
    """,
    "test_worse": """
        import pytest

        pytestmark = pytest.mark.cluster(workers=None)

        @pytest.mark.parametrize("n", range(9))
        def test_many(n): pass

        class TestInside:
            def test_more(self): pass
    """,
    "test_good": """
        import pytest

        @pytest.mark.cluster(workers=2)
        def test_one(): pass

        def test_two(): pass
    """,
}


def test_one_error_per_module_and_the_rest_runs(pytester: pytest.Pytester, run_both: Run) -> None:
    pytester.makepyfile(**MODULES)
    result = run_both("-rA")
    result.assert_outcomes(passed=2, errors=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*ERROR collecting test_bad.py*",
            "test_bad.py::TestOne::test_a and 1 more: no such cluster can be had",
            "  a cluster has no 'worker'",
            "  *To fix this: did you mean 'workers'?*",
            "The keywords of the cluster marker are: workers, ps, *, scope",
        ]
    )
    result.stdout.fnmatch_lines(
        [
            "*ERROR collecting test_worse.py*",
            "test_worse.py::test_many?0? and 8 more: no such cluster can be had",
            "  workers=None does not count tasks",
        ]
    )
    shown = result.stdout.str() + result.stderr.str()
    assert "INTERNALERROR" not in shown
    assert "UsageError" not in shown
    assert "Traceback" not in shown


def test_errors_of_others_still_interrupt(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**MODULES, test_broken="import no_such_module")
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(errors=3)


def test_maxfail_counts_them(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**MODULES)
    result = pytester.runpytest_inprocess("-x")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*stopping after 1 failures*"])


def test_a_runtime_by_job_waits_for_the_config(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        PROBE
        + """
from pytest_localcluster import ClusterConfig

@pytest.fixture(scope="session")
def cluster_config():
    return ClusterConfig(jobs={"chief": 1})
"""
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.cluster(runtime={"worker": "native", "ps": "native", "chief": "native"})
        def test_it(asked):
            assert asked == ("function", 1, 1)
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=1)


def test_fields_that_name_nothing_are_collection_errors(
    pytester: pytest.Pytester, run_both: Run
) -> None:
    files = {
        "a_job": "jobs={'scheduler': 1}, env={'ROOT': '{hosts[schedulr]}'}, workers=1",
        "a_port": "workers=1, ports=('admin',), env={'ROOT': '{ports[admn]}'}",
        "ambiguous": "jobs={}, workers=2, env={'ROOT': '{port[worker]}'}",
        "in_a_file": "jobs={}, ps=1, workers=0, "
        "runtime=CommandRuntime(ps=['x'], files={'{dir}/a': '{host[chief]}'})",
        "ports": "ports='admin'",
    }
    for name, keywords in files.items():
        pytester.makepyfile(
            **{
                f"test_{name}": f"""
                import pytest
                from pytest_localcluster import CommandRuntime

                @pytest.mark.cluster({keywords})
                def test(local_cluster):
                    pass
                """
            }
        )
    result = run_both()
    result.assert_outcomes(errors=len(files))
    text = result.stdout.str()
    for message in (
        "env['ROOT'] has {hosts[schedulr]}, and this cluster has no job 'schedulr'",
        "did you mean 'admin'? add the name to ports=",
        "has {port[worker]}, which is one task's, and job 'worker' has 2 tasks",
        "the content of '{dir}/a' of job 'ps' has {host[chief]}, and this cluster has no job",
        "ports lists names of ports, not 'admin'",
    ):
        assert message in text


def test_fields_may_name_what_only_the_fixture_knows(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest(
        """
        import pytest
        from pytest_localcluster import ClusterConfig

        @pytest.fixture(scope="session")
        def cluster_config():
            return ClusterConfig(workers=1, ps=0, jobs={"chief": 1}, ports=("admin",))
        """
    )
    pytester.makepyfile(
        """
        import os
        import pytest

        @pytest.mark.cluster(env={"ROOT": "{address[chief][admin]} {port[worker]}"})
        def test(local_cluster):
            chief = local_cluster.jobs["chief"][0].ports["admin"]
            (root,) = local_cluster.run(lambda: os.environ["ROOT"])
            assert root.startswith(f"localhost:{chief} ")
        """
    )
    run().assert_outcomes(passed=1)
