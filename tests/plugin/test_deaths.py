"""A task that dies on its own fails the test that it dies in; one that is killed does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

CONFTEST = """
import os
import signal

import pytest
from pytest_localcluster._clock import Deadline, poll

def die(words):
    print(words, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

def crash(server, words="last words"):
    "Have a task crash, as a bug would have it, and wait until that has happened."
    server.submit(die, words)
    assert poll(lambda: not server.is_alive(), Deadline(10))
"""


def test_death_fails_the_test(pytester: pytest.Pytester, run_both: Run) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import unittest
        import pytest
        from conftest import crash

        pytestmark = pytest.mark.cluster(workers=1, ps=2, scope="module")

        def test_dies(local_cluster):
            crash(local_cluster.ps[1])

        def test_has_nothing_to_do_with_it(local_cluster):
            assert local_cluster.ps[1].is_alive()

        def test_already_failed(local_cluster):
            crash(local_cluster.ps[1])
            assert "this test" == "failed by itself"

        def test_killed(local_cluster):
            local_cluster.ps[0].kill()
            assert not local_cluster.ps[0].is_alive()

        def test_killed_softly(local_cluster):
            import signal
            local_cluster.ps[0].kill(signal.SIGTERM)
            local_cluster.ps[0].join()

        def test_stopped_and_restarted(local_cluster):
            local_cluster.ps[0].stop()
            local_cluster.ps[1].restart()

        @pytest.mark.usefixtures("local_cluster")
        class Test(unittest.TestCase):
            def test_unittest(self):
                crash(self.local_cluster.ps[1], "in unittest")
                self.assertEqual("this test", "failed by itself")

        @pytest.mark.xfail(strict=True)
        def test_expected(local_cluster):
            crash(local_cluster.ps[1])
        """
    )
    result = run_both()
    result.assert_outcomes(passed=4, failed=3, xfailed=1)
    result.stdout.fnmatch_lines(
        [
            "*_ test_dies _*",
            "/job:ps/task:1 was killed by SIGKILL on its own",
            "*last words",
            "*_ test_already_failed _*",
            "E *'this test' == 'failed by itself'*",
            "*Captured log of deaths call*",
            "/job:ps/task:1 was killed by SIGKILL on its own",
            "*last words",
            "*Captured log of deaths call*",
            "*in unittest",
            "*short test summary*",
        ]
    )
    # The first is told by the failure itself, not once more below it.
    assert result.stdout.str().count("Captured log of deaths") == 2
    assert "_plugin" not in result.stdout.str()


def test_deaths_in_setup_and_teardown(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest(
        CONFTEST
        + """

@pytest.fixture
def dies_in_setup(local_cluster):
    crash(local_cluster.ps[0])

@pytest.fixture
def dies_in_teardown(local_cluster):
    yield
    crash(local_cluster.ps[0])
"""
    )
    pytester.makepyfile(
        """
        def test_setup(dies_in_setup):
            pass

        def test_teardown(dies_in_teardown):
            pass
        """
    )
    result = run()
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_teardown*",
            "/job:ps/task:0 was killed by SIGKILL on its own",
            "*_ test_setup _*",
            "/job:ps/task:0 was killed by SIGKILL on its own",
        ]
    )


def test_join_forgives_an_exit_with_0_alone(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import os, signal, sys
        import pytest
        from concurrent.futures import wait
        from pytest_localcluster import CommandRuntime, ServerExited

        @pytest.fixture
        def ps(local_cluster):
            return local_cluster.ps[0]

        def test_green_exit(ps):
            ps.submit(sys.exit, 0)
            assert ps.join() == 0

        def test_red_exit(ps):
            ps.submit(sys.exit, 3)
            assert ps.join(10) == 3

        def test_green_exit_that_is_expected(ps):
            ps.submit(sys.exit, 3)
            assert ps.join(check=False) == 3

        def test_red_signal(ps):
            os.kill(ps.pid, signal.SIGSEGV)
            assert ps.join() == -signal.SIGSEGV

        def test_red_exitcode(ps):
            os.kill(ps.pid, signal.SIGTERM)
            ps.join(10)
            assert ps.exitcode == -signal.SIGTERM

        def test_red_another_life(ps):
            os.kill(ps.pid, signal.SIGSEGV)
            ps.join()
            ps.restart()
            ps.submit(sys.exit, 0)
            ps.join()

        def test_red_future_that_nobody_asks(ps):
            wait([ps.submit(os._exit, 4)])
            ps.join()

        def test_green_kill(ps):
            ps.kill(signal.SIGTERM)
            assert ps.join() == -signal.SIGTERM

        def test_green_stop(ps):
            ps.stop()
            assert ps.join() == 0

        def test_green_future(ps):
            future = ps.submit(os._exit, 4)
            assert ps.join() == 4
            assert isinstance(future.exception(), ServerExited)

        def test_green_call_after_the_end(ps):
            os.kill(ps.pid, signal.SIGSEGV)
            ps.join()
            with pytest.raises(ServerExited, match="killed by SIGSEGV; there is nothing to run"):
                ps.run(int)

        @pytest.mark.cluster(workers=3, ps=0)
        def test_green_call_that_ended_several(local_cluster):
            with pytest.raises(ServerExited):
                local_cluster.run(os._exit, 3)

        @pytest.mark.cluster(workers=2, ps=0)
        def test_red_death_after_such_a_call(local_cluster):
            def end(first):
                if current_task().task.index == 0:
                    os._exit(3)

            from pytest_localcluster import current_task
            with pytest.raises(ServerExited):
                local_cluster.run(end, True)
            worker = local_cluster.workers[1]
            worker.run(int)
            crash(worker)

        from conftest import crash
        """
    )
    result = run("-rfE", "-v")
    result.assert_outcomes(passed=7, failed=6)
    lines = [line for line in result.outlines if line.startswith("test_") and "::" in line]
    outcomes = {line.split("::")[1].split()[0]: "PASSED" in line for line in lines}
    assert {name for name, passed in outcomes.items() if passed} == {
        name for name in outcomes if name.startswith("test_green")
    }


def test_a_death_that_the_test_was_told_of(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import os
        import pytest
        from pytest_localcluster import ServerExited
        from conftest import die

        def test_expected(local_cluster):
            with pytest.raises(ServerExited, match="exited with status 3"):
                local_cluster.ps[0].run(os._exit, 3)

        def test_error_says_it(local_cluster):
            local_cluster.ps[0].run(die, "last words")
        """
    )
    result = run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["E *ServerExited: /job:ps/task:0 was killed by SIGKILL*", "*last words"]
    )
    assert "Captured log of deaths" not in result.stdout.str()


