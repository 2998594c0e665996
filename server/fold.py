"""The log becomes epochs: each router's events through its learner, each epoch published as it ends."""

import logging
from collections import OrderedDict
from collections.abc import Iterable

import scipy.linalg  # noqa: F401
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from bandit import record
from bandit.learner import Learner
from bandit.session import Session, apply
from server import sessions
from server.store.epochs import EpochFiles, Epochs
from server.store.errors import StoreConflict
from server.store.protocol import CONFIGURING, EventReader, StoredEvent

_log = logging.getLogger(__name__)

_PIECE = 1000
_CACHED_SESSIONS = 4096
_RECENT_EPOCHS = 32
"""Kept one by one; older ones are thinned, and folded anew where somebody asks for them."""
_LEARNED = CONFIGURING | {"decided", "progressed", "escalated", "rewarded", "closed", "erased"}
"""The kinds of events that a learner takes in; others are not even decoded."""


def one_blas_thread() -> None:
    """Holds linear algebra to one thread: the same fold must give the same bits whoever computes it.

    numpy and scipy carry a BLAS each, and only one that is loaded can be held: hence the imports of this module.
    """
    threadpool_limits(limits=1, user_api="blas")


class StoredSessions:
    """One router's sessions for its learner, as before the event being fed: the recent ones kept, others folded anew.

    The cache holds many times the sessions of a block, so those that a learner asks for again are there.
    """

    def __init__(self, reader: EventReader, router: str) -> None:
        self._reader = reader
        self._router = router
        self._recent: OrderedDict[str, Session] = OrderedDict()
        self.upto = 0
        """The last event before the one being fed."""
        self.erased = False
        """Whether one of the sessions that were asked for came without its features."""

    def get(self, session_id: str, /) -> Session | None:
        """The session, or None where it had no attempt."""
        session = self._recent.get(session_id)
        if session is None:
            session, erased = sessions.recall(self._reader, self._router, session_id, self.upto)
            self.erased |= erased
        return session

    def put(self, session_id: str, session: Session, /) -> None:
        """The session as after the event being fed."""
        self._recent[session_id] = session
        self._recent.move_to_end(session_id)
        if len(self._recent) > _CACHED_SESSIONS:
            self._recent.popitem(last=False)

    def everything(self) -> Iterable[Session]:
        """All sessions of the router, in order of their first event. Reads the whole log up to here."""
        found: dict[str, Session | None] = {}
        after = 0
        while events := self._reader.read(after, _PIECE, self.upto):
            after = events[-1].seq
            for stored in events:
                if stored.router == self._router and stored.session_id:
                    event, erased = record.decode(stored.kind, stored.body, stored.private)
                    found[stored.session_id] = apply(found.get(stored.session_id), event)
                    self.erased |= erased
        return [session for session in found.values() if session is not None]


class Fold:
    """One router's learner and how far it has read the log."""

    def __init__(self, reader: EventReader, router: str, blob: bytes | None = None) -> None:
        """Begins at the log's beginning, or goes on from an epoch's `blob`."""
        self._sessions = StoredSessions(reader, router)
        self._erased = False
        self.learner = Learner(self._sessions) if blob is None else Learner.resume(blob, self._sessions)

    @property
    def erased(self) -> bool:
        """Whether it has met an event without its features, so that its epochs may not be those that once were."""
        return self._erased or self._sessions.erased

    def feed(self, stored: StoredEvent) -> bool:
        """Takes in the router's next event; one that is folded already is passed over. True where an epoch ended."""
        if stored.seq <= self.learner.seq or stored.kind not in _LEARNED:
            return False
        self._sessions.upto = stored.seq - 1
        event, erased = record.decode(stored.kind, stored.body, stored.private)
        self._erased |= erased
        return self.learner.feed(stored.seq, event, stored.session_id, stored.at_us)


def first_events(reader: EventReader, upto: int) -> dict[str, StoredEvent]:
    """The routers of the log, each with the event that began it, which always is one that configures."""
    found: dict[str, StoredEvent] = {}
    after = 0
    while events := reader.configuring(after, _PIECE, upto):
        after = events[-1].seq
        for stored in events:
            found.setdefault(stored.router, stored)
    return found


