"""How long a cluster lives: wider scopes of the marker, and create_local_cluster anywhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]


def test_wider_scopes(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest(
        """
        clusters = []

        def log(cluster):
            "Return which of all clusters this is, by order of first use, and what was left in it."
            if cluster not in clusters:
                clusters.append(cluster)
            before = [len(server.variables()) for server in cluster.ps]
            with cluster.session() as session:
                import numpy as np
                from pytest_localcluster import Variable, device
                with device("/job:ps/task:0"):
                    w = Variable(np.zeros(3), name="w")
                session.run(w.initializer)
            assert list(cluster.ps[0].variables()) == ["w"]
            return clusters.index(cluster), before
        """
    )
    pytester.makepyfile(
        test_a="""
        import pytest
        from conftest import clusters, log

        class TestOne:
            pytestmark = pytest.mark.cluster(scope="class")

            def test_first(self, local_cluster):
                assert log(local_cluster) == (0, [0])

            def test_shares_and_is_reset(self, local_cluster):
                assert log(local_cluster) == (0, [0])

            @pytest.mark.cluster(workers=2)
            def test_other_config(self, local_cluster):
                assert log(local_cluster) == (1, [0])
                assert all(s.is_alive() for s in clusters[0].servers)

            def test_the_first_still_lives(self, local_cluster):
                assert log(local_cluster) == (0, [0])

        class TestTwo:
            pytestmark = pytest.mark.cluster(scope="class")

            def test_has_its_own(self, local_cluster):
                assert not any(s.is_alive() for c in clusters for s in c.servers)
                assert log(local_cluster) == (2, [0])

        @pytest.mark.cluster(scope="class")
        def test_without_class(local_cluster):
            assert log(local_cluster) == (3, [0])

        @pytest.mark.cluster(scope="class")
        def test_without_class_again(local_cluster):
            assert log(local_cluster) == (4, [0])
            assert not clusters[3].servers[0].is_alive()

        @pytest.mark.cluster(scope="session")
        def test_session(local_cluster):
            assert log(local_cluster) == (5, [0])

        @pytest.mark.cluster(scope="module")
        def test_module(local_cluster):
            assert log(local_cluster) == (6, [0])

        @pytest.mark.cluster(scope="module")
        class TestThree:
            def test_shares_with_the_module(self, local_cluster):
                assert log(local_cluster) == (6, [0])
        """,
        test_b="""
        import pytest
        from conftest import clusters, log

        @pytest.mark.cluster(scope="session")
        def test_session(local_cluster):
            assert [c.servers[0].is_alive() for c in clusters] == [False] * 5 + [True, False]
            assert log(local_cluster) == (5, [0])

        @pytest.mark.cluster(scope="module")
        def test_module(local_cluster):
            assert log(local_cluster) == (7, [0])
        """,
    )
    run().assert_outcomes(passed=12)


def test_a_shared_cluster_that_lost_a_task_is_replaced(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest

        pytestmark = pytest.mark.cluster(scope="module")
        seen = []

        def test_kills(local_cluster):
            local_cluster.ps[0].kill()
            seen.append(local_cluster)

        def test_has_another(local_cluster):
            assert local_cluster is not seen[0]
            assert not any(server.is_alive() for server in seen[0].servers)
            assert local_cluster.ps[0].run(os.getpid) == local_cluster.ps[0].pid
            seen.append(local_cluster)

        def test_keeps_it(local_cluster):
            assert local_cluster is seen[1]
            local_cluster.stop()

        def test_is_stopped_by_a_test(local_cluster):
            assert local_cluster is not seen[1]
            assert local_cluster.ps[0].is_alive()
            local_cluster.ps[0].suspend()

        def test_suspended_before(local_cluster):
            assert local_cluster.ps[0].run(os.getpid) == local_cluster.ps[0].pid
        """
    )
    run().assert_outcomes(passed=5)


def test_create_local_cluster_lives_as_long_as_its_fixture(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makeconftest(
        """
        import pytest
        from pytest_localcluster import create_local_cluster

        seen = {}

        def make(name):
            (seen[name],), _ = create_local_cluster(1, 0)
            return seen[name]

        def living():
            return [name for name, server in seen.items() if server.is_alive()]

        @pytest.fixture(scope="module")
        def module():
            yield make("module")
            seen["at module teardown"] = seen["module"]
            assert seen["module"].is_alive()

        @pytest.fixture
        def function(module):
            return make("function")

        @pytest.fixture
        def failing(module):
            make("failing")
            raise RuntimeError("on purpose")
        """
    )
    pytester.makepyfile(
        test_a="""
        from conftest import living, make

        def test_one(function):
            make("test")
            assert living() == ["module", "function", "test"]

        def test_two(module):
            assert living() == ["module"]

        def test_error(failing):
            pass

        def test_three():
            assert living() == ["module"]

        class TestXunit:
            @classmethod
            def setup_class(cls):
                make("class")

            def setup_method(self):
                make("method")

            def test_four(self):
                assert living() == ["module", "class", "method"]

        def test_five():
            assert living() == ["module"]
        """,
        test_b="""
        from conftest import living, seen

        def test_six():
            assert "at module teardown" in seen
            assert living() == []
        """,
    )
    result = run()
    result.assert_outcomes(passed=6, errors=1)
    result.stdout.fnmatch_lines(["*RuntimeError: on purpose*"])


def test_create_local_cluster_outside_of_tests(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest(
        """
        from pathlib import Path
        from pytest_localcluster import create_local_cluster

        workers, _ = create_local_cluster(1, 0)

        def pytest_configure(config):
            Path("pid").write_text(str(workers[0].pid))
        """
    )
    pytester.makepyfile(
        """
        from conftest import workers

        def test_it():
            assert workers[0].is_alive()
        """
    )
    run().assert_outcomes(passed=1)
    pid = int((pytester.path / "pid").read_text())
    assert not _exists(pid)


def _exists(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)
