"""The log in PostgreSQL, to which several replicas append.

Whoever appends moves the one row of `head` on in the same statement that adds the events, and only if it is where the
events were made to follow: so numbers are dense, the chain is one, and the order of commits is the order of numbers.

The durable head is that row. It stands in the database that it vouches for, so it tells of events that are missing
(rows deleted, a table that lost its end), but not of a database that was put back as a whole to an earlier state. Each
handle remembers where it saw the head last, and says when a database comes back that lacks what was there.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Self

from server.store import verify
from server.store.errors import StoreConflict, StoreDamaged, StoreError, StoreMoved, StoreTooNew, StoreUnavailable
from server.store.head import Head
from server.store.postgres import schema
from server.store.postgres.connection import Database, described
from server.store.postgres.rows import Rows, columns_of, from_text, select, to_text
from server.store.protocol import CONFIGURING, DECIDED, NewEvent, Problem, Progress, StoredEvent
from server.store.rows import rows_of

VERIFY_TAIL = 10_000

_MAX_SEQ = 2**63 - 1
_NEWS = 1000


class PostgresReader:
    """Reads a log that this or another process may be writing."""

    def __init__(self, url: str) -> None:
        """Raises StoreUnavailable where there is no store, StoreDamaged where its events are not those of its head."""
        self._url = url
        with ExitStack() as opened:
            self._reader = Database(url)
            opened.callback(self._reader.close)
            version = self._reader.version()
            if version > len(schema.MIGRATIONS):
                raise StoreTooNew(version, len(schema.MIGRATIONS))
            if version == 0:
                raise StoreUnavailable(f"there is no store in {described(url)}")
            if version < len(schema.MIGRATIONS):
                raise StoreUnavailable(f"{described(url)} has an older schema: let a server open it once")
            verify.check_head(Rows(self._reader), head_of(self._reader))
            opened.pop_all()

    @property
    def last_seq(self) -> int:
        """See EventReader."""
        return head_of(self._reader).seq

    def read(self, after: int, limit: int, upto: int | None = None) -> list[StoredEvent]:
        """See EventReader."""
        return select(self._reader, schema.READ, after, self._upto(upto), limit, doubt=after + 1)

    def configuring(self, after: int, limit: int, upto: int | None = None) -> list[StoredEvent]:
        """See EventReader."""
        events = select(self._reader, schema.CONFIGURING, after, self._upto(upto), limit, doubt=after + 1)
        for event in events:
            if event.kind not in CONFIGURING:
                raise StoreDamaged(event.seq, "is not of the kind that its index says")
        return events

    def event(self, seq: int) -> StoredEvent | None:
        """See EventReader."""
        return Rows(self._reader).event(seq) if seq <= self._upto(None) else None

    def decision(self, decision_id: str) -> StoredEvent | None:
        """See EventReader."""
        for event in select(self._reader, schema.DECISION, to_text(decision_id), self._upto(None)):
            if event.decision_id != decision_id or event.kind != DECIDED:
                raise StoreDamaged(event.seq, "is not the decision its id leads to")
            return event
        return None

    def session(self, router: str, session_id: str, upto: int | None = None) -> list[StoredEvent]:
        """See EventReader."""
        return select(self._reader, schema.SESSION, to_text(session_id), to_text(router), self._upto(upto))

    def which_sessions(self, sessions: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        """See EventReader."""
        if not sessions:
            return set()
        routers = [to_text(router) for router, _ in sessions]
        ids = [to_text(session_id) for _, session_id in sessions]
        found = self._reader.rows(schema.SESSIONS, routers, ids, self._upto(None))
        return {(from_text(router), from_text(session_id)) for router, session_id in found}

    def requests(self, keys: Collection[bytes]) -> dict[bytes, tuple[bytes, int]]:
        """See EventReader."""
        if not keys:
            return {}
        found = self._reader.rows(schema.REQUESTS, list(keys), self._upto(None))
        return {key: (digest, seq) for key, digest, seq in found}

    def _upto(self, upto: int | None) -> int:
        """The last event that a reader who asks for events up to one may see."""
        return _MAX_SEQ if upto is None else upto

    def verify(self, progress: Progress | None = None) -> list[Problem]:
        """See EventReader."""
        database = Database(self._url)
        try:
            with database.patience():
                return verify.problems(Rows(database), head_of(database), progress)
        finally:
            database.close()

    def close(self) -> None:
        """See EventReader."""
        self._reader.close()


class PostgresStore(PostgresReader):
    """A writer of the log, of which there may be several, and a reader of it."""

    def __init__(self, url: str, *, verify_tail: int = VERIFY_TAIL) -> None:
        """Open or create the store, after verifying its head and its last `verify_tail` events.

        Raises StoreDamaged, StoreTooNew or StoreUnavailable.
        """
        self._write_lock = threading.Lock()
        self._refusing = False
        self._crowded = False
        """Whether others appended meanwhile, last time: then the head is locked at once."""
        self._before_append: Head | None = None
        """What was known before the last append, of which `held` may not have come to an end."""
        with ExitStack() as opened:
            self._writer = Database(url)
            opened.callback(self._writer.close)
            _migrate(self._writer, described(url))
            super().__init__(url)
            opened.callback(super().close)
            self._known = head_of(self._reader)
            verify.check_tail(Rows(self._reader), self._known, verify_tail)
            self._opened = opened.pop_all()

    @classmethod
    def open(cls, url: str, *, verify_tail: int = VERIFY_TAIL) -> Self:
        """Open or create the store for writing; see the constructor."""
        return cls(url, verify_tail=verify_tail)

    @staticmethod
    def open_reader(url: str) -> PostgresReader:
        """Open an existing store for reading, from any process."""
        return PostgresReader(url)

    @property
    def last_seq(self) -> int:
        """The last event that this handle has appended or been told of, see `news`."""
        return self._known.seq

    @property
    def last_digest(self) -> bytes:
        """See SharedStore."""
        return self._known.digest

    def _upto(self, upto: int | None) -> int:
        return self._known.seq if upto is None else min(upto, self._known.seq)

    def append(self, events: Sequence[NewEvent]) -> int:
        """See Store. Goes behind whatever others have appended."""
        self.append_unless(events, lambda _: False)
        return self._known.seq - len(events) + 1

    def append_unless(
        self, events: Sequence[NewEvent], contradict: Callable[[Sequence[StoredEvent]], bool]
    ) -> list[StoredEvent]:
        """See SharedStore."""
        if not events:
            raise ValueError("nothing to append")
        with self._write_lock:
            if self._refusing:
                raise StoreUnavailable("an earlier append failed and the store has not recovered")
            # Computed before anything is sent: what cannot be stored is to leave no trace.
            added = _Added(events, self._known)
            self._refusing = True
            try:
                others: list[StoredEvent] = []
                if self._crowded or not added.to(self._writer):
                    added, others = self._append_locked(events, added, contradict)
                    self._crowded = bool(others)
            except (StoreConflict, StoreMoved):
                self._refusing = False
                raise
            self._refusing = False
            self._before_append, self._known = self._known, added.head
            return others

    @contextmanager
    def held(self) -> Iterator[None]:
        """See SharedStore."""
        if self._refusing:
            raise StoreUnavailable("an earlier append failed and the store has not recovered")
        self._before_append = None
        try:
            with self._writer.transaction():
                self._writer.once(schema.LOCK_HEAD)
                yield
        except (StoreConflict, StoreMoved):
            raise
        except StoreError:
            # Whether it was committed is for `recover` to find out.
            self._refusing = True
            self._known = self._before_append or self._known
            raise

    def _append_locked(
        self, events: Sequence[NewEvent], added: "_Added", contradict: Callable[[Sequence[StoredEvent]], bool]
    ) -> "tuple[_Added, list[StoredEvent]]":
        with self._writer.transaction():
            head = Head(*self._writer.once(schema.LOCK_HEAD)[0])
            others = select(self._writer, schema.READ, self._known.seq, head.seq, _MAX_SEQ)
            self._check_follows(others, head)
            if others and contradict(others):
                raise StoreMoved("others have appended what makes a difference")
            if others:
                added = _Added(events, head)
            if not added.to(self._writer):
                raise StoreDamaged(head.seq, "is the last event by the head, which cannot be moved on from there")
        return added, others

    def news(self) -> list[StoredEvent]:
        """See SharedStore."""
        with self._write_lock:
            events = select(self._reader, schema.READ, self._known.seq, _MAX_SEQ, _NEWS)
            if events:
                self._check_follows(events, Head(events[-1].seq, events[-1].digest))
                self._known = Head(events[-1].seq, events[-1].digest)
            return events

    def _check_follows(self, events: Sequence[StoredEvent], head: Head) -> None:
        """That the events are all from the one known last up to a head."""
        known = self._known
        if len(events) != head.seq - known.seq or (not events and head != known):
            raise StoreDamaged(
                min(head.seq, known.seq) + 1, f"missing: the log ends at {head.seq}, {known.seq} was acknowledged"
            )

    def erase(self, after: int) -> int:
        """See Store."""
        last = self.last_seq
        erasures = self._reader.rows(schema.ERASURES, after, last)
        with self._write_lock:
            for seq, router, session_id in erasures:
                self._writer.rows(schema.ERASE, session_id, router, seq)
        if erasures:
            # By a connection of its own: whoever reads is not to wait for it.
            database = Database(self._url)
            try:
                with database.patience():
                    database.rows(schema.VACUUM)
            finally:
                database.close()
        return last

    def recover(self) -> int:
        """See Store."""
        with self._write_lock:
            last = verify.check_head(Rows(self._writer), self._known)
            self._refusing = False
            return last.seq

    def close(self) -> None:
        """See EventReader."""
        self._opened.close()


class _Added:
    """Events as rows that follow a head."""

    def __init__(self, events: Sequence[NewEvent], follows: Head) -> None:
        rows, _, _, self.head = rows_of(events, follows)
        self._count = len(rows)
        self._arguments = (self.head.seq, self.head.digest, follows.seq, follows.digest, *columns_of(rows))

    def to(self, database: Database) -> bool:
        """Adds them, durably outside of a transaction; False, and nothing is added, where the head is another one."""
        ((count, _),) = database.once(schema.APPEND, *self._arguments)
        assert count in (0, self._count), "one statement adds all or nothing"
        return bool(count)


def head_of(database: Database) -> Head:
    """The durable head."""
    rows = database.rows(schema.HEAD)
    if len(rows) != 1:
        raise StoreDamaged(None, "the head is missing beside the log")
    return Head(*rows[0])


def _migrate(database: Database, name: str) -> None:
    """Brings the schema up to date; one replica does, others wait for it."""
    version = database.version()
    if version > len(schema.MIGRATIONS):
        raise StoreTooNew(version, len(schema.MIGRATIONS))
    if version == len(schema.MIGRATIONS):
        return
    with database.patience(), database.transaction():
        database.once(schema.ONE_MIGRATES)
        database.once(schema.CREATE_SCHEMA)
        database.once(schema.CREATE_VERSION)
        for applied in range(database.version() + 1, len(schema.MIGRATIONS) + 1):
            for statement in schema.MIGRATIONS[applied - 1].split(";"):
                if statement.strip():
                    database.once(statement)
            database.once(schema.APPLIED, applied)
