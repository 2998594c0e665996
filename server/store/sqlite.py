"""The embedded store: SQLite with a write-ahead log, and the durable head beside it.

A data directory holds `events.db` (with `-wal` and `-shm` while open), `head` and `lock`. A store has one connection
for reading and one for writing, so that reads on one thread go on while another appends; `verify` and the
checkpoints have their own.
"""

import logging
import os
import threading
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from server.store import schema, verify
from server.store.chain import GENESIS
from server.store.checkpoint import Checkpointer
from server.store.database import Database
from server.store.errors import StoreConflict, StoreDamaged, StoreUnavailable
from server.store.files import fsync_directory, make_directory
from server.store.head import Head, HeadFile, create_head, read_head
from server.store.lock import DirectoryLock
from server.store.protocol import CONFIGURING, DECIDED, NewEvent, Problem, Progress, StoredEvent
from server.store.rows import Rows, rows_of, select

DATABASE = "events.db"
HEAD = "head"
LOCK = "lock"
VERIFY_TAIL = 10_000

_MAX_SEQ = 2**63 - 1

_log = logging.getLogger(__name__)


class SqliteReader:
    """Reads a log that this or another process may be writing. Takes no lock, never makes the writer wait."""

    def __init__(self, data_dir: Path) -> None:
        """Raises StoreUnavailable where there is no store, StoreDamaged where it ends short of its head."""
        self._data_dir = data_dir
        if not (data_dir / DATABASE).exists():
            raise StoreUnavailable(f"there is no store in {data_dir}")
        head = read_head(data_dir / HEAD)
        self._reader = Database(data_dir / DATABASE, write=False)
        try:
            if self._reader.version() < len(schema.MIGRATIONS):
                raise StoreUnavailable(f"{data_dir} has an older schema: let a server open it once")
            verify.check_head(Rows(self._reader), head)
        except BaseException:
            self._reader.close()
            raise

    @property
    def last_seq(self) -> int:
        """See EventReader."""
        return Rows(self._reader).tip().seq

    def read(self, after: int, limit: int, upto: int | None = None) -> list[StoredEvent]:
        """See EventReader."""
        last = _MAX_SEQ if upto is None else upto
        return select(self._reader, schema.READ, after, last, limit, doubt=after + 1)

    def configuring(self, after: int, limit: int, upto: int | None = None) -> list[StoredEvent]:
        """See EventReader."""
        last = _MAX_SEQ if upto is None else upto
        events = select(self._reader, schema.CONFIGURING, after, last, limit, doubt=after + 1)
        for event in events:
            if event.kind not in CONFIGURING:
                raise StoreDamaged(event.seq, "is not of the kind that its index says")
        return events

    def event(self, seq: int) -> StoredEvent | None:
        """See EventReader."""
        return next(iter(select(self._reader, schema.EVENT, seq, doubt=seq)), None)

    def decision(self, decision_id: str) -> StoredEvent | None:
        """See EventReader."""
        for event in select(self._reader, schema.DECISION, decision_id):
            if event.decision_id != decision_id or event.kind != DECIDED:
                raise StoreDamaged(event.seq, "is not the decision its id leads to")
            return event
        return None

    def session(self, router: str, session_id: str, upto: int | None = None) -> list[StoredEvent]:
        """See EventReader."""
        last = _MAX_SEQ if upto is None else upto
        return select(self._reader, schema.SESSION, session_id, router, last)

    def which_sessions(self, sessions: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        """See EventReader."""
        by_router: dict[str, list[str]] = {}
        for router, session_id in sessions:
            by_router.setdefault(router, []).append(session_id)
        return {
            (router, session_id)
            for router, ids in by_router.items()
            for (session_id,) in self._reader.rows_among(schema.SESSIONS, ids, router)
        }

    def requests(self, keys: Collection[bytes]) -> dict[bytes, tuple[bytes, int]]:
        """See EventReader."""
        found = {}
        for key, seq, carried, digest in self._reader.rows_among(schema.REQUESTS, keys):
            if carried != key:
                raise StoreDamaged(seq, "is not the event its request key leads to")
            found[key] = (digest, seq)
        return found

    def verify(self, progress: Progress | None = None) -> list[Problem]:
        """See EventReader."""
        try:
            head = read_head(self._data_dir / HEAD)
        except StoreDamaged as error:
            return [Problem(error.seq, error.what)]
        database = Database(self._data_dir / DATABASE, write=False)
        try:
            return verify.problems(Rows(database), head, progress)
        finally:
            database.close()

    def verify_end(self) -> None:
        """The quick questions that opening for writing asks, of the last `VERIFY_TAIL` events. Raises StoreDamaged."""
        head = read_head(self._data_dir / HEAD)
        verify.check_tail(Rows(self._reader), head, VERIFY_TAIL)

    def close(self) -> None:
        """See EventReader."""
        self._reader.close()


class SqliteStore(SqliteReader):
    """The one writer of a data directory, and a reader of it."""

    def __init__(self, data_dir: Path, *, verify_tail: int = VERIFY_TAIL) -> None:
        """Open or create the store, after verifying its head and its last `verify_tail` events.

        A database that was left half made, and in which nothing was acknowledged, is set aside. Raises StoreLocked,
        StoreDamaged (nothing was changed), StoreTooNew or StoreUnavailable.
        """
        self._write_lock = threading.Lock()
        self._refusing = False
        with ExitStack() as opened:
            try:
                make_directory(data_dir)
                lock = DirectoryLock(data_dir / LOCK)
                opened.callback(lock.release)
                _inspect(data_dir, verify_tail)
                self._writer = Database(data_dir / DATABASE, write=True)
                opened.callback(self._writer.close)
                self._head = _prepare(self._writer, data_dir)
                opened.callback(self._head.close)
                super().__init__(data_dir)
                opened.callback(super().close)
            except OSError as error:
                raise StoreUnavailable(f"cannot use {data_dir}: {error}") from error
            checkpointer = Checkpointer(data_dir / DATABASE, self._write_lock)
            checkpointer.start()
            opened.callback(checkpointer.stop)
            self._opened = opened.pop_all()

    @classmethod
    def open(cls, data_dir: Path, *, verify_tail: int = VERIFY_TAIL) -> Self:
        """Open or create the store for writing; see the constructor."""
        return cls(data_dir, verify_tail=verify_tail)

    @staticmethod
    def open_reader(data_dir: Path) -> SqliteReader:
        """Open an existing store for reading, from any process."""
        return SqliteReader(data_dir)

    @property
    def last_seq(self) -> int:
        """See EventReader. The last acknowledged event."""
        return self._head.head.seq

    def append(self, events: Sequence[NewEvent]) -> int:
        """See Store."""
        if not events:
            raise ValueError("nothing to append")
        with self._write_lock:
            if self._refusing:
                raise StoreUnavailable("an earlier append failed and the store has not recovered")
            first = self._head.head.seq + 1
            rows, decisions, requests, head = rows_of(events, self._head.head)
            self._refusing = True
            try:
                self._writer.insert(
                    (schema.INSERT_EVENT, rows),
                    (schema.INSERT_DECISION, decisions),
                    (schema.INSERT_REQUEST, requests),
                )
                self._head.write(head)
            except StoreConflict:
                self._refusing = False
                raise
            except OSError as error:
                raise StoreUnavailable(f"the head file cannot be written: {error}") from error
            self._refusing = False
            return first

    def erase(self, after: int) -> int:
        """See Store."""
        last = self.last_seq
        erasures = self._reader.rows(schema.ERASURES, after, last)
        for seq, router, session_id in erasures:
            with self._write_lock:
                self._writer.rows(schema.ERASE, session_id, router, seq)
        if erasures:
            # What was erased still stands in the WAL until that is begun anew.
            with self._write_lock:
                self._writer.truncate()
        return last

    def recover(self) -> int:
        """See Store."""
        with self._write_lock:
            try:
                self._head.write(verify.check_head(Rows(self._writer), self._head.head))
            except OSError as error:
                raise StoreUnavailable(f"the head file cannot be written: {error}") from error
            self._refusing = False
            return self._head.head.seq

    def close(self) -> None:
        """See EventReader."""
        self._opened.close()


def _inspect(data_dir: Path, verify_tail: int) -> None:
    """Verify what is there through a connection that changes nothing, so that damage can still be studied."""
    head = read_head(data_dir / HEAD)
    path = data_dir / DATABASE
    if not path.exists() or path.stat().st_size == 0:
        if head is None:
            # Before the database: so of one that is half made it tells that nothing was acknowledged.
            create_head(data_dir / HEAD, Head(0, GENESIS))
        elif head.seq:
            raise StoreDamaged(1, f"missing: there is no database, {head.seq} events were acknowledged")
        return
    try:
        database = Database(path, write=False)
        try:
            # Version 0 is a creation that was interrupted before anything could be acknowledged.
            if database.version() or (head is not None and head.seq):
                verify.check_tail(Rows(database), head, verify_tail)
        finally:
            database.close()
    except StoreDamaged as error:
        if head is None or head.seq:
            raise
        _set_aside(data_dir, error)


def _set_aside(data_dir: Path, why: StoreDamaged) -> None:
    """Makes room where the power was lost while the database was made, and nothing was acknowledged."""
    _log.warning("%s: %s, and nothing was acknowledged: it is set aside, and made anew", data_dir, why)
    for path in sorted(data_dir.glob(f"{DATABASE}*")):
        path.rename(data_dir / f"unfinished-{path.name}")
    fsync_directory(data_dir)


def _prepare(writer: Database, data_dir: Path) -> HeadFile:
    """Bring the schema up to date, and the head to the end of the log once that is durable."""
    writer.migrate()
    # A killed server may have left frames in the WAL that were never synced, nor copied.
    writer.checkpoint()
    wal = data_dir / f"{DATABASE}-wal"
    if wal.exists():
        with wal.open("rb+") as file:
            os.fsync(file.fileno())
    fsync_directory(data_dir)
    last = Rows(writer).tip()
    if not (data_dir / HEAD).exists():
        create_head(data_dir / HEAD, last)
    head = HeadFile.open(data_dir / HEAD)
    if head.head != last:
        try:
            head.write(last)
        except BaseException:
            head.close()
            raise
    return head
