"""PostgreSQL connections: opening, errors, time limits. The only module that imports psycopg."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors, sql
from psycopg.abc import RV, PQGen
from psycopg.conninfo import conninfo_to_dict

from server.store.errors import StoreConflict, StoreDamaged, StoreError, StoreUnavailable
from server.store.postgres import schema

ANSWER_SECONDS = 4.0
"""A database that has not answered by then is away: a network that is cut tells nobody."""

_AT_ONCE_SECONDS = 1.0
_AWAY_SECONDS = 0.2
_SCAN_SECONDS = 3600.0
_LIMITS = {
    "connect_timeout": 3,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
    "application_name": "pointsman",
}
"""Unless the URL says otherwise."""

_PREPARE = f"""
    SELECT set_config('search_path', '{schema.SCHEMA}', false),
           set_config('idle_in_transaction_session_timeout', '2s', false),
           set_config('client_min_messages', 'warning', false),
           current_setting('synchronous_commit'), current_setting('fsync'), current_setting('server_encoding'),
           pg_is_in_recovery()
"""
"""A replica that stops while it holds the head's lock must not stop the others for long."""


def described(url: str) -> str:
    """Where a URL leads to, without what it says in confidence."""
    parts = _parts(url)
    host = parts.get("host") or parts.get("hostaddr") or "localhost"
    return f"postgresql://{host}:{parts.get('port') or 5432}/{parts.get('dbname') or ''}"


def _parts(url: str) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(url))
    except psycopg.Error:
        # Its own words quote the URL, and with it the password.
        raise StoreUnavailable(
            "the store's URL is not one of PostgreSQL: postgresql://USER@HOST:PORT/DATABASE"
        ) from None


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that does not wait for ever."""

    answer_seconds = ANSWER_SECONDS

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """As psycopg's, with a limit where none is given."""
        return super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)


class Database:
    """A connection, usable from any thread, one at a time; made at first use, and anew after it was lost.

    Raises StoreUnavailable on trouble, and StoreDamaged where PostgreSQL says that its data are.
    """

    def __init__(self, url: str) -> None:
        self._parts = {**_LIMITS, **_parts(url)}
        self._name = described(url)
        self._lock = threading.RLock()
        self._connection: _Connection | None = None
        self._closed = False
        self._away_until = 0.0

    def rows(self, statement: str, *arguments: object, doubt: int | None = None) -> list[tuple[Any, ...]]:
        """Every row of a query; it is asked again where a connection turns out to be lost that was there before.

        `doubt` is the sequence number to name should the database be damaged.
        """
        with self._lock:
            again = self._connection is not None and not self._in_transaction()
            began = time.monotonic()
            try:
                return self._rows(statement, arguments, doubt)
            except StoreUnavailable:
                if not again or self._connection is not None or time.monotonic() > began + _AT_ONCE_SECONDS:
                    raise
                return self._rows(statement, arguments, doubt)

    def once(self, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
        """As `rows`, for what is not to be done twice: where the answer is lost it may have been done."""
        with self._lock:
            return self._rows(statement, arguments, None)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is done within is done as a whole or not at all; within another one, as a part of that."""
        with self._lock:
            if self._in_transaction():
                yield
                return
            self._rows("BEGIN", (), None)
            try:
                yield
                self._rows("COMMIT", (), None)
            except BaseException:
                if self._connection is not None and self._in_transaction():
                    try:
                        self._rows("ROLLBACK", (), None)
                    except StoreError:
                        self._drop()
                raise

    @contextmanager
    def patience(self) -> Iterator[None]:
        """What is done within may take long."""
        with self._lock:
            connection = self._connected()
            connection.answer_seconds = _SCAN_SECONDS
            try:
                yield
            finally:
                connection.answer_seconds = ANSWER_SECONDS

    def version(self) -> int:
        """The schema's version; 0 before there is one."""
        there = self.rows(schema.HAS_VERSION)[0][0]
        return int(self.rows(schema.VERSION)[0][0]) if there else 0

    def news(self, seconds: float) -> bool:
        """Waits for a notification, at most so long: whether one came. It is a hint and no more."""
        with self._lock:
            connection = self._connected()
            try:
                if connection.info.transaction_status.name == "IDLE":
                    connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(schema.SCHEMA)))
                return bool(list(connection.notifies(timeout=seconds, stop_after=1)))
            except psycopg.Error as error:
                raise self._translated(error, None) from error

    def close(self) -> None:
        """Closes it. Closing twice does nothing."""
        with self._lock:
            self._closed = True
            self._drop()

    def _rows(self, statement: str, arguments: tuple[object, ...], doubt: int | None) -> list[tuple[Any, ...]]:
        connection = self._connected()
        try:
            cursor = connection.execute(statement.encode(), arguments or None, binary=True)
            return cursor.fetchall() if cursor.description is not None else []
        except psycopg.Error as error:
            raise self._translated(error, doubt) from error

    def _connected(self) -> _Connection:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if self._connection is None:
            if time.monotonic() < self._away_until:
                raise StoreUnavailable(f"{self._name} cannot be reached")
            try:
                connection = _Connection.connect(autocommit=True, **self._parts)
            except psycopg.Error as error:
                # Whoever asks next is not to wait as long again.
                self._away_until = time.monotonic() + _AWAY_SECONDS
                raise StoreUnavailable(f"{self._name} cannot be reached: {_line(error)}") from error
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _prepare(self, connection: _Connection) -> None:
        try:
            row = connection.execute(_PREPARE).fetchone()
        except psycopg.Error as error:
            raise StoreUnavailable(f"{self._name} cannot be used: {_line(error)}") from error
        assert row is not None, "a query without conditions has one row"
        synchronous, fsync, encoding, standby = row[-4:]
        if standby:
            raise StoreUnavailable(f"{self._name} is a standby and takes no writes: name the primary")
        if synchronous not in ("on", "remote_apply"):
            raise StoreUnavailable(
                f"{self._name} has synchronous_commit = {synchronous}: what it acknowledges may be lost; set it to on"
            )
        if fsync != "on":
            raise StoreUnavailable(f"{self._name} has fsync = {fsync}: what it acknowledges may be lost; set it to on")
        if encoding != "UTF8":
            raise StoreUnavailable(f"{self._name} has the encoding {encoding}; it must be UTF8")

    def _in_transaction(self) -> bool:
        status = psycopg.pq.TransactionStatus
        return self._connection is not None and self._connection.info.transaction_status in (
            status.INTRANS,
            status.INERROR,
            status.ACTIVE,
        )

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _translated(self, error: psycopg.Error, doubt: int | None) -> StoreError:
        if isinstance(error, errors.UniqueViolation):
            if error.diag.constraint_name == "events_by_decision":
                return StoreConflict("decision_id", "a decision id is already in the log")
            if error.diag.constraint_name == "events_by_request":
                return StoreConflict("request_key", "a request key is already in the log")
        if isinstance(error, errors.DataCorrupted | errors.IndexCorrupted):
            return StoreDamaged(doubt, f"the database is damaged: {_line(error)}")
        if error.sqlstate is None or not isinstance(error, psycopg.ProgrammingError | psycopg.IntegrityError):
            # It is lost, or nobody knows how it stands.
            self._drop()
        return StoreUnavailable(f"{self._name} cannot be used: {_line(error)}")


def _line(error: psycopg.Error) -> str:
    return " ".join(str(error).split()) or type(error).__name__
