"""The protocol every store obeys: events in, the same events out, in one dense sequence."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

REQUEST_KEY_BYTES = 16
DECIDED = "decided"
ERASED = "erased"
CONFIGURING = frozenset(("router_put", "arm_put", "policy_put", "availability_set", "configured"))
"""The kinds of events that say what a router is: few among many, so a store finds them without reading the others."""


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event before it has its place in the log."""

    at_us: int
    """When it happened, UTC microseconds since 1970."""
    kind: str
    """What happened: "decided", "escalated", "rewarded", "progressed", "router_put", "arm_put", ..."""
    router: str = ""
    session_id: str = ""
    """Empty where the event belongs to no session."""
    decision_id: str = ""
    """For kind "decided" the id it introduces, unique in the log; else the one it refers to."""
    request_key: bytes = b""
    """16-byte hash of (router, method, request_id), unique in the log; empty: the request cannot be repeated.
    Where one request causes several events, the first alone carries it."""
    request_digest: bytes = b""
    """Digest of the request message, compared when the request is repeated."""
    body: bytes
    """JSON of the event without its private part."""
    private: bytes = b""
    """The erasable part, with a random salt in it. The chain covers its digest only: it can be deleted."""
    private_digest: bytes = b""
    """Digest of `private` as it was first logged; empty where there was none. It need not be given beside `private`,
    only for an event from another log whose private part has been erased."""

    def __post_init__(self) -> None:
        if self.kind == DECIDED and not self.decision_id:
            raise ValueError("an event of kind 'decided' needs a decision_id")
        if self.request_key and len(self.request_key) != REQUEST_KEY_BYTES:
            raise ValueError(f"request_key must be empty or {REQUEST_KEY_BYTES} bytes")


class StoredEvent(NewEvent, frozen=True, kw_only=True):
    """One event in the log."""

    seq: int
    """Its place: dense from 1."""
    digest: bytes
    """The chain up to and including this event (see `server.store.chain`)."""


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong with a log; `seq` is None where it cannot be tied to an event."""

    seq: int | None
    what: str


Progress = Callable[[int, int], None]
"""Called now and then with (events verified, events in all)."""


class EventReader(Protocol):
    """Reading a log. Every method may raise StoreUnavailable or StoreDamaged, from any thread."""

    @property
    def last_seq(self) -> int:
        """Sequence number of the last event; 0 when there is none."""
        ...

    def read(self, after: int, limit: int, upto: int | None = None) -> list[StoredEvent]:
        """At most `limit` events with after < seq (<= upto), in sequence order."""
        ...

    def configuring(self, after: int, limit: int, upto: int | None = None) -> list[StoredEvent]:
        """As `read`, of the events of a kind in CONFIGURING only."""
        ...

    def event(self, seq: int) -> StoredEvent | None:
        """The event at `seq`."""
        ...

    def decision(self, decision_id: str) -> StoredEvent | None:
        """The "decided" event that introduced `decision_id`, however old."""
        ...

    def session(self, router: str, session_id: str, upto: int | None = None) -> list[StoredEvent]:
        """Every event of a session (with seq <= upto), in sequence order."""
        ...

    def which_sessions(self, sessions: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the sessions, each a router and a session id, that have an event."""
        ...

    def requests(self, keys: Collection[bytes]) -> dict[bytes, tuple[bytes, int]]:
        """By request key (request_digest, seq) of the event that carries it; keys that none carries are left out."""
        ...

    def verify(self, progress: Progress | None = None) -> list[Problem]:
        """Read everything: density, chain, private digests, lookup tables, durable head. Empty: all is whole.

        Takes time in proportion to the log and may run beside appends and reads.
        """
        ...

    def close(self) -> None:
        """Give everything back. Closing twice does nothing."""
        ...


class Store(EventReader, Protocol):
    """The log with its one writer."""

    def append(self, events: Sequence[NewEvent]) -> int:
        """Append at least one event, all or none; on return they are durable. Returns the seq of the first.

        Called from one thread at a time. Raises StoreConflict (nothing written) where a decision id or a
        request key is not new, ValueError for an empty sequence, and StoreUnavailable on I/O trouble: nothing
        is acknowledged, and every append is refused until `recover` succeeded.
        """
        ...

    def erase(self, after: int) -> int:
        """Empty the private parts that events of kind "erased" with a greater seq say are erased: those of earlier
        events of their sessions. Durable on return, and gone from the files as far as these are in use.

        Doing it again changes nothing. Returns `last_seq` as it was: the next call may go on from there. Raises
        StoreUnavailable.
        """
        ...

    def recover(self) -> int:
        """After StoreUnavailable from `append`: make the log durable as it is, return the new `last_seq`.

        The refused events may or may not have entered the log, so the caller reads on from the last sequence
        number it knew. Raises StoreUnavailable while the trouble lasts.
        """
        ...


class SharedStore(Store, Protocol):
    """A log to which others append as well, each through a handle of its own.

    `last_seq` is the last event that this handle has appended or been told of by `news` or `append_unless`. Everything
    but `verify` reads the log as of that event: so what is read fits together, whatever others append meanwhile.
    """

    @property
    def last_digest(self) -> bytes:
        """The chain up to `last_seq`."""
        ...

    def news(self) -> list[StoredEvent]:
        """What has been appended since `last_seq`: the next events, none where there are none as of this call.

        After an append that failed that may be events of its own, once `recover` has succeeded.
        """
        ...

    def append_unless(
        self, events: Sequence[NewEvent], contradict: Callable[[Sequence[StoredEvent]], bool]
    ) -> list[StoredEvent]:
        """As `append`, where others may have appended since `last_seq`: those events, which the new ones follow.

        Raises StoreMoved, and nothing is written, where `contradict` says of others' events that they make a
        difference to the new ones. It must not use the store.
        """
        ...

    def held(self) -> AbstractContextManager[None]:
        """Nobody else appends while it is open. What is appended within is durable when it has closed."""
        ...
