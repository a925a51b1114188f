"""``scope="run"``: one cluster for all workers of xdist, whatever becomes of any of them."""

from __future__ import annotations

import os

import pytest

from pytest_localcluster import _rendezvous
from tests.plugin.conftest import Run
from tests.plugin.sharing import conftest, living, notes, tasks

pytestmark = pytest.mark.skipif(not _rendezvous.AVAILABLE, reason="no abstract sockets here")

__all__ = ["conftest"]  # a fixture

WORKERS = "4"

WHO = {
    "the first": "n == 0",
    "who started the steward": "os.getpid() == starter() and once()",
    "who started the cluster": "local_cluster.ps[0].log.origin == 0 and n > 1 and once()",
    "the last": "n == 39",
    "nobody": "False",
}


@pytest.mark.parametrize("who", WHO)
def test_all_tests_share_one_cluster(pytester: pytest.Pytester, run: Run, who: str) -> None:
    pytester.makepyfile(
        f"""
        from conftest import *

        @pytest.mark.cluster(workers=2, scope="run")
        @pytest.mark.parametrize("n", range(40))
        def test_it(local_cluster, n):
            pids = seen(local_cluster)
            if {WHO[who]}:
                os.kill(os.getpid(), signal.SIGKILL)
            assert local_cluster.run(os.getpid) == pids[:2]
            with device("/job:ps/task:0"):
                v = Variable(float(n), name=f"v{{n}}")
            with local_cluster.session() as session:
                session.run(v.initializer)
                assert session.run(v + 1) == n + 1
        """
    )
    result = run("-n", WORKERS)
    died = who != "nobody"
    result.assert_outcomes(passed=40 - died, failed=died)
    result.stdout.fnmatch_lines(["*worker 'gw?' crashed while running*"] if died else [])
    seen = [note for note in notes(pytester) if "tasks" in note]
    assert len(seen) == 40
    assert len({note["worker"] for note in seen}) > 1
    assert len(tasks(pytester)) == 1
    assert not living(pytester)  # at the very end of the run


