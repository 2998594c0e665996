"""Events as rows of the tables, and back."""

from collections.abc import Iterator, Sequence
from typing import Any

from server.store import schema
from server.store.chain import GENESIS, link, private_digest
from server.store.database import Database
from server.store.errors import StoreDamaged
from server.store.head import Head
from server.store.protocol import DECIDED, NewEvent, Problem, StoredEvent

SCAN_EVENTS = 1000
MOST_FOUND = 100

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
        return [event_of(row) for row in database.rows(statement, *arguments, doubt=doubt)]
    except (TypeError, ValueError) as error:
        raise StoreDamaged(doubt, f"an event contradicts itself: {error}") from error


class Rows:
    """The events in a database, as those see them who ask whether it is whole."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tip(self) -> Head:
        """The last event's place in the log and in the chain."""
        rows = self._database.rows(schema.LAST_EVENT)
        return Head(rows[0][0], rows[0][1]) if rows else Head(0, GENESIS)

    def event(self, seq: int) -> StoredEvent | None:
        """The event at `seq`."""
        return next(iter(select(self._database, schema.EVENT, seq, doubt=seq)), None)

    def scan(self, after: int, upto: int) -> Iterator[StoredEvent]:
        """Events with after < seq <= upto, piece by piece, so that the WAL can be reset meanwhile."""
        while after < upto:
            events = select(self._database, schema.READ, after, upto, SCAN_EVENTS, doubt=after + 1)
            if not events:
                return
            yield from events
            after = events[-1].seq

    def astray(self, upto: int, decisions: int, requests: int) -> Iterator[Problem]:
        """What is wrong with the lookup tables, of which so many rows must lead to the events up to `upto`; and what
        SQLite finds."""
        for after in range(0, upto, SCAN_EVENTS):
            for what, statement in schema.UNINDEXED:
                for (seq,) in self._database.rows(statement, after, min(upto, after + SCAN_EVENTS), doubt=after + 1):
                    yield Problem(seq, what)
        expected = {"decisions": decisions, "requests": requests}
        for table, statement in schema.COUNTS.items():
            count = self._database.rows(statement, upto)[0][0]
            if count != expected[table]:
                yield Problem(None, f"the table of {table} has {count} rows for {expected[table]} events")
        # Compares the index of sessions with the events, and looks where none of the queries above does.
        for (line,) in self._database.rows(f"PRAGMA integrity_check({MOST_FOUND})"):
            if line != "ok":
                yield Problem(None, f"database: {line}")


def event_of(row: tuple[Any, ...]) -> StoredEvent:
    """The event in a row of `schema.COLUMNS`. Raises ValueError where it contradicts itself."""
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
