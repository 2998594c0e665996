"""Plain values to messages: what the sync and the asyncio client share."""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from random import Random
from typing import TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from pointsman.errors import code_of, retry_seconds
from pointsman.v1 import routing_pb2 as pb

_Message = TypeVar("_Message", bound=Message)

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
# The codes by which a service that cannot be reached shows itself.
_OUT_OF_REACH = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass(frozen=True)
class Text:
    """Marks a string as free text; a plain string is a category."""

    value: str


Feature: TypeAlias = float | bool | str | Text | Sequence[float]
"""A number, a flag, a category, free text or an embedding."""

Features: TypeAlias = Mapping[str, Feature]
"""What is known of a session, by name."""


def feature_value(name: str, value: Feature) -> pb.FeatureValue:
    """One feature as a message. TypeError, naming it, when `value` is no kind of feature (None included)."""
    # bool before numbers: True is an int too.
    if isinstance(value, bool):
        return pb.FeatureValue(flag=value)
    if isinstance(value, Real):
        return pb.FeatureValue(number=float(value))
    if isinstance(value, str):
        return pb.FeatureValue(category=value)
    if isinstance(value, Text):
        return pb.FeatureValue(text=value.value)
    if isinstance(value, bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"feature {name!r} is {type(value).__name__}: not a number, bool, str, Text or numbers")
    return pb.FeatureValue(embedding=pb.Embedding(values=value))


def feature_values(features: Features | None) -> dict[str, pb.FeatureValue]:
    """Features as messages, by name."""
    return {name: feature_value(name, value) for name, value in (features or {}).items()}


def new_id() -> str:
    """A fresh request id."""
    return uuid.uuid4().hex


def select_request(
    features: Features | None = None,
    *,
    router: str = "",
    session_id: str = "",
    request_id: str = "",
    allow: Iterable[str] = (),
    deny: Iterable[str] = (),
    required_capabilities: Iterable[str] = (),
    max_cost_usd: float | None = None,
    pinned_arm: str = "",
    context_tokens: int | None = None,
) -> pb.SelectRequest:
    """A `SelectRequest`, for `batch_select`; a `request_id` is made when none is given.

    Meanings as of `SelectRequest` in `pointsman/v1/routing.proto`. TypeError for a feature of no kind.
    """
    return pb.SelectRequest(
        router=router,
        session_id=session_id,
        request_id=request_id or new_id(),
        features=feature_values(features),
        allow=allow,
        deny=deny,
        required_capabilities=required_capabilities,
        max_cost_usd=max_cost_usd,
        pinned_arm=pinned_arm,
        context_tokens=context_tokens,
    )


def escalate_request(
    *,
    reason: pb.EscalationReason.ValueType,
    router: str = "",
    session_id: str = "",
    decision_id: str = "",
    request_id: str = "",
    cost_usd: float | None = None,
    usage: pb.Usage | None = None,
    latency_seconds: float | None = None,
    features: Features | None = None,
    required_capabilities: Iterable[str] = (),
    context_tokens: int | None = None,
    endpoint: str = "",
) -> pb.EscalateRequest:
    """An `EscalateRequest`; a `request_id` is made when none is given. TypeError for a feature of no kind."""
    return pb.EscalateRequest(
        router=router,
        session_id=session_id,
        decision_id=decision_id,
        request_id=request_id or new_id(),
        reason=reason,
        outcome=pb.AttemptOutcome(cost_usd=cost_usd, usage=usage, latency_seconds=latency_seconds),
        features=feature_values(features),
        required_capabilities=required_capabilities,
        context_tokens=context_tokens,
        endpoint=endpoint,
    )


def progress_request(
    *, signals: pb.ProgressSignals, router: str = "", decision_id: str = "", request_id: str = ""
) -> pb.ReportProgressRequest:
    """A `ReportProgressRequest`; a `request_id` is made when none is given."""
    return pb.ReportProgressRequest(
        router=router, decision_id=decision_id, request_id=request_id or new_id(), signals=signals
    )


