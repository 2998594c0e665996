"""All routers' ledgers, brought up with the log page by page.

What they come to is kept in a file, so that after a restart only what was logged since is read. A file of another
version is no loss: everything is read again.
"""

import logging
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import msgspec

from bandit import record
from bandit.events import Decided
from bandit.session import Session, apply
from server.dashboard.ledger import Change, Ledger, State
from server.store.chain import GENESIS
from server.store.files import make_directory, replace_file
from server.store.protocol import EventReader, StoredEvent

_log = logging.getLogger(__name__)

_VERSION = 1
_PAGE = 500
_KEPT_SESSIONS = 4_000


class _Kept(NamedTuple):
    """A session that was looked at lately."""

    began_us: int
    session: Session


class _File(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    seq: int
    digest: bytes
    ledgers: dict[str, State]


class Books:
    """The ledgers of a log."""

    def __init__(self, reader: EventReader, path: Path) -> None:
        """`path` is the file that they are kept in."""
        self._reader = reader
        self._path = path
        self.ledgers: dict[str, Ledger] = {}
        self.seq = 0
        """The last event that was read."""
        self._digest = GENESIS
        self._sessions: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._saved = 0
        self._load()

    def step(self) -> bool:
        """Reads on by a page; whether there may be more."""
        events = self._reader.read(self.seq, _PAGE)
        if not events:
            return False
        touched: dict[tuple[str, str], Change] = {}
        for stored in events:
            try:
                self._take(stored, touched)
            except ValueError as error:
                # Damage is for the inspection to find; here what can be read is counted.
                _log.warning("event %d cannot be read: %s", stored.seq, error)
        by_router: dict[str, list[Change]] = {}
        for (router, _), change in touched.items():
            by_router.setdefault(router, []).append(change)
        for router, changes in by_router.items():
            self.ledger(router).change(changes)
        while len(self._sessions) > _KEPT_SESSIONS:
            self._sessions.popitem(last=False)
        self.seq, self._digest = events[-1].seq, events[-1].digest
        return len(events) == _PAGE

    def ledger(self, router: str) -> Ledger:
        """A router's; an empty one where nothing has happened yet."""
        return self.ledgers.setdefault(router, Ledger())

    def session(self, router: str, session_id: str) -> tuple[int, Session] | None:
        """When a session began, and how it stands as far as the log has been read; None where it is not there."""
        return self._find(router, session_id, self.seq)

    def save(self, now_us: int) -> None:
        """Writes down what there is, unless nothing is new. Raises OSError."""
        if self._saved == self.seq:
            return
        for ledger in self.ledgers.values():
            ledger.forget(now_us)
        states = {router: ledger.state() for router, ledger in self.ledgers.items()}
        file = _File(version=_VERSION, seq=self.seq, digest=self._digest, ledgers=states)
        make_directory(self._path.parent)
        replace_file(self._path, msgspec.msgpack.encode(file))
        self._saved = self.seq

    def _take(self, stored: StoredEvent, touched: dict[tuple[str, str], Change]) -> None:
        if not stored.session_id:
            return
        event = record.decode(stored.kind, stored.body, stored.private).event
        key = (stored.router, stored.session_id)
        begins = isinstance(event, Decided) and event.decision.attempt == 1
        kept = self._find(*key, stored.seq - 1) if not begins else None
        after = apply(kept.session if kept is not None else None, event)
        if after is None:
            return
        began_us = kept.began_us if kept is not None else stored.at_us
        self._sessions[key] = _Kept(began_us, after)
        self._sessions.move_to_end(key)
        before = touched[key].before if key in touched else kept.session if kept is not None else None
        touched[key] = Change(began_us, before, after)
        if isinstance(event, Decided):
            self.ledger(stored.router).decisions.append(stored.seq)

    def _find(self, router: str, session_id: str, upto: int) -> _Kept | None:
        """The session as after event `upto`, which is the last one that was taken in."""
        kept = self._sessions.get((router, session_id))
        if kept is not None:
            return kept
        began_us, session = 0, None
        for stored in self._reader.session(router, session_id, upto):
            session = apply(session, record.decode(stored.kind, stored.body, stored.private).event)
            began_us = began_us or stored.at_us
        return _Kept(began_us, session) if session is not None else None

    def _load(self) -> None:
        try:
            file = msgspec.msgpack.decode(self._path.read_bytes(), type=_File)
        except FileNotFoundError:
            return
        except (msgspec.MsgspecError, OSError) as error:
            _log.warning("%s is made anew: %s", self._path, error)
            return
        last = self._reader.event(file.seq)
        if file.version != _VERSION or last is None or last.digest != file.digest:
            # Of another program, or of another log.
            return
        self.ledgers = {router: Ledger.of(state) for router, state in file.ledgers.items()}
        self.seq = self._saved = file.seq
        self._digest = file.digest