def test_what_can_be_done_with_it(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import threading, warnings
        from conftest import *

        pytestmark = pytest.mark.cluster(
            workers=2, scope="run", env=lambda task: {"WHO": str(task)}
        )

        class Own(Exception):
            pass

        async def awaited():
            return 7

        def test_functions(local_cluster):
            worker = local_cluster.workers[1]
            assert worker.run(lambda: os.environ["WHO"]) == "/job:worker/task:1"
            assert "PYTEST_XDIST_WORKER" not in worker.run(lambda: dict(os.environ))
            assert worker.run(current_task).task == worker.task
            assert isinstance(worker.run(lambda: Own(3)), Own)
            assert worker.submit(lambda a, b=0: a - b, 3, b=1).result(60) == 2
            assert worker.run(os.getcwd) == os.getcwd()
            assert worker.run(awaited) == 7
            with pytest.raises(TypeError, match="generator function"):
                worker.run(lambda: (yield 1))
            def fail():
                raise Own("there")
            with pytest.raises(Own, match="there") as caught:
                local_cluster.run(fail)
            assert "in fail" in str(caught.value.__cause__)
            with pytest.raises(TypeError, match="pickle") as caught:
                worker.run(threading.Lock)
            with pytest.raises(TypeError, match="pickle") as caught:
                worker.run(id, threading.Lock())
            assert "go to /job:worker/task:1 pickled" in str(caught.value.__notes__)
            with pytest.raises(TimeoutError, match="has not finished after 0.1 s"):
                local_cluster.ps[0].run(lambda: threading.Event().wait(1), timeout=0.1)

        def test_warnings(local_cluster):
            with pytest.warns(UserWarning, match="from there"):
                local_cluster.ps[0].run(warnings.warn, "from there")
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with pytest.raises(UserWarning, match="from there"):
                    local_cluster.ps[0].run(warnings.warn, "from there")

        def test_what_it_tells(local_cluster):
            assert local_cluster.jobs.keys() == {"worker", "ps"}
            ps, = local_cluster.ps
            assert (ps.is_alive(), ps.exitcode, ps.is_suspended()) == (True, None, False)
            assert repr(ps) == f"<Server {ps.task} at {ps.address}: running, pid {ps.pid}>"
            assert repr(local_cluster) == "<RunCluster of 2 worker, 1 ps: running>"
            assert ps.server_def.job_name == "ps"
            assert local_cluster.environ(ps)["WHO"] == str(ps.task)
            spec = ClusterSpec.from_tf_config(local_cluster.environ()["TF_CONFIG"])
            assert spec == local_cluster.spec
            assert not ps.join(0)
            ps.channel().close()

        def test_what_others_would_feel(local_cluster):
            server = local_cluster.ps[0]
            for verb in ("start", "stop", "restart", "kill", "suspend", "resume"):
                with pytest.raises(UnsupportedError, match="other workers of this run use it"):
                    getattr(server, verb)()
            for verb, args in dict(
                reset=(), chaos=(), heal=(), partition=("ps", "worker"), drop=("ps", "worker")
            ).items():
                with pytest.raises(UnsupportedError, match="other workers of this run use it"):
                    getattr(local_cluster, verb)(*args)

        def test_a_breakpoint(local_cluster):
            with pytest.raises(UnsupportedError, match="breakpoint.. in /job:ps/task:0 needs"):
                local_cluster.ps[0].run(lambda: breakpoint())

        def test_a_test_may_let_go_of_it(local_cluster):
            local_cluster.stop()
            with pytest.raises(ClusterError, match="does not run"):
                local_cluster.run(os.getpid)
            local_cluster.stop()

        def test_it_is_there_again(local_cluster):
            assert local_cluster.run(lambda: os.environ["WHO"])
        """
    )
    run("-n", "1").assert_outcomes(passed=7, warnings=0)


def test_fixtures(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        from conftest import *

        one = cluster_fixture(scope="run", ps=2, env=lambda task: {"KIND": str({"a", "b"})})
        other = cluster_fixture(scope="run", ps=2, env=lambda task: {"KIND": str({"a", "b"})})

        @pytest.fixture(scope="session")
        def beside(one):
            return one

        @pytest.mark.cluster(ps=2, scope="run")
        @pytest.mark.parametrize("n", range(6))
        def test_three(beside, one, other, local_cluster, n):
            assert beside is one
            pids = [seen(one), seen(other), seen(local_cluster)]
            assert len({*map(tuple, pids)}) == 3
            assert "{" in one.ps[1].run(os.getenv, "KIND")

        @pytest.mark.parametrize("local_cluster", [dict(workers=0, scope="run")], indirect=True)
        def test_by_parameter(local_cluster):
            assert len(seen(local_cluster)) == 1
        """
    )
    run("-n", "2").assert_outcomes(passed=7)
    assert len(tasks(pytester)) == 4
    assert not living(pytester)


def test_services_from_a_test_module(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import grpc
        from conftest import *

        class Echo(grpc.GenericRpcHandler):
            def service(self, details):
                def say(request, context):
                    return request + str(current_task().task).encode()
                return grpc.unary_unary_rpc_method_handler(say)

        def add(server, task):
            server.add_generic_rpc_handlers([Echo()])

        pytestmark = pytest.mark.cluster(runtime=ServicerRuntime(worker=add, ps=add), scope="run")

        @pytest.mark.parametrize("n", range(4))
        def test_it(local_cluster, n):
            seen(local_cluster)
            channel = local_cluster.ps[0].channel()
            assert channel.unary_unary("/a/b")(b"I am ", timeout=30) == b"I am /job:ps/task:0"
        """
    )
    run("-n", "2").assert_outcomes(passed=4)
    assert len(tasks(pytester)) == 1


def test_programs(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import urllib.request
        from conftest import *

        serve = CommandRuntime(ps=["python3", "-m", "http.server", "--bind", "{host}", "{port}"])

        @pytest.mark.cluster(workers=0, runtime=serve, scope="run")
        @pytest.mark.parametrize("n", range(2))
        def test_it(local_cluster, n):
            seen(local_cluster)
            ps, = local_cluster.ps
            assert urllib.request.urlopen(f"http://{ps.address}", timeout=30).status == 200
            with pytest.raises(UnsupportedError, match="cannot run getpid: it is no Python"):
                ps.run(os.getpid)
            with pytest.raises(UnsupportedError, match="no Session can be opened"):
                local_cluster.session(ps)
        """
    )
    run("-n", "2").assert_outcomes(passed=2)
    assert len(tasks(pytester)) == 1
    assert not living(pytester)


