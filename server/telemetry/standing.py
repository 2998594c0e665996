"""How things stand, gathered when somebody asks: what lies in the log and in the dashboard's books."""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress

import msgspec

from server.dashboard.keeping import Keeping
from server.routers import Router
from server.store.errors import StoreError
from server.store.protocol import EventReader

_PATIENCE_SECONDS = 2.0
"""Books that are still being read are left out: who asks wants an answer now."""


class Compared(msgspec.Struct, frozen=True):
    """Sums over attempts of which both are known."""

    attempts: int
    foretold: float
    real: float


class OfArm(msgspec.Struct, frozen=True):
    """How an arm's attempts went, in sessions that have ended."""

    arm: str
    success: Compared
    cost_usd: Compared


class Books(msgspec.Struct, frozen=True):
    """What all sessions of a router have come to, corrections included."""

    read: int
    """The last event that is in it."""
    sessions: int
    open: int
    told: int
    """Sessions that have ended and whose success is known."""
    billed: int
    """Likewise their dollars."""
    closed: int
    """Sessions that have ended because no reward came in time."""
    cost_usd: float
    arms: tuple[OfArm, ...]


class Standing(msgspec.Struct, frozen=True):
    """How things stand; what could not be found out is missing."""

    last_seq: int | None = None
    learned_us: Mapping[str, int] = {}
    """By router, when the last event happened that the epoch in force has learned from: UTC microseconds since 1970."""
    books: Mapping[str, Books] = {}
    """By router."""


async def gather(routers: Mapping[str, Router], reader: EventReader, keeping: Keeping) -> Standing:
    """Asks them all, for at most a few seconds."""
    found = Standing()
    with suppress(StoreError):
        found = await asyncio.to_thread(_of_log, reader, {each.id: each.learned_seq for each in routers.values()})
    books: dict[str, Books] = {}
    with suppress(StoreError, TimeoutError):
        async with asyncio.timeout(_PATIENCE_SECONDS):
            for router in list(routers):
                answer = await keeping.ask("standing", router=router)
                books[router] = msgspec.json.decode(answer, type=Books)
    return msgspec.structs.replace(found, books=books)


def _of_log(reader: EventReader, learned: Mapping[str, int]) -> Standing:
    return Standing(last_seq=reader.last_seq, learned_us=dict(_times(reader, learned)))


def _times(reader: EventReader, learned: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    for router, seq in learned.items():
        stored = reader.event(seq) if seq else None
        if stored is not None:
            yield router, stored.at_us
