"""Events of the log to messages, and messages to events that are offered to it."""

from google.protobuf.timestamp_pb2 import Timestamp

from bandit.errors import InvalidInput
from pointsman.v1 import events_pb2 as pb
from server.convert.requests import Requests
from server.intake import Offered
from server.store.chain import DIGEST_BYTES
from server.store.protocol import REQUEST_KEY_BYTES, NewEvent, StoredEvent

_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799
"""The years 1 to 9999, which a Timestamp may hold."""
_MOST_KIND_CHARS = 64
_MOST_REQUEST_DIGEST_BYTES = 64


def message(event: StoredEvent) -> pb.Event:
    """An event of the log."""
    at = Timestamp(seconds=event.at_us // 1_000_000, nanos=event.at_us % 1_000_000 * 1000)
    return pb.Event(
        sequence=event.seq,
        at=at,
        kind=event.kind,
        router=event.router,
        session_id=event.session_id,
        decision_id=event.decision_id,
        body=event.body,
        private=event.private,
        private_digest=event.private_digest,
        request_key=event.request_key,
        request_digest=event.request_digest,
        digest=event.digest,
    )


def stored(given: pb.Event) -> StoredEvent:
    """An event that a server exported, as its log has it."""
    return StoredEvent(
        seq=given.sequence,
        at_us=given.at.seconds * 1_000_000 + given.at.nanos // 1000,
        kind=given.kind,
        router=given.router,
        session_id=given.session_id,
        decision_id=given.decision_id,
        request_key=given.request_key,
        request_digest=given.request_digest,
        body=given.body,
        private=given.private,
        private_digest=given.private_digest,
        digest=given.digest,
    )


def offered(requests: Requests, given: pb.Event, router: str) -> Offered:
    """An event of an import; `router` is meant where it names none.

    Raises InvalidInput naming the field where it is outside its domain; whether the event fits the log is not looked
    at here.
    """
    if given.sequence < 0:
        raise InvalidInput("sequence", f"is {given.sequence}, must not be negative")
    if not _FIRST_SECOND <= given.at.seconds <= _LAST_SECOND or not 0 <= given.at.nanos < 1_000_000_000:
        raise InvalidInput("at", "is no time")
    if not given.HasField("at"):
        raise InvalidInput("at", "required")
    if given.at.nanos % 1000:
        raise InvalidInput("at", "is not in whole microseconds")
    if not 0 < len(given.kind) <= _MOST_KIND_CHARS:
        raise InvalidInput("kind", f"must have 1 to {_MOST_KIND_CHARS} characters")
    _require_bytes("private_digest", given.private_digest, DIGEST_BYTES)
    _require_bytes("digest", given.digest, DIGEST_BYTES)
    _require_bytes("request_key", given.request_key, REQUEST_KEY_BYTES)
    if len(given.request_digest) > _MOST_REQUEST_DIGEST_BYTES:
        raise InvalidInput("request_digest", f"longer than {_MOST_REQUEST_DIGEST_BYTES} bytes")
    if given.kind == "decided":
        requests.required_id("decision_id", given.decision_id)
    return Offered(
        seq=given.sequence,
        event=NewEvent(
            at_us=given.at.seconds * 1_000_000 + given.at.nanos // 1000,
            kind=requests.id("kind", given.kind),
            router=requests.id("router", given.router) or router,
            session_id=requests.id("session_id", given.session_id),
            decision_id=requests.id("decision_id", given.decision_id),
            request_key=given.request_key,
            request_digest=given.request_digest,
            body=given.body,
            private=given.private,
            private_digest=given.private_digest,
        ),
        digest=given.digest,
    )


def _require_bytes(field: str, value: bytes, length: int) -> None:
    if len(value) not in (0, length):
        raise InvalidInput(field, f"has {len(value)} bytes, must be empty or have {length}")
