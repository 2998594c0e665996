"""Sessions from the log: folded, and the recent ones kept."""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import TypeAlias

from bandit import record
from bandit.session import Session, apply
from server.store.protocol import EventReader, StoredEvent

SessionKey: TypeAlias = tuple[str, str]
"""A session's router and its id."""


def load(reader: EventReader, router: str, session_id: str, upto: int | None = None) -> Session | None:
    """The session as after event `upto` (None: after its last), or None where it has no attempt by then."""
    return recall(reader, router, session_id, upto)[0]


def recall(reader: EventReader, router: str, session_id: str, upto: int | None = None) -> tuple[Session | None, bool]:
    """As `load`, and whether features of the session have been erased."""
    return folded(reader.session(router, session_id, upto))


def folded(events: Iterable[StoredEvent]) -> tuple[Session | None, bool]:
    """A session as after its events, given from its first on, and whether features of it have been erased."""
    session: Session | None = None
    erased = False
    for stored in events:
        recalled = record.decode(stored.kind, stored.body, stored.private)
        session = apply(session, recalled.event)
        erased |= recalled.erased
    return session, erased


class SessionCache:
    """The sessions last used, as after their last event; others are rebuilt from the log.

    `capacity` bounds it only when `trim` is called: a session whose events are not durable yet must not be dropped,
    for the log cannot give it back.
    """

    def __init__(self, reader: EventReader, capacity: int) -> None:
        self._reader = reader
        self._capacity = capacity
        self._sessions: OrderedDict[SessionKey, Session] = OrderedDict()
        self._absent: set[SessionKey] = set()
        """Looked up, and not in the log."""

    def look_up(self, keys: Collection[SessionKey]) -> None:
        """Finds out which of the sessions the log has; for those that it has not, `get` need not ask it."""
        unknown = [key for key in keys if key not in self._sessions]
        self._absent = set(unknown) - self._reader.which_sessions(unknown)

    def get(self, router: str, session_id: str) -> Session | None:
        """The session, or None where the log has none."""
        key = (router, session_id)
        if (session := self._sessions.get(key)) is not None:
            self._sessions.move_to_end(key)
            return session
        session = load(self._reader, router, session_id) if key not in self._absent else None
        if session is not None:
            self._sessions[key] = session
        return session

    def put(self, router: str, session: Session) -> None:
        """The session after its newest event."""
        key = (router, session.session_id)
        self._sessions[key] = session
        self._sessions.move_to_end(key)

    def forget(self, router: str, session_id: str) -> None:
        """Drops a session that has become another one; the log knows."""
        self._sessions.pop((router, session_id), None)

    def trim(self) -> None:
        """Drops the sessions longest unused."""
        while len(self._sessions) > self._capacity:
            self._sessions.popitem(last=False)

    def clear(self) -> None:
        """Forgets everything; the log knows."""
        self._sessions.clear()
