"""Events from another log: which of them are new here, and whether they could have come about.

They enter as they are, with their times, request keys and erased parts, so that equal logs have equal chains.
"""

from collections.abc import Callable, Sequence

import msgspec

from bandit import record, soundness
from bandit.configuration import Configuration
from bandit.errors import InvalidInput, PointsmanError, WrongOrder
from bandit.events import Event
from bandit.session import Session, apply
from server.store.chain import GENESIS, link, private_digest
from server.store.protocol import DECIDED, EventReader, NewEvent, StoredEvent


class Taken(PointsmanError):
    """What has to be the only one of its kind is another event's already."""


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    """An event that is offered, and its place."""

    seq: int
    """0 asks for the next one."""
    event: NewEvent
    digest: bytes = b""
    """The chain up to and including it; empty: not known."""


class News(msgspec.Struct, frozen=True, kw_only=True):
    """An event that is to be appended, and what it changes."""

    logged: NewEvent
    event: Event
    before: Session | None
    """Its session, …"""
    after: Session | None
    """… and as after it."""


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be appended."""

    news: tuple[News, ...]
    skipped: int
    """Events that were there."""


class Intake:
    """Looks at events in the order of their places, next to a log and what is folded from it."""

    def __init__(
        self,
        reader: EventReader,
        session: Callable[[str, str], Session | None],
        configuration: Callable[[str], Configuration],
    ) -> None:
        """`session` (by router and session id) and `configuration` are as after the log's last event."""
        self._reader = reader
        self._session = session
        self._configuration = configuration

    def admit(
        self, offered: Sequence[Offered], place: int, pending: Sequence[NewEvent] = (), first: int = 0
    ) -> Admitted:
        """All of the events or none. `place` is the next event's, behind `pending`, which the log may not hold yet;
        errors count the events from `first` on.

        Raises InvalidInput, Taken where a place, decision id or request key is another event's, and WrongOrder where
        a place would leave a gap.
        """
        batch = _Batch(self, place - 1, pending)
        there = self._there(offered)
        for i, offer in enumerate(offered, first):
            try:
                batch.look_at(offer, there.get(offer.seq))
            except InvalidInput as error:
                raise InvalidInput(f"events[{i}].{error.field}", error.why) from error
        return Admitted(
            news=tuple(batch.news),
            skipped=batch.skipped,
        )

    def _there(self, offered: Sequence[Offered]) -> dict[int, StoredEvent]:
        """The log's events at the places offered."""
        last = self._reader.last_seq
        places = {offer.seq for offer in offered if 0 < offer.seq <= last}
        return {seq: event for seq in places if (event := self._reader.event(seq)) is not None}


class _Batch:
    """Some events under way, and the state after them."""

    def __init__(self, intake: Intake, last_seq: int, pending: Sequence[NewEvent]) -> None:
        self._intake = intake
        self._last_seq = last_seq
        self._digest = b""
        """The chain up to the last event looked at; empty where it is not known."""
        self._decisions = {event.decision_id for event in pending if event.kind == DECIDED}
        self._keys = {event.request_key for event in pending if event.request_key}
        self._configurations: dict[str, Configuration] = {}
        self._sessions: dict[tuple[str, str], Session] = {}
        self.news: list[News] = []
        self.skipped = 0

    def look_at(self, offer: Offered, there: StoredEvent | None) -> None:
        if there is not None:
            if not _equal(offer, there):
                raise Taken(f"sequence {offer.seq} is another event's")
            self.skipped += 1
            return
        seq = offer.seq or self._last_seq + 1
        if seq <= self._last_seq:
            raise Taken(f"sequence {seq} is another event's, which was logged just now")
        if seq > self._last_seq + 1:
            raise WrongOrder(f"sequence {seq} would leave a gap: the log ends at {self._last_seq}")
        self._check_digests(offer, seq)
        event = offer.event
        happened = self._decode(event, numbered=offer.seq > 0)
        self._check_unique(event)
        key = event.router, event.session_id
        session = (self._sessions.get(key) or self._intake._session(*key)) if event.session_id else None
        configuration = self._configurations.get(event.router) or self._intake._configuration(event.router)
        soundness.check(
            happened,
            router=event.router,
            session_id=event.session_id,
            decision_id=event.decision_id,
            session=session,
            configuration=configuration,
        )
        self._configurations[event.router] = configuration.apply(happened)
        if (after := apply(session, happened)) is not None:
            self._sessions[key] = after
        if event.kind == DECIDED:
            self._decisions.add(event.decision_id)
        if event.request_key:
            self._keys.add(event.request_key)
        self.news.append(News(logged=event, event=happened, before=session, after=after))
        self._last_seq = seq

    def _decode(self, event: NewEvent, *, numbered: bool) -> Event:
        if event.private and event.private_digest not in (b"", private_digest(event.private)):
            raise InvalidInput("private_digest", "is not that of `private`")
        try:
            event.body.decode()
            event.private.decode()
            happened, erased = record.decode(event.kind, event.body, event.private)
        except ValueError as error:
            raise InvalidInput("body", str(error)) from error
        if erased != (not event.private and event.private_digest != b""):
            raise InvalidInput("private_digest", "does not agree with the body's")
        if erased and not numbered:
            raise InvalidInput("private", "an event whose private part is erased keeps its sequence")
        return happened

    def _check_digests(self, offer: Offered, seq: int) -> None:
        """The chain, where the digest of the event before is known."""
        before, self._digest = self._digest, offer.digest
        if not offer.digest:
            return
        if not offer.seq:
            raise InvalidInput("digest", "an event without a sequence has none")
        if not before and not self.news:
            stored = self._intake._reader.event(seq - 1) if seq > 1 else None
            before = stored.digest if stored is not None else GENESIS if seq == 1 else b""
        event = offer.event
        private = private_digest(event.private) or event.private_digest
        if before and link(before, seq, event, private) != offer.digest:
            raise InvalidInput("digest", "does not fit the events before and this one")

    def _check_unique(self, event: NewEvent) -> None:
        reader = self._intake._reader
        if event.kind == DECIDED and (
            event.decision_id in self._decisions or reader.decision(event.decision_id) is not None
        ):
            raise Taken(f"decision id {event.decision_id!r} is another event's")
        key = event.request_key
        if key and (key in self._keys or reader.requests([key])):
            raise Taken("a request key is another event's")


def _equal(offer: Offered, there: StoredEvent) -> bool:
    """Whether it is the same event. A private part that was erased on either side makes no difference."""
    event = offer.event
    private = private_digest(event.private) or event.private_digest
    return link(GENESIS, there.seq, event, private) == link(GENESIS, there.seq, there, there.private_digest)
