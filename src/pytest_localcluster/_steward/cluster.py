"""RunCluster: a cluster that all workers of a run use, as one of them sees it.

It is a LocalCluster whose tasks the steward has. What tells one test's use of it from another's is
for the tests to see to, so nothing here resets it, and what would be felt by all is refused.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from .. import _context, _held
from .._channel import close_all, renew_all
from .._cluster import LocalCluster
from .._context import Token
from .._core import pickling
from .._fingerprint import fingerprint
from .._foreign import Elsewhere
from .._net import Links
from .._observer import observer
from .._runtimes import Assignment
from .._setup import Place
from ..errors import SpecError
from .messages import Surroundings, Wish
from .task import RunServer, log_of, refusal

if TYPE_CHECKING:
    from .._config import ClusterConfig
    from .._life import Life
    from .._server import Server
    from .link import Link, Member
    from .messages import Facts, TaskFacts

__all__ = ["RunCluster", "prepare"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both


Ports = tuple[int, int] | None


class RunCluster(LocalCluster):
    """The cluster of this run that a marker or a fixture describes.

    Starting it has the steward start what does not run yet. Stopping it lets the tasks be.

    Args:
        config: what is asked for.
        member: this worker.
        name: what the fixture or marker is called, for the folder of the logs.
        where: where that is said, if it is not the same for two of one config.
        logs: the folder for all logs of the run; None if they go with the cluster.
        ports: from which range ports are leased; None is any.

    Raises:
        SpecError: the config cannot go to another process, or its tasks are for other machines.
    """

    def __init__(
        self,
        config: ClusterConfig,
        member: Member,
        *,
        name: str,
        where: str,
        logs: Path | None,
        ports: Ports,
    ) -> None:
        if config.is_networked():
            raise SpecError(
                "a cluster of scope 'run' cannot be on other machines: workers tell by pids on "
                "this one who lives",
                status=f"launcher={config.launcher!r}",
                remedy="use another scope, or the launcher 'process'",
            )
        super().__init__(config)
        self._member = member
        self._wish = _Wisher(config, name, where, logs, ports)
        self._view = ExitStack()  # what goes with these tasks, and with no others
        self._unsaid: list[Server] = []  # that were restarted when we came

    def _start(self) -> None:
        self._held = _held.hold(repr(self).replace(": not running", ""))
        with ExitStack() as undo, _held.owned_by(self._held):
            undo.callback(self._held.give_back)
            undo.callback(setattr, self, "_open", None)
            link, facts = self._ask()
            self._net = Links(None, {})
            undo.callback(lambda: self._view.close())
            self._look(link, facts)
            self._unsaid = [s for s in self.servers if s.task in facts.restarted]
            watcher = observer()
            if watcher is not None:
                undo.callback(watcher.stopped, self)
            undo.callback(self._let_go)
            self._open = undo
            if watcher is not None:
                watcher.launched(self)
            self._open = undo.pop_all()

    def _ask(self) -> tuple[Link, Facts]:
        return self._member.cluster(self._wish, self._start_deadline().seconds or 0.0)

    def _look(self, link: Link, facts: Facts) -> None:
        """See the cluster as these facts tell it, for the first time or instead of another one."""
        self._view.close()
        self._steward = facts.steward
        self._link, self._spec, self._token = link, facts.spec, Token(facts.token)
        self.log_dir = facts.log_dir
        self.servers = [self._server(one, facts.started) for one in facts.tasks]

    def _server(self, facts: TaskFacts, started: bool) -> RunServer:
        assert self._spec is not None
        task, token = facts.task, self._token
        address, runtime = self._spec.task_address(task.job, task.index), self._runtimes[task.job]
        _context.register_token(address, token)
        self._view.callback(_context.forget_token, address)
        self._view.callback(close_all, address)
        place = Place(
            Assignment(facts.context, facts.server_def, token),
            runtime,
            cast("Any", None),  # nothing is launched
            cast("Any", Elsewhere(address)),
            facts.server_def,
        )
        return RunServer(self, place, log_of(facts, started), self._link, self._wish.key, facts)

    def _let_go(self) -> None:
        for server in self.servers:
            assert isinstance(server, RunServer)
            server.let_go()

    def _lives(self) -> list[Life]:
        return []  # none that is ours to end

    def restart_dead(self) -> list[Server]:
        """Have the steward start what has died; return what this process knew in another life.

        Raises:
            StartError: a task does not start.
        """
        with self._lock:
            self._check_running("restart tasks")
            link, facts = self._ask()
            unsaid, self._unsaid = self._unsaid, []
            if facts.token != self._token:
                deaths = [server.unexpected_death() for server in self.servers]
                self._look(link, facts)
                for server, death in zip(self.servers, deaths, strict=True):
                    server._life._death = death  # they went with the steward that had them
                return list(self.servers)
            for server, one in zip(self.servers, facts.tasks, strict=True):
                assert isinstance(server, RunServer)
                if server.pid != one.process.pid:
                    server.begin(one, one.death)
                    renew_all(server.address)
                    unsaid.append(server)
            return unsaid

    def reset(self) -> NoReturn:
        """Refuse it."""
        raise refusal("the cluster", "be reset")

    def chaos(self, *_: object, **__: object) -> NoReturn:
        """Refuse it."""
        raise refusal("the cluster", "be disturbed")

    def _linked(self, verb: str) -> NoReturn:
        raise refusal("the cluster", verb)

    def __repr__(self) -> str:
        return super().__repr__().replace("<LocalCluster", "<RunCluster")


class _Wisher:
    """Says what is wanted, from where this process is when it is asked."""

    def __init__(
        self, config: ClusterConfig, name: str, where: str, logs: Path | None, ports: Ports
    ) -> None:
        self._ports = ports
        self._name = name
        self._logs = logs
        try:
            self.key = fingerprint((name, where, config))
            self._config = pickling.dumps(config)
        except Exception as error:
            raise SpecError(
                f"no cluster of scope 'run' can be had: {type(error).__name__}: {error}",
                remedy="the config goes to another process, pickled: make what cannot be pickled "
                "in a function of it, or use another scope",
            ) from error

    def __call__(self) -> Wish:
        surroundings = Surroundings.here(self._ports)
        return Wish(self.key, self._config, surroundings, self._logs, self._name)


def prepare(member: Member, config: ClusterConfig, ports: Ports) -> None:
    """Have what would start the tasks of such a cluster get ready; do not wait for it."""
    if isinstance(config.launcher, str):
        member.join().ask("prepare", _Wisher(config, "", "", None, ports)())
