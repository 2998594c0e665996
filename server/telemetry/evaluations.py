"""What judges say of an agent's work becomes rewards: OpenTelemetry's `gen_ai.evaluation.result` events.

What an event must hold, by its own attributes or by those of its resource:

- `gen_ai.evaluation.name`, and `gen_ai.evaluation.score.value` or `gen_ai.evaluation.score.label`. By a name that the
  configuration knows it tells success, moved from its range to 0 … 1; by any other a metric of that name.
- `pointsman.decision_id` of the attempt, or `pointsman.session_id` or `gen_ai.conversation.id` of the session.
- If there is one, `pointsman.router`; and `pointsman.final` where it closes the session.

Conventions: https://github.com/open-telemetry/semantic-conventions-genai, `model/gen-ai/events.yaml`.
"""

import math
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import TypeAlias

from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from bandit.errors import InvalidInput
from pointsman.v1 import routing_pb2 as pb

EVENT = "gen_ai.evaluation.result"
_NAME = "gen_ai.evaluation.name"
_VALUE = "gen_ai.evaluation.score.value"
_LABEL = "gen_ai.evaluation.score.label"
_DECISION = "pointsman.decision_id"
_SESSIONS = ("pointsman.session_id", "gen_ai.conversation.id")
_ROUTER = "pointsman.router"
_FINAL = "pointsman.final"
_UID = "log.record.uid"

_LABELS = {"pass": 1.0, "correct": 1.0, "fail": 0.0, "incorrect": 0.0}
"""Labels that say as much as a score."""

Attributes: TypeAlias = Mapping[str, str | bool | float]
Ranges: TypeAlias = Mapping[str, tuple[float, float]]
"""By the names of evaluations that tell success: the score that is none, and the one that is all of it."""


def attributes(given: Iterable[KeyValue]) -> Attributes:
    """Attributes of a record or a resource, without lists and maps."""
    found: dict[str, str | bool | float] = {}
    for one in given:
        kind = one.value.WhichOneof("value")
        if kind in ("string_value", "bool_value", "int_value", "double_value"):
            found[one.key] = getattr(one.value, kind)
    return found


def reward(record: LogRecord, resource: Attributes, ranges: Ranges) -> pb.RewardRequest | None:
    """What a log record asks for; None where it is no evaluation, or one that failed itself and says nothing.

    The same event gives an equal request: who sends it twice is counted once. Raises InvalidInput naming the attribute.
    """
    own = attributes(record.attributes)
    if EVENT not in (record.event_name, own.get("event.name")):
        return None
    told = {**resource, **own}
    if "error.type" in told and _VALUE not in told and _LABEL not in told:
        return None
    name, score = _text(told, _NAME), _score(told)
    if not name:
        raise InvalidInput(_NAME, "required")
    request = pb.RewardRequest(router=_text(told, _ROUTER), decision_id=_text(told, _DECISION))
    if not request.decision_id:
        request.session_id = next((given for key in _SESSIONS if (given := _text(told, key))), "")
    if not request.decision_id and not request.session_id:
        raise InvalidInput(_DECISION, f"required: or {' or '.join(_SESSIONS)}")
    if (known := ranges.get(name)) is not None:
        request.success = _share(score, *known) if _VALUE in told else score
    else:
        request.metrics[name] = score
    final = told.get(_FINAL, False)
    if not isinstance(final, bool):
        raise InvalidInput(_FINAL, "is neither true nor false")
    request.final = final
    request.request_id = f"evaluation-{_digest(record, told, request)}"
    return request


def _score(told: Attributes) -> float:
    if (value := told.get(_VALUE)) is not None:
        if isinstance(value, str | bool) or not math.isfinite(value):
            raise InvalidInput(_VALUE, f"is {value}, must be a finite number")
        return float(value)
    label = _text(told, _LABEL).lower()
    if label not in _LABELS:
        raise InvalidInput(_VALUE, f"required where {_LABEL} is none of {', '.join(_LABELS)}")
    return _LABELS[label]


def _share(score: float, least: float, most: float) -> float:
    if not min(least, most) <= score <= max(least, most):
        raise InvalidInput(_VALUE, f"is {score:g}, must lie in {least:g} to {most:g}")
    return (score - least) / (most - least)


def _text(told: Attributes, key: str) -> str:
    value = told.get(key, "")
    if not isinstance(value, str):
        raise InvalidInput(key, "is no text")
    return value


def _digest(record: LogRecord, told: Attributes, request: pb.RewardRequest) -> str:
    """What tells this event from others: its id where it has one, else when it happened and what it says."""
    if uid := _text(told, _UID):
        return uid
    at = str(record.time_unix_nano or record.observed_time_unix_nano).encode()
    said = request.SerializeToString(deterministic=True)
    return blake2b(at + b"\0" + said, digest_size=16, person=b"pm evaluation").hexdigest()
