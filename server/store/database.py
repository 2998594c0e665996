"""SQLite connections: opening, errors, transactions. The only module that imports sqlite3."""

import functools
import itertools
import sqlite3
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from server.store import schema
from server.store.errors import StoreConflict, StoreDamaged, StoreTooNew, StoreUnavailable

_BUSY_SECONDS = 5.0
_WRITE_CACHE_KIB = 65536
_WAL_FILE_BYTES = 256 << 20
_COPIED_PAGES = 1000

_PASSING = frozenset(
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    )
)


_STATEMENT_ROWS = (64, 8, 1)
"""Rows that one statement inserts or finds; few sizes, so that SQLite's prepared statements are found again."""


@functools.lru_cache
def _placeholders(rows: int, columns: int) -> str:
    return ", ".join([f"({', '.join('?' * columns)})"] * rows)


class Database:
    """One connection, usable from any thread, one at a time.

    Raises StoreUnavailable on I/O trouble and StoreDamaged on anything else SQLite has against a statement that is
    known to be right.
    """

    def __init__(self, path: Path, *, write: bool) -> None:
        """Open `path`; only a writing connection creates it, and only such a one ever changes a file."""
        self._lock = threading.Lock()
        self._closed = False
        try:
            self._connection = sqlite3.connect(
                f"file:{quote(str(path.absolute()))}?mode={'rwc' if write else 'ro'}",
                uri=True,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise _translated(error, None) from error
        try:
            self.rows("PRAGMA cell_size_check = ON")
            if write:
                self.rows("PRAGMA journal_mode = WAL")
                self.rows("PRAGMA synchronous = FULL")
                self.rows("PRAGMA wal_autocheckpoint = 0")
                self.rows("PRAGMA secure_delete = ON")
                self.rows(f"PRAGMA journal_size_limit = {_WAL_FILE_BYTES}")
                self.rows(f"PRAGMA cache_size = -{_WRITE_CACHE_KIB}")
        except BaseException:
            self._connection.close()
            raise

    def rows(self, statement: str, *arguments: object, doubt: int | None = None) -> list[tuple[Any, ...]]:
        """Every row of a query. `doubt` is the sequence number to name should the database be damaged."""
        with self._lock:
            self._check_open()
            try:
                return self._connection.execute(statement, arguments).fetchall()
            except sqlite3.DatabaseError as error:
                raise _translated(error, doubt) from error
            except UnicodeDecodeError as error:
                # SQLite quoted a damaged schema in its error message.
                raise StoreDamaged(doubt, f"the database is damaged: {error}") from error

    def rows_among(self, statement: str, values: Collection[object], *arguments: object) -> list[tuple[Any, ...]]:
        """Every row of a query that ends in `IN`, for some values; `arguments` stand before them."""
        rows, left = [], list(values)
        while left:
            size = next((size for size in reversed(_STATEMENT_ROWS) if size >= len(left)), _STATEMENT_ROWS[0])
            piece, left = left[:size], left[size:]
            # A value may stand there several times.
            piece += piece[:1] * (size - len(piece))
            rows += self.rows(statement + _placeholders(1, size), *arguments, *piece)
        return rows

    def insert(self, *batches: tuple[str, Sequence[tuple[object, ...]]]) -> None:
        """Insert the rows of each statement, all in one durable transaction or nothing.

        Raises StoreConflict where a decision id or request key is not new.
        """
        with self._lock:
            self._check_open()
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                for statement, rows in batches:
                    self._insert(statement, rows)
                self._connection.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.rollback()
                if isinstance(error, sqlite3.DatabaseError):
                    raise _conflict(error) or _translated(error, None) from error
                raise

    def _insert(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        # Many rows a statement: each statement gives up the interpreter's lock, and under load has to wait for it.
        start = 0
        for size in _STATEMENT_ROWS:
            while len(rows) - start >= size:
                piece = rows[start : start + size]
                self._connection.execute(
                    statement + _placeholders(size, len(piece[0])), list(itertools.chain.from_iterable(piece))
                )
                start += size

    def version(self) -> int:
        """The schema's version; 0 before there is one. Raises StoreTooNew for one that is not known here."""
        version = int(self.rows("PRAGMA user_version")[0][0])
        if not 0 <= version <= len(schema.MIGRATIONS):
            raise StoreTooNew(version, len(schema.MIGRATIONS))
        return version

    def migrate(self) -> None:
        """Apply the migrations that are missing, each in a transaction of its own."""
        for version in range(self.version() + 1, len(schema.MIGRATIONS) + 1):
            script = f"BEGIN IMMEDIATE; {schema.MIGRATIONS[version - 1]} PRAGMA user_version = {version}; COMMIT"
            with self._lock:
                try:
                    self._connection.executescript(script)
                except sqlite3.DatabaseError as error:
                    raise _translated(error, None) from error

    def copy(self, path: Path, progress: Callable[[int, int], None] | None = None) -> None:
        """Copy the database, as it is now, to a new file, durably, while others go on writing to it.

        `progress` is told pages copied and pages in all. The WAL cannot be begun anew meanwhile.
        """

        def tell(_status: int, remaining: int, total: int) -> None:
            if progress is not None:
                progress(total - remaining, total)

        with self._lock, closing(sqlite3.connect(path, isolation_level=None)) as target:
            self._check_open()
            try:
                # One reading transaction from the first page to the last: else whatever somebody writes meanwhile
                # would have the copy begin again.
                self._connection.execute("BEGIN")
                self._connection.execute(schema.LAST_EVENT).fetchall()
                self._connection.backup(target, pages=_COPIED_PAGES, progress=tell)
            except sqlite3.DatabaseError as error:
                raise _translated(error, None) from error
            finally:
                if self._connection.in_transaction:
                    self._connection.rollback()

    def checkpoint(self) -> int:
        """Sync the WAL and copy of it what readers allow. Returns the pages in it, copied or not."""
        return int(self.rows("PRAGMA wal_checkpoint(PASSIVE)")[0][1])

    def truncate(self) -> None:
        """Copy and empty the WAL, if no reader is in the way for long."""
        self.rows("PRAGMA busy_timeout = 100")
        try:
            self.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self.rows(f"PRAGMA busy_timeout = {round(_BUSY_SECONDS * 1000)}")

    def close(self) -> None:
        """Close the connection. Closing twice does nothing."""
        with self._lock:
            self._closed = True
            self._connection.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")


def _conflict(error: sqlite3.DatabaseError) -> StoreConflict | None:
    if isinstance(error, sqlite3.IntegrityError):
        if "decisions." in str(error):
            return StoreConflict("decision_id", "a decision id is already in the log")
        if "requests." in str(error):
            return StoreConflict("request_key", "a request key is already in the log")
    return None


def _translated(error: sqlite3.Error, seq: int | None) -> StoreUnavailable | StoreDamaged:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    if code & 0xFF in _PASSING:
        return StoreUnavailable(f"the database cannot be used: {error}")
    return StoreDamaged(seq, f"the database is damaged: {error}")
