"""Lanes: threads that each send one case after the other, and judge what comes back."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from pytest_localcluster import Server
from pytest_localcluster._channel import open_channel, token_metadata
from pytest_localcluster._proto.graph_pb2 import Status
from pytest_localcluster._proto.master_pb2 import CreateSessionRequest
from pytest_localcluster._proto.worker_pb2 import RegisterGraphRequest, RunGraphRequest
from tests.native.fuzz.cases import LONG, SHORT, Case, Cases, Live
from tests.native.fuzz.recording import METHODS, Corpus, copied

BATCH = 40  # cases between two times that a lane sets up what its messages name

ENOUGH = 10  # faults after which a lane gives up

_WITH_STATUS = ("CreateSession", "RegisterGraph", "RunGraph", "RunStep", "PullTensor")
_LONGEST = 2100  # characters in a message about what a caller did


class Lane:
    """Sends cases to one task.

    Args:
        corpus: what was recorded.
        cases: makes cases.
        server: the task.
        token: the cluster's.

    Attributes:
        faults: what was wrong, in words.
        outcomes: how often each method ended with each code.
        sessions: handles that were used.
        graphs: handles of those that may belong to no session.
        step_ids: that were used.
    """

    def __init__(self, corpus: Corpus, cases: Cases, server: Server, token: str) -> None:
        self.faults: list[str] = []
        self.outcomes: Counter[str] = Counter()
        self.sessions: set[str] = set()
        self.graphs: set[str] = set()
        self.step_ids: set[int] = {0, 1}
        self._corpus = corpus
        self._cases = cases
        self._channel = open_channel(server.address)
        self._metadata = token_metadata(token)
        self._task = str(server.task)
        self._live = Live()

    def run(self, numbers: Iterable[int]) -> None:
        """Send the cases with these numbers; stop when there is enough to mend."""
        for position, number in enumerate(numbers):
            if position % BATCH == 0:
                self._set_up(random.Random(number))
            self.send(self._cases.make(number, self._live))
            if len(self.faults) >= ENOUGH:
                return

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def call(self, name: str, *messages: Message) -> Any:
        """Call a method with messages that are right; return the answer, or the last of many."""
        requests = [message.SerializeToString() for message in messages]
        answers = self._invoke(Case(-1, "", METHODS[name], requests), LONG)
        return METHODS[name].response.FromString(answers[-1])

    def _set_up(self, rng: random.Random) -> None:
        """Begin a session and register graphs, as real callers would."""
        live = Live(self._task)
        # Another lane may have reset this task just now.
        for _ in range(100):
            try:
                self._begin(rng, live)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.ABORTED:
                    raise
            else:
                break
        for recorded in rng.sample(sorted(self._corpus.graphs), 6):
            request = self._cases.bound(rng, self._corpus.graphs[recorded], live)
            answer = self.call("RegisterGraph", request)
            self._registered(request, answer.graph_handle)
            if answer.graph_handle:
                live.graphs[recorded] = answer.graph_handle
        self._live = live

    def _begin(self, rng: random.Random, live: Live) -> None:
        live.session = self.call("CreateSession", CreateSessionRequest()).session_handle
        self.sessions.add(live.session)
        for name, messages in rng.choice(self._corpus.sessions):
            copies: list[Any] = [copied(message) for message in messages]
            copies[0].session_handle = live.session
            self.call(name, *copies)

    def _registered(self, request: RegisterGraphRequest, handle: str) -> None:
        self.sessions.add(request.session_handle)
        self.graphs.add(handle)
        if handle:
            self._cases.registered(handle, waits=bool(request.recv))

    def send(self, case: Case) -> None:
        """Send a case, and note what is wrong with the answer."""
        may_wait = self._cases.may_wait(case)
        if case.method.name == "RunGraph":
            for data in case.requests:
                with suppress(DecodeError):
                    self.step_ids.add(RunGraphRequest.FromString(data).step_id)
        try:
            answers = self._invoke(case, SHORT if may_wait else LONG)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            self._count(case, code.name)
            self._judge_error(case, code, details, may_wait)
        else:
            self._count(case, "OK")
            if case.method.name in _WITH_STATUS:
                for answer in answers:
                    self._judge_answer(case, case.method.response.FromString(answer))

    def _invoke(self, case: Case, timeout: float) -> list[bytes]:
        method = case.method
        over = threading.Event()
        streams_in = method.streams_in or case.odd
        kind = (
            f"{'stream' if streams_in else 'unary'}_{'stream' if method.streams_out else 'unary'}"
        )
        request: Any = case.stream(over) if streams_in else case.requests[0]
        call: Any = getattr(self._channel, kind)(method.path)
        try:
            if method.streams_out:
                answers = call(request, metadata=self._metadata, timeout=timeout)
                if case.hang_up:
                    answers.cancel()
                return [bytes(answer) for answer in answers]
            if case.hang_up:
                future = call.future(request, metadata=self._metadata, timeout=timeout)
                future.cancel()
                try:
                    return [bytes(future.result())]
                except grpc.FutureCancelledError:
                    return []
            return [bytes(call(request, metadata=self._metadata, timeout=timeout))]
        finally:
            over.set()

    def _count(self, case: Case, outcome: str) -> None:
        self.outcomes[f"{case.method.name} {outcome}"] += 1

    def _judge_error(self, case: Case, code: grpc.StatusCode, details: str, may_wait: bool) -> None:
        right = _RIGHT | ({grpc.StatusCode.DEADLINE_EXCEEDED} if may_wait else set())
        right |= {grpc.StatusCode.UNIMPLEMENTED} if case.odd else set()
        right |= {grpc.StatusCode.CANCELLED} if case.hang_up else set()
        foreign = code is grpc.StatusCode.UNKNOWN and (
            details.startswith("Exception ") or "application" in details
        )
        if code not in right or foreign or len(details) > _LONGEST or "Traceback" in details:
            self._fault(case, f"{code.name}: {details}")

    def _judge_answer(self, case: Case, answer: Any) -> None:
        if case.method.name == "CreateSession":
            self.sessions.add(answer.session_handle)
            return
        if case.method.name == "RegisterGraph" and case.requests:
            request = RegisterGraphRequest.FromString(case.requests[0])
            self._registered(request, answer.graph_handle)
        if case.method.name == "RunStep":
            self.step_ids.add(answer.step_id)
        status: Status = answer.status
        self.outcomes[f"{case.method.name} status {status.code}"] += 1
        ours = _is_ours(status.traceback)
        if ours or status.code == 13 or len(status.message) > _LONGEST:
            self._fault(case, f"status {status.code}: {status.message}\n{status.traceback}")

    def _fault(self, case: Case, what: str) -> None:
        sizes = [len(data) for data in case.requests]
        self.faults.append(
            f"case {case.number}, {case.kind} {case.method.name} of {sizes} bytes: {what[:3000]}"
        )


_RIGHT = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
}


def _is_ours(traceback: str) -> bool:
    """Tell whether this package's own lines raised an exception, and not a user's function."""
    frames = [line for line in traceback.splitlines() if line.lstrip().startswith('File "')]
    # NumPy's functions and pickle's have no frame of their own: what calls them is the last.
    last = frames[-1] if frames else ""
    calls_users = "_graph.py" in last or "stand_ins.py" in last
    return "/pytest_localcluster/" in last and not calls_users