def newest(epochs: Epochs, router: str, upto_seq: int) -> bytes | None:
    """The newest epoch's blob that folds no event after `upto_seq`, whichever policy's it is, or None."""
    found = [epochs.latest(router, version, upto_seq) for version in epochs.versions(router)]
    latest = max((epoch for epoch in found if epoch is not None), key=lambda epoch: epoch.seq, default=None)
    return latest.blob if latest is not None else None


def discard_foreign(epochs: EpochFiles, reader: EventReader) -> None:
    """Deletes the epochs that were not folded from this log, as there are after a backup of it was put back."""
    stamped = epochs.stamped()
    event = reader.event(stamped[0]) if stamped is not None else None
    ours = stamped is not None and event is not None and event.digest == stamped[1]
    if deleted := epochs.discard(after_seq=stamped[0] if stamped is not None and ours else -1):
        _log.warning("%d epochs belonged to another log; they are computed anew", deleted)


def published(epochs: Epochs, router: str, number: int) -> bytes | None:
    """The blob of epoch `number`, whichever policy was live then, or None. No two policies share a number."""
    found = (epochs.load(router, version, number) for version in epochs.versions(router))
    return next((epoch[1] for epoch in found if epoch is not None), None)


def before(epochs: Epochs, router: str, number: int) -> bytes | None:
    """The blob of the newest epoch there is before epoch `number`, or None. Numbers go on from policy to policy."""
    there = ((earlier, version) for version in epochs.versions(router) for earlier in epochs.numbers(router, version))
    for earlier, version in sorted((one for one in there if one[0] < number), reverse=True):
        if (found := epochs.load(router, version, earlier)) is not None:
            return found[1]
    return None


class Fitter:
    """Folds a log's routers and publishes the epochs. Needs no lock; the log and the files are all it touches."""

    def __init__(self, reader: EventReader, epochs: Epochs) -> None:
        """Goes on from each router's newest epoch; routers that begin later are folded from there on."""
        self._reader = reader
        self._epochs = epochs
        self._folds: dict[str, Fold] = {}
        last = self._read = reader.last_seq
        for router, first in first_events(reader, last).items():
            fold = self._folds[router] = Fold(reader, router, newest(epochs, router, last))
            self._read = min(self._read, max(first.seq - 1, fold.learner.seq))

    @property
    def learners(self) -> dict[str, Learner]:
        """The learner of each router met so far."""
        return {router: fold.learner for router, fold in self._folds.items()}

    def step(self) -> set[str] | None:
        """Folds the next piece of the log: the routers with new epochs. None at the log's end."""
        events = self._reader.read(self._read, _PIECE)
        if not events:
            return None
        changed = set()
        for stored in events:
            if (fold := self._folds.get(stored.router)) is None:
                fold = self._folds[stored.router] = Fold(self._reader, stored.router)
            if fold.feed(stored):
                changed.add(stored.router)
                if not self._publish(stored, fold.learner):
                    return changed
        self._read = events[-1].seq
        return changed

    def catch_up(self) -> set[str]:
        """Folds to the log's end: the routers with new epochs."""
        changed: set[str] = set()
        while (more := self.step()) is not None:
            changed |= more
        return changed

    def _publish(self, last: StoredEvent, learner: Learner) -> bool:
        """Whether the epoch is published as it was folded. Else the one that is there stands, for decisions were made
        under it: a fold that begins anew lacks what was erased since. It is gone on from that one.
        """
        assert learner.vintage is not None, "an epoch has just ended"
        version, number = learner.vintage.policy_version, learner.vintage.epoch
        try:
            self._epochs.stamp(last.seq, last.digest)
            self._epochs.save(last.router, version, number, learner.epoch_seq, learner.snapshot())
        except StoreConflict:
            there = self._epochs.load(last.router, version, number)
            if there is None:
                raise
            _log.warning("epoch %d of %r would be another one now; it stands as published", number, last.router)
            self._folds[last.router] = Fold(self._reader, last.router, there[1])
            self._read = min(last.seq, there[0])
            return False
        self._epochs.thin(last.router, version, _RECENT_EPOCHS)
        return True
