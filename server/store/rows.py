"""Events as rows of the tables, and back."""

from collections.abc import Iterator, Sequence
from typing import Any

from server.store import schema
from server.store.chain import link, private_digest
from server.store.database import Database
from server.store.errors import StoreDamaged
from server.store.head import Head
from server.store.protocol import DECIDED, NewEvent, StoredEvent

SCAN_EVENTS = 1000

Row = tuple[object, ...]


def rows_of(events: Sequence[NewEvent], head: Head) -> tuple[list[Row], list[Row], list[Row], Head]:
    """Rows of the three tables for events that follow `head`, and the head after them."""
    rows: list[Row] = []
    decisions: list[Row] = []
    requests: list[Row] = []
    seq, digest = head.seq, head.digest
    for event in events:
        seq += 1
        private = private_digest(event.private) or event.private_digest
        digest = link(digest, seq, event, private)
        rows.append(
            (
                seq,
                event.at_us,
                event.kind,
                event.router,
                event.session_id,
                event.decision_id,
                event.request_key,
                event.request_digest,
                private,
                digest,
                event.body,
                event.private,
            )
        )
        if event.kind == DECIDED:
            decisions.append((event.decision_id, seq))
        if event.request_key:
            requests.append((event.request_key, seq))
    return rows, decisions, requests, Head(seq, digest)


def select(database: Database, statement: str, *arguments: object, doubt: int | None = None) -> list[StoredEvent]:
    """The events a query for `schema.COLUMNS` finds; `doubt` as in `Database.rows`."""
    try:
        return [_event(row) for row in database.rows(statement, *arguments, doubt=doubt)]
    except ValueError as error:
        raise StoreDamaged(doubt, f"an event contradicts itself: {error}") from error


def scan(database: Database, after: int, upto: int) -> Iterator[StoredEvent]:
    """Events with after < seq <= upto, piece by piece, so that the WAL can be reset meanwhile."""
    while after < upto:
        events = select(database, schema.READ, after, upto, SCAN_EVENTS, doubt=after + 1)
        if not events:
            return
        yield from events
        after = events[-1].seq


def _event(row: tuple[Any, ...]) -> StoredEvent:
    return StoredEvent(
        seq=row[0],
        at_us=row[1],
        kind=row[2],
        router=row[3],
        session_id=row[4],
        decision_id=row[5],
        request_key=row[6],
        request_digest=row[7],
        private_digest=row[8],
        digest=row[9],
        body=row[10],
        private=row[11],
    )
