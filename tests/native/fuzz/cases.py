"""Cases: one number, one call, always the same but for what only the running cluster knows."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import message_factory
from google.protobuf.message import DecodeError, Message

from pytest_localcluster._proto.worker_pb2 import (
    RecvTensorRequest,
    RegisterGraphRequest,
    RunGraphRequest,
)
from tests.native.fuzz import mutation
from tests.native.fuzz.recording import METHODS, Corpus, Method, Sample, copied

SHORT = 0.04  # seconds for what may rightly wait: a value that nobody will ever leave
LONG = 20.0  # seconds for everything else, on a machine that has other things to do


# How often each method is called, where it is not 4: what ends sessions would leave few to test.
_OFTEN = {
    "Reset": 0.1,
    "CleanupAll": 0.5,
    "CloseSession": 0.3,
    "DeregisterGraph": 1,
    "GetStatus": 1,
    "ReadVariables": 1,
    "RunStep": 16,
    "ExtendSession": 8,
    "RegisterGraph": 12,
    "RunGraph": 12,
    "SendTensor": 8,
}


_TASK = re.compile("/job:.*/task:[0-9]+")


@dataclass
class Live:
    """What a lane has set up at the cluster, so that messages name things that are there.

    Attributes:
        task: the one that is called.
        session: a handle, of a session at this task.
        graphs: handles of graphs there, by those that they had when recorded.
        step_ids: that were made up.
    """

    task: str = ""
    session: str = "none"
    graphs: dict[str, str] = field(default_factory=dict)
    step_ids: list[int] = field(default_factory=lambda: [1])


@dataclass
class Case:
    """One call.

    Attributes:
        number: which.
        kind: how it was made.
        method: what is called.
        requests: the messages, as bytes.
        endless: whether the caller neither sends more nor says that it is done.
        hang_up: whether the caller cancels as soon as it has called.
        odd: whether there are not as many messages as the method takes.
    """

    number: int
    kind: str
    method: Method
    requests: list[bytes]
    endless: bool = False
    hang_up: bool = False
    odd: bool = False

    def stream(self, over: threading.Event) -> Iterator[bytes]:
        """Yield the messages; if it is endless, wait for the call's end."""
        yield from self.requests
        if self.endless:
            over.wait(LONG)


