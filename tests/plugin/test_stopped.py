"""Servers that a cache keeps beyond their test: scopes that last, and warnings otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

CACHE = """
    import functools
    import threading
    import warnings

    import grpc
    import pytest
    from pytest_localcluster import LocalCluster, Session, constant, create_local_cluster
    from pytest_localcluster.errors import ClusterStoppedWarning, UnavailableError

    @functools.cache
    def server():
        return create_local_cluster(1, 1)[0][0]

    @functools.cache
    def target():
        return server().target

    def test_one():
        assert target()
        server().cluster.stop()
        with warnings.catch_warnings(action="error"):  # its own test knows that it stopped it
            assert server().address in target()
"""

STALE = (
    CACHE
    + """
    @pytest.mark.parametrize("name", ["target", "address", "server_def"])
    def test_reads(name):
        with pytest.warns(ClusterStoppedWarning, match="::test_one: nobody") as caught:
            assert getattr(server(), name)
        assert caught[0].filename == __file__
        assert f"the {name} of /job:worker/task:0 at localhost:" in str(caught[0].message)

    def test_verbs():
        for verb in (server().restart, server().kill, server().cluster.reset, server().channel):
            with pytest.raises(Exception, match="::test_one"):
                verb()
        with pytest.raises(Exception, match="::test_one ended"):
            server().run(int)
        with warnings.catch_warnings(action="error"):
            assert "stopped" in repr(server())

    def test_session():
        with pytest.raises(UnavailableError, match="::test_one") as caught:
            Session(target()).run(constant(1))
        assert 'create_local_cluster(..., scope="module")' in str(caught.value)

    def test_a_new_cluster():
        with create_local_cluster(1, 0)[0][0].cluster as cluster:
            with warnings.catch_warnings(action="error"):
                assert cluster.workers[0].target
"""
).replace("nobody", "nothing")

RED = (
    CACHE
    + """
    def test_grpc():
        with grpc.insecure_channel(target().removeprefix("grpc://")) as channel:
            channel.unary_unary("/a/b")(b"", timeout=10)

    @pytest.mark.filterwarnings("ignore::pytest_localcluster.errors.ClusterStoppedWarning")
    def test_hang():
        server().target
        threading.Event().wait(3)
        raise AssertionError
"""
)


def test_who_reads_the_address_of_a_stopped_server_is_warned(
    pytester: pytest.Pytester, run_both: Run
) -> None:
    pytester.makepyfile(STALE)
    run_both("-Werror").assert_outcomes(passed=7)


def test_reports_of_failures_and_hangs_name_the_test(pytester: pytest.Pytester, run: Run) -> None:
    path = pytester.makepyfile(RED)
    result = run("--cluster-hang-dump=1.5", "-rf")
    result.assert_outcomes(passed=1, failed=2)
    text = result.stdout.str()
    which = (
        rf"/job:worker/task:0 at localhost:\d+, whose cluster stopped with {path.name}::test_one"
    )
    result.stdout.re_match_lines(
        [
            ".* test_grpc _.*",
            ".*Captured log of stopped clusters call.*",
            which,
            ".* test_hang _.*",
            ".*Captured log of a hang call.*",
            f"--- the test has to do with {which}: nobody is there any more",
        ]
    )
    assert text.count("log of stopped clusters") == 2


LASTING = """
    import pytest
    from pytest_localcluster import SpecError, create_local_cluster

    MADE = {}

    def make(scope):
        (server,), _ = create_local_cluster(1, 0, scope=scope, launcher="thread")
        MADE[scope] = server
        return server

    class TestScopes:
        @pytest.mark.parametrize("scope", ["function", "class", "module", "package", "session"])
        def test_make(self, scope):
            make(scope)

        def test_in_class(self):
            living = [scope for scope, server in MADE.items() if server.is_alive()]
            assert living == ["class", "module", "package", "session"]
            assert MADE["class"].target

    def test_in_module():
        living = [scope for scope, server in MADE.items() if server.is_alive()]
        assert living == ["module", "package", "session"]

    @pytest.fixture(scope="module")
    def servers():
        with pytest.raises(SpecError, match="ends before the fixture 'servers'") as caught:
            make("class")
        assert "use scope='module' or a wider one" in str(caught.value)
        return make("session")

    def test_fixture(servers):
        assert servers.is_alive()
"""


def test_a_cluster_lives_as_long_as_its_scope(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        test_a=LASTING,
        test_b="""
        from test_a import MADE

        def test_elsewhere():
            assert [scope for scope in MADE if MADE[scope].is_alive()] == ["package", "session"]
        """,
    )
    run("-Werror", "-Wignore::pytest_localcluster.errors.ClusterStoppedWarning").assert_outcomes(
        passed=9
    )


def test_threads_are_pythons_own(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import threading
        from unittest import mock

        import pytest
        from pytest_localcluster import LocalCluster

        @pytest.fixture(autouse=True)
        def no_threads():
            with mock.patch("threading.Thread"), mock.patch("threading.Timer"):
                yield

        @pytest.mark.timeout(60, method="thread")
        def test_it():
            # Not with launcher="thread": there gRPC's own server needs a thread.
            with LocalCluster(workers=2, ps=1) as cluster:
                assert cluster.run(int, "3", timeout=20) == [3, 3]
                cluster.restart_dead()
                cluster.reset()
                with cluster.session() as session:
                    assert session.list_devices()
            assert threading.Thread.mock_calls == threading.Timer.mock_calls == []
        """
    )
    run("--cluster-hang-dump=50", "-s").assert_outcomes(passed=1)
