"""Events as bytes and back: the JSON that the log keeps, with what may have to be erased set apart.

An event becomes its kind, a body and a private part. The features lie in the private part alone, beside a random
salt; the body holds a digest of that part, so that the log still proves what was there after it has been erased,
and the salt keeps anybody from guessing features by their digest. Equal events with equal salts give equal bytes.

For anybody's SQL an event becomes a flat row: what is asked for most in columns of its own, and beside it all that
brings the event back as it is in the log.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import msgspec

from bandit.events import (
    ArmPut,
    AvailabilitySet,
    Closed,
    Decided,
    Escalated,
    Event,
    PolicyPut,
    Progressed,
    Rewarded,
    RouterPut,
)
from bandit.types import Decision, Features, Outcome

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


# --- flat rows ---------------------------------------------------------------------------------------------------


class Logged(TypedDict):
    """An event with its place in a log, as `server.store` keeps it."""

    seq: int
    at_us: int
    kind: str
    router: str
    session_id: str
    decision_id: str
    request_key: bytes
    request_digest: bytes
    body: bytes
    private: bytes
    private_digest: bytes
    digest: bytes


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One event, flat. None where a column does not apply to the kind of event."""

    seq: int
    at: int
    """UTC microseconds since 1970."""
    kind: str
    router: str
    session_id: str
    decision_id: str
    attempt: int | None = None
    policy_version: str | None = None
    epoch: int | None = None
    arm: str | None = None
    propensity: float | None = None
    reason: str | None = None
    """Why an arm was selected (`decided`) or an attempt left (`escalated`)."""
    arms: tuple[str, ...] | None = None
    """The arms that were offered, eligible or not, …"""
    propensities: tuple[float, ...] | None = None
    """… and the probability of each."""
    features: str | None = None
    """JSON; None where the event has none, or they were erased."""
    success: float | None = None
    cost_usd: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None
    cached_tokens: float | None = None
    latency_seconds: float | None = None
    revision: int | None = None
    final: bool | None = None
    body: str
    """The event without its features, JSON."""
    private: str
    """The features and a salt, JSON; empty where there are none, or they were erased."""
    private_digest: str
    """This and the following are bytes in hex."""
    request_key: str
    request_digest: str
    digest: str


COLUMNS: dict[str, str] = {
    "seq": "BIGINT",
    "at": "TIMESTAMP WITH TIME ZONE",
    "kind": "VARCHAR",
    "router": "VARCHAR",
    "session_id": "VARCHAR",
    "decision_id": "VARCHAR",
    "attempt": "INTEGER",
    "policy_version": "VARCHAR",
    "epoch": "BIGINT",
    "arm": "VARCHAR",
    "propensity": "DOUBLE",
    "reason": "VARCHAR",
    "arms": "VARCHAR[]",
    "propensities": "DOUBLE[]",
    "features": "JSON",
    "success": "DOUBLE",
    "cost_usd": "DOUBLE",
    "input_tokens": "DOUBLE",
    "output_tokens": "DOUBLE",
    "cached_tokens": "DOUBLE",
    "latency_seconds": "DOUBLE",
    "revision": "BIGINT",
    "final": "BOOLEAN",
    "body": "JSON",
    "private": "VARCHAR",
    "private_digest": "VARCHAR",
    "request_key": "VARCHAR",
    "request_digest": "VARCHAR",
    "digest": "VARCHAR",
}
"""The archive's columns and their SQL types, in order."""

LOGGED = (
    "seq",
    'epoch_us("at")',
    "kind",
    "router",
    "session_id",
    "decision_id",
    "request_key",
    "request_digest",
    "body",
    "private",
    "private_digest",
    "digest",
)
"""What to select of the archive for `unflatten`."""

_row_encoder = msgspec.json.Encoder()