def test_threads(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        from conftest import *

        class Own(Exception):
            pass

        @pytest.mark.cluster(launcher="thread", scope="run")
        def test_it(local_cluster):
            worker, = local_cluster.workers
            assert worker.run(os.getpid) == worker.pid == local_cluster._steward.pid
            assert isinstance(worker.run(Own), Own)
            def fail():
                raise Own("there")
            with pytest.raises(Own, match="there"):
                worker.run(fail)
            seen(local_cluster)
        """
    )
    run("-n", "1").assert_outcomes(passed=1)
    assert not living(pytester)


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["one", "two"])
def test_a_task_asks_the_worker_whose_call_it_runs(
    pytester: pytest.Pytester, run: Run, workers: list[str]
) -> None:
    pytester.makepyfile(
        """
        import multiprocessing, pickle, sys
        from conftest import *

        pytestmark = pytest.mark.cluster(workers=1, scope="run")
        OWNER = os.getpid()

        class Metric:
            pass

        def again(obj):
            return pickle.loads(pickle.dumps(obj))

        def look(name=__name__):
            home = sys.modules[name]
            assert home.Metric is again(Metric) is Metric
            assert home.again is again(again)
            return home.OWNER

        def in_child(method):
            with multiprocessing.get_context(method).Pool(1) as pool:
                return pool.apply(look)

        @pytest.mark.parametrize("n", range(6))
        def test_functions(local_cluster, n):
            assert local_cluster.run(look) == [os.getpid()]
            assert local_cluster.run(lambda: Metric) == [Metric]

        def test_children(local_cluster):
            assert local_cluster.run(in_child, "fork") == [os.getpid()]

        def test_operations(local_cluster):
            # With xdist sys.modules belongs to the call that the other worker may make just now.
            owner = (lambda: OWNER) if "PYTEST_XDIST_WORKER" in os.environ else look
            with local_cluster.session() as session:
                assert session.run(function(lambda: float(owner()))()) == os.getpid()

        def test_nothing(local_cluster):
            def look():
                with pytest.raises(AttributeError, match="'NOTHING'"):
                    sys.modules[OWN].NOTHING
            local_cluster.run(look)

        OWN = __name__
        """
    )
    run(*workers).assert_outcomes(passed=9)


def test_a_call_keeps_its_module_while_another_worker_s_operation_runs(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        """
        import sys
        from conftest import *

        OWNER = os.getpid()

        def hold():
            with open("called", "w"), open("operated") as end:  # each waits for the other end
                end.read()
            return sys.modules[__name__].OWNER, OWNER

        @pytest.mark.cluster(workers=1, ps=0, scope="run")
        @pytest.mark.parametrize("role", ["call", "operation"])
        def test_it(local_cluster, role):
            if role == "call":
                assert local_cluster.run(hold, timeout=60) == [(OWNER, OWNER)]
                return
            with local_cluster.session() as session, open("called"), open("operated", "w"):
                assert session.run(function(lambda: float(OWNER))()) == OWNER
        """
    )
    for name in ("called", "operated"):
        os.mkfifo(pytester.path / name)
    run("-n", "2").assert_outcomes(passed=2)


def test_an_operation_asks_although_no_function_was_called(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        """
        import sys
        from conftest import *

        THIS = sys.modules[__name__]
        VALUE = 3.0

        @pytest.mark.cluster(workers=1, scope="run")
        def test_it(local_cluster):
            with local_cluster.session() as session:
                assert session.run(function(lambda: THIS.VALUE)()) == 3.0

        @pytest.mark.cluster(workers=1, launcher="thread")
        def test_in_a_thread(local_cluster):
            with local_cluster.session() as session:
                assert session.run(function(lambda: THIS.VALUE)()) == 3.0
        """
    )
    run("-n", "2").assert_outcomes(passed=2)
