"""Events as bytes and back: the JSON that the log keeps, with what may have to be erased set apart.

An event becomes its kind, a body and a private part. The features lie in the private part alone, beside a random
salt; the body holds a digest of that part, so that the log still proves what was there after it has been erased,
and the salt keeps anybody from guessing features by their digest. Equal events with equal salts give equal bytes.
"""

import hashlib
from typing import NamedTuple

import msgspec

from bandit.events import Decided, Escalated, Event
from bandit.types import Decision, Features

SALT_BYTES = 16


class Recorded(NamedTuple):
    """An event as the log keeps it; `private` is empty where the event has no features."""

    kind: str
    body: bytes
    private: bytes


class Recalled(NamedTuple):
    """An event from the log. Where `erased`, its features were deleted on request and are empty now."""

    event: Event
    erased: bool


class _Body(msgspec.Struct, frozen=True):
    event: Event
    private_digest: str = ""


class _Private(msgspec.Struct, frozen=True):
    salt: str
    features: Features


_encoder = msgspec.json.Encoder(order="deterministic")
_body_decoder = msgspec.json.Decoder(_Body)
_private_decoder = msgspec.json.Decoder(_Private)


def encode(event: Event, *, salt: bytes) -> Recorded:
    """The event as the log keeps it. `salt` is SALT_BYTES of randomness, used for this event only."""
    features = _features(event)
    if not features:
        return Recorded(_kind(event), _encoder.encode(_Body(event)), b"")
    private = _encoder.encode(_Private(salt.hex(), features))
    return Recorded(_kind(event), _encoder.encode(_Body(_with(event, {}), _digest(private))), private)


def decode(kind: str, body: bytes, private: bytes) -> Recalled:
    """The inverse of `encode`; of an erased event `private` is empty.

    Raises ValueError where the bytes are no event of that kind, or `private` is not the body's.
    """
    try:
        recorded = _body_decoder.decode(body)
        if _kind(recorded.event) != kind:
            raise ValueError(f"the body is not that of an event {kind!r}")
        if not recorded.private_digest:
            return Recalled(recorded.event, erased=False)
        if not private:
            return Recalled(recorded.event, erased=True)
        if _digest(private) != recorded.private_digest:
            raise ValueError("the private part is not the one of this body")
        return Recalled(_with(recorded.event, _private_decoder.decode(private).features), erased=False)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not an event: {error}") from error


def _kind(event: Event) -> str:
    return str(event.__struct_config__.tag)


def _features(event: Event) -> Features:
    match event:
        case Decided(decision=decision):
            return decision.situation.features
        case Escalated(features=features):
            return features
    return {}


def _with(event: Event, features: Features) -> Event:
    match event:
        case Decided(decision=decision):
            return msgspec.structs.replace(event, decision=_refeatured(decision, features))
        case Escalated():
            return msgspec.structs.replace(event, features=features)
    return event


def _refeatured(decision: Decision, features: Features) -> Decision:
    situation = msgspec.structs.replace(decision.situation, features=features)
    return msgspec.structs.replace(decision, situation=situation)


def _digest(private: bytes) -> str:
    return hashlib.blake2b(private, digest_size=16).hexdigest()