def test_session_cluster_is_not_blamed_twice(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        from conftest import crash

        def test_dies(session_cluster):
            crash(session_cluster.ps[0])

        def test_unrelated():
            pass

        def test_next(session_cluster):
            assert session_cluster.ps[0].is_alive()
        """
    )
    run().assert_outcomes(passed=2, failed=1)


def test_a_death_that_a_restart_or_reset_mended(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest

        def die(server):
            future = server.submit(os._exit, 9)
            while not future.done():
                os.sched_yield()

        def test_restart(local_cluster):
            die(local_cluster.workers[0])
            local_cluster.workers[0].restart()

        @pytest.mark.cluster(scope="module")
        class TestShared:
            def test_reset(self, local_cluster):
                die(local_cluster.workers[0])
                local_cluster.reset()

            def test_after(self, local_cluster):
                assert local_cluster.run(lambda: 1) == [1]

            def test_again(self, local_cluster):
                die(local_cluster.workers[0])
                local_cluster.reset()
        """
    )
    result = run()
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(["*/job:worker/task:0 exited with status 9 on its own*"])


def test_what_was_replaced_is_told(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import os
        import signal
        import pytest
        from conftest import crash
        from pytest_localcluster import cluster_fixture
        from pytest_localcluster._clock import Deadline, poll

        own = cluster_fixture(scope="module", workers=1, ps=0)
        shared = pytest.mark.cluster(scope="class")

        @pytest.fixture(scope="module", autouse=True)
        def between_tests(request):
            "Kill tasks when no test runs."
            servers = []

            class Plugin:
                def pytest_runtest_logfinish(self):
                    while servers:
                        server = servers.pop()
                        os.kill(server.pid, signal.SIGSEGV)
                        assert poll(lambda: server._life.process.exitcode, Deadline(20))

            request.config.pluginmanager.register(Plugin(), "killer")
            yield servers
            request.config.pluginmanager.unregister(name="killer")

        @shared
        class TestShared:
            def test_first(self, local_cluster, between_tests):
                between_tests.append(local_cluster.ps[0])

            def test_second(self, local_cluster):
                local_cluster.ps[0].kill()
                assert "red" == "second"

            def test_third(self, local_cluster):
                assert "red" == "third"

        class TestLasting:
            def test_fourth(self, own, between_tests):
                between_tests.append(own.workers[0])

            def test_fifth(self, own):
                assert "red" == "fifth"

        class TestGreen:
            def test_sixth(self, own, between_tests):
                between_tests.append(own.workers[0])

            def test_seventh(self, own):
                pass
        """
    )
    result = run("-rP")
    result.assert_outcomes(passed=4, failed=3)
    result.stdout.fnmatch_lines(
        [
            "*_ TestShared.test_second _*",
            "*Captured log of replaced tasks setup*",
            "the cluster that this test shares was replaced: a task of it was not alive any more:",
            "/job:ps/task:0 was killed by SIGSEGV on its own",
            "*Fatal Python error: Segmentation fault",
            "*_ TestShared.test_third _*",
            "*Captured log of replaced tasks setup*",
            "/job:ps/task:0: it was ended on purpose, or by what an earlier test was told of",
            "*_ TestLasting.test_fifth _*",
            "these tasks were restarted for this test:",
            "/job:worker/task:0 was killed by SIGSEGV on its own",
            "*_ TestGreen.test_seventh _*",
            "*Captured log of replaced tasks setup*",
            "these tasks were restarted for this test:",
        ]
    )