def flatten(logged: Logged) -> Row:
    """The event as a row of the archive. Raises ValueError as `decode` does."""
    event, erased = decode(logged["kind"], logged["body"], logged["private"])
    features = None if erased else _features(event)
    return Row(
        seq=logged["seq"],
        at=logged["at_us"],
        kind=logged["kind"],
        router=logged["router"],
        session_id=logged["session_id"],
        decision_id=logged["decision_id"],
        features=_encoder.encode(features).decode() if features else None,
        body=logged["body"].decode(),
        private=logged["private"].decode(),
        private_digest=logged["private_digest"].hex(),
        request_key=logged["request_key"].hex(),
        request_digest=logged["request_digest"].hex(),
        digest=logged["digest"].hex(),
        **_told(event),
    )


def unflatten(values: Sequence[Any]) -> Logged:
    """The inverse of `flatten`, from the values of the expressions `LOGGED`. Raises ValueError."""
    seq, at_us, kind, router, session_id, decision_id, key, request, body, private, private_digest, digest = values
    return Logged(
        seq=seq,
        at_us=at_us,
        kind=kind,
        router=router,
        session_id=session_id,
        decision_id=decision_id,
        request_key=bytes.fromhex(key),
        request_digest=bytes.fromhex(request),
        body=body.encode(),
        private=private.encode(),
        private_digest=bytes.fromhex(private_digest),
        digest=bytes.fromhex(digest),
    )


def to_json(row: Row) -> bytes:
    """The row as a line of JSON, for a reader that knows the types of `COLUMNS`."""
    return _row_encoder.encode(row) + b"\n"


def _told(event: Event) -> dict[str, Any]:
    """The columns that only some kinds of events have."""
    match event:
        case Decided(decision=decision):
            by_arm = {score.arm: score.propensity for score in decision.scores}
            offered = tuple(offer.arm for offer in decision.situation.offers)
            return {
                "attempt": decision.attempt,
                "policy_version": decision.policy_version,
                "epoch": decision.epoch,
                "arm": decision.arm,
                "propensity": decision.propensity,
                "reason": decision.reason,
                "arms": offered,
                "propensities": tuple(by_arm.get(arm, 0.0) for arm in offered),
            }
        case Escalated(reason=reason, outcome=outcome):
            return {"reason": reason, **_measured(outcome)}
        case Rewarded(outcome=outcome, revision=revision, final=final):
            return {"revision": revision, "final": final, **_measured(outcome)}
        case Closed(success=success):
            return {"success": success, "final": True}
        case Progressed(arm=arm, propensity=propensity, signals=signals):
            spent = Outcome(cost_usd=signals.cost_usd, usage=signals.usage)
            return {"arm": arm or None, "propensity": propensity, **_measured(spent)}
        case RouterPut(settings=settings):
            return {"policy_version": settings.policy_version}
        case PolicyPut(policy=policy):
            return {"policy_version": policy.version}
        case ArmPut(arm=put):
            return {"arm": put.id}
        case AvailabilitySet(arm=arm):
            return {"arm": arm}
    return {}


def _measured(outcome: Outcome) -> dict[str, Any]:
    usage = outcome.usage
    return {
        "success": outcome.success,
        "cost_usd": outcome.cost_usd,
        "input_tokens": usage.input_tokens if usage is not None else None,
        "output_tokens": usage.output_tokens if usage is not None else None,
        "cached_tokens": usage.cached_tokens if usage is not None else None,
        "latency_seconds": outcome.latency_seconds,
    }


def to_parquet(source: str, target: str, longest: int) -> str:
    """The DuckDB statement that makes a Parquet file of lines by `to_json`, the longest of `longest` bytes."""
    read = {"at": "BIGINT", "features": "VARCHAR", "body": "VARCHAR"}
    types = ", ".join(f"{_quoted(name)}: {_quoted(read.get(name, kind))}" for name, kind in COLUMNS.items())
    wanted = {"at": "make_timestamp(\"at\") AT TIME ZONE 'UTC'", "features": "features::JSON", "body": "body::JSON"}
    columns = ", ".join(f'{wanted[name]} AS "{name}"' if name in wanted else f'"{name}"' for name in COLUMNS)
    lines = f"{_quoted(source)}, format = 'newline_delimited', maximum_object_size = {max(longest, 1 << 20) + 1}"
    return (
        f"COPY (SELECT {columns} FROM read_json({lines}, columns = {{{types}}})) "
        f"TO {_quoted(target)} (FORMAT parquet, COMPRESSION zstd)"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