class Cases:
    """Makes cases.

    Args:
        corpus: what was recorded.
        seed: what all follows from.
    """

    def __init__(self, corpus: Corpus, seed: int) -> None:
        self._corpus = corpus
        self._seed = seed
        self._graphs: dict[str, bool] = {}  # by handle, whether its steps ask other tasks
        self._starts: set[str] = set()  # with which handles begin, of each task another
        self._samples = [s for samples in corpus.samples.values() for s in samples]
        self._by_type: dict[str, list[Message]] = {}
        everything = [m for sample in self._samples for m in sample.messages]
        for message in everything:
            for spot in mutation.messages_in(message):
                self._by_type.setdefault(spot.DESCRIPTOR.full_name, []).append(spot)
        self._pickles = mutation.pickles_in(iter(everything))
        self._kinds: list[tuple[str, int, Callable[..., Case]]] = [
            ("noise", 5, self._noise),
            ("other types", 5, self._other_types),
            ("truncated", 6, self._truncated),
            ("damaged", 12, self._damaged),
            ("spliced", 4, self._spliced),
            ("misdirected", 3, self._misdirected),
            ("mutated", 57, self._mutated),
            ("stream", 6, self._stream),
            ("replayed", 2, self._replayed),
        ]

    def registered(self, handle: str, *, waits: bool) -> None:
        """Take note of a graph, and of whether its steps ask other tasks for values."""
        self._graphs[handle] = waits
        self._starts.add(handle.partition(".")[0])

    def may_wait(self, case: Case) -> bool:
        """Tell whether it is right that a case may not be answered for ever."""
        if case.endless or case.method.name in ("PullTensor", "RecvTensor"):
            return True
        return case.method.name == "RunGraph" and any(map(self._waits, case.requests))

    def _waits(self, data: bytes) -> bool:
        try:
            request = RunGraphRequest.FromString(data)
        except DecodeError:
            return False
        waits = self._graphs.get(request.graph_handle)
        if waits is None:  # a damaged handle may be that of a graph that a master has registered
            return request.graph_handle.partition(".")[0] in self._starts
        return waits or any(feed.value.WhichOneof("kind") == "stored" for feed in request.feed)

    def others(self, kind: Any) -> list[Message]:
        """Return recorded messages of a type."""
        found = self._by_type.get(kind.full_name)
        return found or [message_factory.GetMessageClass(kind)()]

    def make(self, number: int, live: Live) -> Case:
        """Return case ``number`` for what is there now."""
        rng = random.Random(f"{self._seed}/{number}")
        name, _, maker = rng.choices(self._kinds, [weight for _, weight, _ in self._kinds])[0]
        case = maker(rng, live)
        case.number, case.kind = number, name
        kind, known = case.method.request, self._pickles
        case.requests = [mutation.defuse(data, kind, known) for data in case.requests]
        # What nobody is told of could not be given back.
        if case.method.name not in ("CreateSession", "RegisterGraph"):
            case.hang_up = rng.random() < 0.05
        return case

    def bound(self, rng: random.Random, message: Message, live: Live) -> Any:
        """Return a copy of a recorded message that names what is there, mostly."""
        copy: Any = copied(message)
        fields = copy.DESCRIPTOR.fields_by_name
        if "session_handle" in fields and copy.session_handle and rng.random() < 0.95:
            copy.session_handle = live.session
        if "graph_handle" in fields and live.graphs and rng.random() < 0.95:
            other = rng.choice(list(live.graphs.values()))
            copy.graph_handle = live.graphs.get(copy.graph_handle, other)
        if isinstance(copy, RecvTensorRequest) and not copy.step_id:  # what a client sent ahead
            copy.key = f"{live.session}/{copy.key.partition('/')[2]}"
        if "step_id" in fields and copy.step_id:
            if isinstance(copy, RunGraphRequest) or rng.random() < 0.3:
                live.step_ids.append(rng.getrandbits(64))
            copy.step_id = rng.choice(live.step_ids[-8:])
        if isinstance(copy, RegisterGraphRequest):
            for node in copy.graph_def.node:
                node.device = _TASK.sub(live.task.replace("/task", "/replica:0/task"), node.device)
            if rng.random() < 0.9:
                copy.allow_soft_placement = True
        return copy

    def _sample(self, rng: random.Random) -> Sample:
        return rng.choice(self._corpus.samples[self._name(rng)])

    def _name(self, rng: random.Random) -> str:
        return rng.choices(list(METHODS), [_OFTEN.get(name, 4) for name in METHODS])[0]

    def _method(self, rng: random.Random) -> Method:
        return METHODS[self._name(rng)]

    def _real(self, rng: random.Random, live: Live) -> tuple[Method, list[Message]]:
        sample = self._sample(rng)
        return sample.method, [self.bound(rng, message, live) for message in sample.messages]

    def _noise(self, rng: random.Random, live: Live) -> Case:
        size = rng.choice((0, 1, 2, 10, 100, 1000, 50_000))
        return Case(0, "", self._method(rng), [rng.randbytes(size)])

    def _other_types(self, rng: random.Random, live: Live) -> Case:
        data = mutation.fields_of_wrong_types(rng)
        return Case(0, "", self._method(rng), [data])

    def _bytes(self, rng: random.Random, live: Live, change: Callable[[bytes], bytes]) -> Case:
        method, messages = self._real(rng, live)
        requests = [message.SerializeToString() for message in messages]
        at = rng.randrange(len(requests))
        requests[at] = change(requests[at])
        return Case(0, "", method, requests)

    def _truncated(self, rng: random.Random, live: Live) -> Case:
        return self._bytes(rng, live, lambda data: data[: rng.randrange(len(data) + 1)])

    def _damaged(self, rng: random.Random, live: Live) -> Case:
        return self._bytes(rng, live, lambda data: mutation.flip(rng, data))

    def _spliced(self, rng: random.Random, live: Live) -> Case:
        other = rng.choice(self._sample(rng).messages).SerializeToString()
        return self._bytes(rng, live, lambda data: mutation.splice(rng, data, other))

    def _misdirected(self, rng: random.Random, live: Live) -> Case:
        _, messages = self._real(rng, live)
        method = self._method(rng)
        return Case(0, "", method, [message.SerializeToString() for message in messages])

    def _mutated(self, rng: random.Random, live: Live) -> Case:
        method, messages = self._real(rng, live)
        for _ in range(rng.choice((1, 1, 2, 4))):
            with suppress(DecodeError):  # deeper than protobuf itself can copy
                mutation.mutate(rng, rng.choice(messages), self.others)
        return Case(0, "", method, [message.SerializeToString() for message in messages])

    def _stream(self, rng: random.Random, live: Live) -> Case:
        """Messages out of order, too many, none, one after which nothing comes."""
        if rng.random() < 0.3:
            method, messages = self._real(rng, live)
        else:
            sample = rng.choice(self._corpus.samples["SendTensor"])
            method = sample.method
            messages = [self.bound(rng, message, live) for message in sample.messages]
        requests = [message.SerializeToString() for message in messages]
        change = rng.randrange(5)
        if change == 0:
            rng.shuffle(requests)
        elif change == 1:
            requests += requests
        elif change == 2:
            requests = requests[: rng.randrange(len(requests) + 1)]
        elif change == 3:
            requests.insert(rng.randrange(len(requests) + 1), b"")
        endless = rng.random() < 0.4 and method.streams_in
        odd = not method.streams_in and len(requests) != 1
        return Case(0, "", method, requests, endless=endless, odd=odd)

    def _replayed(self, rng: random.Random, live: Live) -> Case:
        method, messages = self._real(rng, live)
        return Case(0, "", method, [message.SerializeToString() for message in messages])
