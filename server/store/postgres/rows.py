"""Events as rows of PostgreSQL's table, and back.

PostgreSQL's text takes every character but NUL. It stands as SUB 0, and SUB as SUB 1: neither is ever seen in practice.
"""

from collections.abc import Iterator, Sequence

from server.store.chain import GENESIS
from server.store.errors import StoreDamaged
from server.store.head import Head
from server.store.postgres import schema
from server.store.postgres.connection import Database
from server.store.protocol import Problem, StoredEvent
from server.store.rows import SCAN_EVENTS, Row, event_of

_NUL, _SUB = "\0", "\x1a"
_TEXTS = slice(2, 6)
"""Where the texts are in a row."""


def to_text(value: str) -> str:
    """A text as it is stored."""
    if _NUL in value or _SUB in value:
        return value.replace(_SUB, _SUB + "1").replace(_NUL, _SUB + "0")
    return value


def from_text(stored: str) -> str:
    """The text that is stored so."""
    return stored.replace(_SUB + "0", _NUL).replace(_SUB + "1", _SUB) if _SUB in stored else stored


def columns_of(rows: Sequence[Row]) -> list[list[object]]:
    """The columns of at least one row, texts as they are stored."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    columns[_TEXTS] = [[to_text(str(value)) for value in column] for column in columns[_TEXTS]]
    return columns


def select(database: Database, statement: str, *arguments: object, doubt: int | None = None) -> list[StoredEvent]:
    """The events a query for `schema.COLUMNS` finds; `doubt` as in `Database.rows`."""
    try:
        return [
            event_of((*row[:2], *map(from_text, row[_TEXTS]), *row[6:]))
            for row in database.rows(statement, *arguments, doubt=doubt)
        ]
    except ValueError as error:
        raise StoreDamaged(doubt, f"an event contradicts itself: {error}") from error


class Rows:
    """The events in a database, as those see them who ask whether it is whole."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tip(self) -> Head:
        """The last event's place in the log and in the chain."""
        rows = self._database.rows(schema.LAST_EVENT)
        return Head(*rows[0]) if rows else Head(0, GENESIS)

    def event(self, seq: int) -> StoredEvent | None:
        """The event at `seq`."""
        return next(iter(select(self._database, schema.EVENT, seq, doubt=seq)), None)

    def scan(self, after: int, upto: int) -> Iterator[StoredEvent]:
        """Events with after < seq <= upto, piece by piece."""
        while after < upto:
            events = select(self._database, schema.READ, after, upto, SCAN_EVENTS, doubt=after + 1)
            if not events:
                return
            yield from events
            after = events[-1].seq

    def astray(self, upto: int, decisions: int, requests: int) -> Iterator[Problem]:
        """Events that an index does not lead to. They cannot be too many: the indexes are unique."""
        for what, by_scan, by_index in schema.FOUND_BY_INDEX:
            for after in range(0, upto, SCAN_EVENTS):
                last = min(upto, after + SCAN_EVENTS)
                there = dict(self._database.rows(by_scan, after, last, doubt=after + 1))
                with self._database.transaction():
                    self._database.rows(schema.BY_INDEX)
                    led_to = dict(self._database.rows(by_index, list(there.values()), doubt=after + 1))
                for seq, name in there.items():
                    if led_to.get(seq) != name:
                        yield Problem(seq, what)