def reward_request(
    *,
    router: str = "",
    decision_id: str = "",
    session_id: str = "",
    request_id: str = "",
    success: float | None = None,
    cost_usd: float | None = None,
    usage: pb.Usage | None = None,
    latency_seconds: float | None = None,
    served_arm: str = "",
    metrics: Mapping[str, float] | None = None,
    revision: int | None = None,
    final: bool = False,
) -> pb.RewardRequest:
    """A `RewardRequest`; a `request_id` is made when none is given."""
    return pb.RewardRequest(
        router=router,
        decision_id=decision_id,
        session_id=session_id,
        request_id=request_id or new_id(),
        success=success,
        cost_usd=cost_usd,
        usage=usage,
        latency_seconds=latency_seconds,
        served_arm=served_arm,
        metrics=metrics,
        revision=revision,
        final=final,
    )


def repeatable(request: _Message) -> _Message:
    """The request, or a copy with a request id of its own where it could have one and has none."""
    if getattr(request, "request_id", None) != "":
        return request
    keyed = type(request)()
    keyed.CopyFrom(request)
    setattr(keyed, "request_id", new_id())  # noqa: B010 - not every message has the field
    return keyed


def batch_select_request(router: str, requests: Iterable[pb.SelectRequest]) -> pb.BatchSelectRequest:
    """A batch of copies of `requests`, each with a request id of its own."""
    batch = pb.BatchSelectRequest(router=router, requests=requests)
    for request in batch.requests:
        request.request_id = request.request_id or new_id()
    return batch


def decision_of(choice: pb.SelectResponse | str) -> str:
    """The decision's id of a choice, given as the response or as the id itself."""
    return choice if isinstance(choice, str) else choice.decision_id


def is_unlogged(decision_id: str | None, session_id: str | None) -> bool:
    """Whether a reward is for a choice that the service never heard of, so that there is nothing to tell.

    ValueError when neither id is given, or both.
    """
    if (decision_id is None) == (session_id is None):
        raise ValueError("give decision_id or session_id: totals are the attempt's by one, the session's by the other")
    return not (decision_id or session_id)


def baseline(request: pb.SelectRequest, arm: str | None) -> pb.SelectResponse | None:
    """The answer without the service; None where there is no baseline or the request itself forbids it.

    The caller's own pick stands above the baseline. Capabilities and cost are not known here and not checked.
    """
    if arm is None:
        return None
    if not request.pinned_arm and (arm in request.deny or (request.allow and arm not in request.allow)):
        return None
    return pb.SelectResponse(
        session_id=request.session_id,
        arm=request.pinned_arm or arm,
        propensity=1.0,
        reason=pb.SELECT_REASON_BASELINE,
        attempt=1,
    )


def is_out_of_reach(error: grpc.RpcError) -> bool:
    """Whether the service did not answer, as against answering no; one that is too busy did not."""
    return code_of(error) in _OUT_OF_REACH or retry_seconds(error) is not None


def batch_baselines(
    batch: pb.BatchSelectRequest, arm: str | None, error: grpc.RpcError
) -> list[pb.BatchSelectResult] | None:
    """Baselines for a whole batch; an item that forbids it gets the error. None without a baseline."""
    if arm is None:
        return None
    results = []
    for request in batch.requests:
        result = pb.BatchSelectResult(response=baseline(request, arm))
        if not result.HasField("response"):
            result.status.code = code_of(error).value[0]
            result.status.message = "the service is out of reach, and the request forbids the baseline"
        results.append(result)
    return results


def pauses(retries: int, random: Random) -> Iterator[float]:
    """The seconds to wait before each retry: doubling up to a bound, less up to a half by chance.

    The chance keeps clients that lost the same server from coming back at the same moment.
    """
    for i in range(retries):
        yield min(_FIRST_PAUSE_SECONDS * 2**i, _LONGEST_PAUSE_SECONDS) * random.uniform(0.5, 1.0)


def next_pause(error: grpc.RpcError, rest: Iterator[float], seconds_left: float) -> float | None:
    """The seconds to wait before calling again, or None when the error stands.

    Only UNAVAILABLE, and what says when to come back, is worth another call, and only one that can begin before the
    deadline.
    """
    asked = retry_seconds(error)
    if asked is None and code_of(error) is not grpc.StatusCode.UNAVAILABLE:
        return None
    if (pause := next(rest, None)) is not None:
        # Later than asked: all whom the server sends away would come back at the same moment.
        pause += max(asked or 0.0, 0.0)
    return pause if pause is not None and pause < seconds_left else None
