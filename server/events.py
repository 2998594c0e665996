"""The Events service: the log out, and events of another log in."""

# ruff: noqa: N802 - methods are named by the protos

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import grpc.aio

from bandit.errors import InvalidInput
from pointsman.v1 import events_pb2 as pb
from pointsman.v1 import events_pb2_grpc
from server import growth
from server.commands import TakenIn
from server.convert import events as convert
from server.convert.requests import Requests
from server.engine import Engine
from server.erasure import Erasure
from server.store.errors import StoreUnavailable
from server.store.protocol import ERASED, EventReader, StoredEvent

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_POLL_SECONDS = 5.0
_READ_EVENTS = 128
_CHUNK_BYTES = 1 << 20
_MOST_AT_ONCE = 64
"""Events of an import that are looked at in one piece, while other callers wait."""


class Events(events_pb2_grpc.EventsServicer):
    """What the methods mean stands in events.proto. They raise; `server.rpc` makes statuses of it."""

    def __init__(
        self,
        engine: Engine,
        reader: EventReader,
        requests: Requests,
        news: growth.Growth,
        erasure: Erasure,
        on_erased: Callable[[], None],
    ) -> None:
        """`on_erased` is called when features were erased from the log."""
        self._engine = engine
        self._reader = reader
        self._requests = requests
        self._growth = news
        self._erasure = erasure
        self._on_erased = on_erased
        self._draining = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="events")

    def drain(self) -> None:
        """Ends the streams that follow the log."""
        self._draining = True
        self._growth.tell()

    def close(self) -> None:
        """Gives the thread back."""
        self._thread.shutdown()

    async def ExportEvents(
        self, request: pb.ExportEventsRequest, context: _Context
    ) -> AsyncIterator[pb.ExportEventsResponse]:
        """See the proto."""
        if request.from_sequence < 0:
            raise InvalidInput("from_sequence", f"is {request.from_sequence}, must not be negative")
        router = self._requests.router(request.router)
        if not request.all_routers:
            await self._engine.current()
            self._engine.has_router(router)
        after = max(request.from_sequence, 1) - 1
        loop = asyncio.get_running_loop()
        while True:
            # Asked before reading, so that nothing logged meanwhile is slept over.
            grown = self._growth.next()
            events = await loop.run_in_executor(self._thread, self._reader.read, after, _READ_EVENTS)
            if events:
                after = events[-1].seq
                for chunk in _chunks([e for e in events if request.all_routers or e.router == router]):
                    yield chunk
                continue
            if not request.follow:
                return
            if self._draining:
                raise StoreUnavailable("the server ends; follow it again later")
            await growth.wait(grown, _POLL_SECONDS)

    async def ImportEvents(
        self, requests: AsyncIterator[pb.ImportEventsRequest], context: _Context
    ) -> pb.ImportEventsResponse:
        """See the proto."""
        imported = skipped = 0
        erases = False
        async for request in requests:
            router = self._requests.router(request.router)
            erases |= any(event.kind == ERASED for event in request.events)
            for first in range(0, len(request.events), _MOST_AT_ONCE):
                taken = await self._take_in(request.events[first : first + _MOST_AT_ONCE], first, router)
                imported += taken.imported
                skipped += taken.skipped
        if erases:
            await self._complete_erasure()
        last = self._reader.last_seq
        return pb.ImportEventsResponse(imported=imported, skipped=skipped, last_sequence=last)

    async def EraseSessions(self, request: pb.EraseSessionsRequest, context: _Context) -> pb.EraseSessionsResponse:
        """See the proto."""
        router = self._requests.router(request.router)
        self._requests.id("request_id", request.request_id)
        sessions = self._requests.sessions(request.session_ids)
        await self._engine.answer(None, lambda: self._engine.has_sessions(router, sessions))
        for session_id in sessions:
            await self._engine.answer(None, functools.partial(self._engine.erase, router, session_id))
        await self._complete_erasure()
        return pb.EraseSessionsResponse(erased=len(sessions))

    async def _complete_erasure(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._erasure.complete)
        self._on_erased()

    async def _take_in(self, given: Sequence[pb.Event], first: int, router: str) -> TakenIn:
        offered = []
        for i, event in enumerate(given, first):
            try:
                offered.append(convert.offered(self._requests, event, router))
            except InvalidInput as error:
                raise InvalidInput(f"events[{i}].{error.field}", error.why) from error
        taken = await self._engine.answer(None, lambda: self._engine.take_in(offered, first))
        assert isinstance(taken, TakenIn)
        return taken


def _chunks(events: Sequence[StoredEvent]) -> Iterator[pb.ExportEventsResponse]:
    chunk = pb.ExportEventsResponse()
    size = 0
    for event in events:
        length = len(event.body) + len(event.private)
        if chunk.events and size + length > _CHUNK_BYTES:
            yield chunk
            chunk, size = pb.ExportEventsResponse(), 0
        chunk.events.append(convert.message(event))
        size += length
    if chunk.events:
        yield chunk
