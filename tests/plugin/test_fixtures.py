"""The fixtures: what each gives, and that nothing is left of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]


def test_local_cluster(pytester: pytest.Pytester, run_both: Run) -> None:
    pytester.makepyfile(
        test_functions="""
        import os
        import pytest

        def test_default(local_cluster):
            assert local_cluster.config.counts() == {"worker": 1, "ps": 1}
            assert local_cluster.workers[0].run(os.getpid) == local_cluster.workers[0].pid

        @pytest.mark.cluster(workers=2, ps=0, jobs={"chief": 1}, env={"COLOUR": "red"})
        def test_marked(local_cluster):
            workers, ps = local_cluster
            assert len(workers) == 2 and ps == []
            assert local_cluster.run(os.getenv, "COLOUR", job="chief") == ["red"]

        @pytest.mark.cluster(launcher="thread")
        @pytest.mark.parametrize("local_cluster", [dict(workers=1), dict(workers=3)], indirect=True)
        def test_parameter(local_cluster, request):
            wanted = request.node.callspec.params["local_cluster"]["workers"]
            assert len(local_cluster.workers) == wanted
            assert all(w.pid == os.getpid() for w in local_cluster.workers)

        def test_is_new_each_time(local_cluster, request):
            assert all(server.is_alive() for server in local_cluster.servers)
            request.config.stash[pytest.StashKey()] = local_cluster
        """,
        test_unittest="""
        import unittest
        import pytest

        @pytest.mark.cluster(workers=2, launcher="thread")
        @pytest.mark.usefixtures("local_cluster")
        class Test(unittest.TestCase):
            def test_it(self):
                self.assertEqual(len(self.local_cluster.workers), 2)
                type(self).first = self.local_cluster

            def test_next(self):
                self.assertIsNot(getattr(self, "first", None), self.local_cluster)

        @pytest.mark.cluster(scope="class", launcher="thread")
        class TestShared(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def cluster(self, local_cluster):
                self.cluster = local_cluster

            def test_it(self):
                self.assertIs(self.cluster, self.local_cluster)
        """,
    )
    run_both().assert_outcomes(passed=8)


def test_other_fixtures(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest(
        """
        import pytest
        from pytest_localcluster import ClusterConfig, cluster_fixture

        @pytest.fixture(scope="session")
        def cluster_config(cluster_config):
            return cluster_config.replace(ps=0)

        pair = cluster_fixture(scope="module", workers=2)
        single = cluster_fixture(launcher="thread")

        @pytest.fixture(scope="module")
        def filled(pair):
            pair.workers[0].run(exec, "import sys; sys.mark = 42")
            return pair
        """
    )
    pytester.makepyfile(
        test_one="""
        import socket
        import pytest

        seen = []

        def mark():
            import sys
            return getattr(sys, "mark", None)

        def test_session(session_cluster):
            assert session_cluster.config.counts() == {"worker": 1, "ps": 0}
            seen.append(session_cluster)

        def test_session_again(session_cluster):
            assert seen == [session_cluster]

        @pytest.mark.cluster(workers=9)
        def test_own_fixture(filled, pair, single):
            assert filled is pair
            assert pair.config.counts() == {"worker": 2, "ps": 0}
            assert single.config.counts() == {"worker": 1, "ps": 0}
            assert pair.run(mark) == [42, None]
            seen.append(pair)

        def test_own_fixture_lasts(pair, single):
            assert pair is seen[-1]
            assert pair.run(mark) == [42, None]

        @pytest.mark.parametrize("single", [dict(workers=3)], indirect=True)
        def test_own_fixture_with_parameter(single):
            assert len(single.workers) == 3

        def test_factory(cluster_factory):
            one, two = cluster_factory(workers=2), cluster_factory(launcher="thread", ps=1)
            assert one.config.counts() == {"worker": 2, "ps": 0}
            assert two.config.counts() == {"worker": 1, "ps": 1}
            seen.extend([one, two])

        def test_they_are_gone():
            assert not any(s.is_alive() for cluster in seen[-2:] for s in cluster.servers)

        def test_factory_refuses(cluster_factory):
            with pytest.raises(ValueError, match="did you mean 'workers'"):
                cluster_factory(worker=2)

        def test_ports(lease_port):
            leases = [lease_port() for _ in range(20)]
            assert len({lease.port for lease in leases}) == 20
            assert all(lease.held for lease in leases)
            seen.extend(leases)

        def test_ports_are_free_again():
            assert not any(lease.held for lease in seen[-20:])
        """,
        test_two="""
        import test_one

        def test_the_module_is_over(session_cluster):
            assert session_cluster is test_one.seen[0]
            assert session_cluster.workers[0].is_alive()
            assert not test_one.seen[2].workers[0].is_alive()
        """,
    )
    run().assert_outcomes(passed=11)


def test_session_cluster_is_mended(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest

        def test_kills(session_cluster):
            session_cluster.ps[0].kill()
            assert not session_cluster.ps[0].is_alive()

        def test_unused():
            pass

        def test_finds_it_alive(session_cluster):
            assert session_cluster.ps[0].run(os.getpid) == session_cluster.ps[0].pid
        """
    )
    run().assert_outcomes(passed=3)


def test_asyncio(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import asyncio
        import pytest
        import pytest_asyncio
        from pytest_localcluster import create_local_cluster

        pytestmark = pytest.mark.asyncio
        seen = []

        @pytest_asyncio.fixture
        async def workers():
            workers, _ = create_local_cluster(2, 0, launcher="thread")
            seen.append(workers[0])
            yield workers
            assert workers[0].is_alive()

        async def test_it(local_cluster, workers):
            future = asyncio.wrap_future(local_cluster.workers[0].submit(sum, [1, 2]))
            assert await future == 3
            assert workers[0].is_alive()

        async def test_gone():
            assert not seen[0].is_alive()
        """
    )
    run().assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        ("return {'workers': 2}", ["cluster_config returned {'workers': 2}", "return a pytest_"]),
        ("return ClusterConfig(workers=-1)", ["workers=-1: there cannot be fewer than no tasks"]),
    ],
)
def test_bad_cluster_config(pytester: pytest.Pytester, body: str, messages: list[str]) -> None:
    pytester.makeconftest(
        f"""
        import pytest
        from pytest_localcluster import ClusterConfig

        @pytest.fixture(scope="session")
        def cluster_config():
            {body}
        """
    )
    pytester.makepyfile("def test_it(local_cluster): pass")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    for message in messages:
        result.stdout.fnmatch_lines([f"*{message}*"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [("worker=2", "did you mean 'workers'"), ("ps=-2", "there cannot be fewer than no tasks")],
)
def test_bad_cluster_fixture(pytester: pytest.Pytester, arguments: str, message: str) -> None:
    pytester.makepyfile(
        f"""
        from pytest_localcluster import cluster_fixture

        mine = cluster_fixture({arguments})

        def test_it(mine): pass
        """
    )
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*SpecError: *"])
    assert message in result.stdout.str()
