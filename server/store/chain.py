"""The hash chain over the log.

digest(n) = blake2b-256(digest(n-1) ‖ seq, at_us, lengths of the fields ‖ the fields); digest(0) is all zeros.
The fields are kind, router, session_id, decision_id, request_key, request_digest, private_digest and body.
The private part enters through its digest alone, so that deleting it later leaves the chain whole.
"""

import struct
from collections.abc import Iterable, Iterator
from hashlib import blake2b

from server.store.protocol import NewEvent, Problem, StoredEvent

DIGEST_BYTES = 32
GENESIS = bytes(DIGEST_BYTES)
_NUMBERS_AND_LENGTHS = struct.Struct("<qq8I")
_PIECE_BYTES = 2047
"""For more than this at once hashlib gives up the interpreter's lock, and under load gets it back late."""


def private_digest(private: bytes) -> bytes:
    """Digest of the private part of an event; empty for none."""
    if private == b"":
        return b""
    return blake2b(private, digest_size=DIGEST_BYTES, person=b"pm private").digest()


def link(previous: bytes, seq: int, event: NewEvent, private: bytes) -> bytes:
    """The chain's digest at `seq`; `private` is the event's private digest."""
    kind, router = event.kind.encode(), event.router.encode()
    session, decision = event.session_id.encode(), event.decision_id.encode()
    key, digest, body = event.request_key, event.request_digest, event.body
    numbers = _NUMBERS_AND_LENGTHS.pack(
        seq,
        event.at_us,
        len(kind),
        len(router),
        len(session),
        len(decision),
        len(key),
        len(digest),
        len(private),
        len(body),
    )
    head = b"".join((previous, numbers, kind, router, session, decision, key, digest, private))
    hashing = blake2b(head, digest_size=DIGEST_BYTES, person=b"pm chain")
    for start in range(0, len(body), _PIECE_BYTES):
        hashing.update(body[start : start + _PIECE_BYTES])
    return hashing.digest()


def audit(events: Iterable[StoredEvent], after: int, previous: bytes) -> Iterator[Problem]:
    """Problems of the events that follow event `after`, whose digest is `previous`.

    Goes on behind a problem with the digest that is stored, so that one bad event is one problem.
    """
    for event in events:
        if event.seq != after + 1:
            yield Problem(after + 1, f"missing: the next event found is {event.seq}")
        else:
            wrong = _wrong(event, previous)
            if wrong:
                yield Problem(event.seq, wrong)
        after, previous = event.seq, event.digest


def _wrong(event: StoredEvent, previous: bytes) -> str | None:
    try:
        if link(previous, event.seq, event, event.private_digest) != event.digest:
            return "does not match the hash chain"
        # An empty one may have been erased: whether it was says an event that comes later.
        if event.private != b"" and private_digest(event.private) != event.private_digest:
            return "its private part does not match its digest"
    except (AttributeError, TypeError, struct.error):
        return "unreadable: a column has the wrong type"
    return None
