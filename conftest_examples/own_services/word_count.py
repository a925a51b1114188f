"""The code under test: what a ps and what a worker serves. It knows nothing of pytest."""

from __future__ import annotations

import collections
import threading
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from words_pb2 import AddResponse, CountResponse, Counts, Text, WatchRequest
from words_pb2_grpc import CounterServicer, TotalsServicer, TotalsStub


class Totals(TotalsServicer):
    """Keeps how often its words were seen."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.changed = threading.Condition()

    def Add(self, request: Counts, context: grpc.ServicerContext) -> AddResponse:  # noqa: N802
        with self.changed:
            self.counts.update(request.of)
            self.changed.notify_all()
        return AddResponse()

    def Watch(  # noqa: N802
        self, request: WatchRequest, context: grpc.ServicerContext
    ) -> Iterator[Counts]:
        context.add_callback(self.wake)  # when the client goes, nobody waits for words any more
        seen = None
        while context.is_active():
            with self.changed:
                while self.counts == seen and context.is_active():
                    self.changed.wait()
                seen = self.counts.copy()
            yield Counts(of=seen)

    def wake(self) -> None:
        with self.changed:
            self.changed.notify_all()


class Counter(CounterServicer):
    """Counts words; each word has its place on one of the ps."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.totals: list[Any] = [TotalsStub(grpc.insecure_channel(each)) for each in addresses]

    def Count(self, request: Text, context: grpc.ServicerContext) -> CountResponse:  # noqa: N802
        words = request.text.split()
        mean_length = sum(map(len, words)) / len(words)
        for index, totals in enumerate(self.totals):
            mine = [word for word in words if zlib.crc32(word.encode()) % len(self.totals) == index]
            totals.Add(Counts(of=collections.Counter(mine)))
        return CountResponse(mean_length=mean_length)
