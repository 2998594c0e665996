"""Messages to domain values, every input checked: what passes here is within its domain."""

import itertools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sized
from typing import TypeVar

from google.protobuf.message import Message

from bandit.errors import InvalidInput
from bandit.types import (
    NO_REQUIREMENTS,
    Arm,
    EscalationReason,
    Features,
    FeatureValue,
    Figure,
    Outcome,
    Price,
    Requirements,
    Signals,
    Text,
    Usage,
)
from pointsman.v1 import admin_pb2
from pointsman.v1 import routing_pb2 as pb
from server import ids
from server.commands import Escalate, PutArm, Report, Reward, Select
from server.limits import Limits

DEFAULT_ROUTER = "default"

_REASONS = {pb.EscalationReason.Value(f"ESCALATION_REASON_{reason.name}"): reason for reason in EscalationReason}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NO_NAMES: frozenset[str] = frozenset()
_COUNTS = ("turns", "tool_calls", "tool_errors", "repeated_calls", "failed_tests", "reverted_edits")
_MAX_COUNT = 2**53
"""Of tokens, revisions and signals: up to here floats count exactly."""
_MAX_AMOUNT = 1e12
"""Of dollars and seconds: far beyond any real one, and sums of them stay finite."""

_Keyed = TypeVar(
    "_Keyed",
    pb.SelectRequest,
    pb.EscalateRequest,
    pb.ReportProgressRequest,
    pb.RewardRequest,
    admin_pb2.PutArmRequest,
)
_Number = TypeVar("_Number", int, float)


class Requests:
    """Turns messages into commands. Every method raises InvalidInput, naming the field as the caller spells it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def repeat(self, method: str, request: _Keyed) -> ids.Repeat | None:
        """How a repeat of the request is known; None where it has no request id."""
        self.id("request_id", request.request_id)
        request.router = self.router(request.router)
        # Deterministic, for maps have no order of their own.
        return ids.repeat(request.router, method, request.request_id, request.SerializeToString(deterministic=True))

    def router(self, router: str) -> str:
        """The router meant."""
        return self.id("router", router) or DEFAULT_ROUTER

    def id(self, field: str, value: str) -> str:
        """An id or name of ours or the caller's; may be empty."""
        if len(value) > self._limits.id_chars:
            raise InvalidInput(field, f"longer than {self._limits.id_chars} characters")
        if _CONTROL.search(value):
            raise InvalidInput(field, "holds a control character")
        return value

    def required_id(self, field: str, value: str) -> str:
        """An id that must be given."""
        if not value:
            raise InvalidInput(field, "required")
        return self.id(field, value)

    def batch(self, request: pb.BatchSelectRequest) -> list[pb.SelectRequest]:
        """The items of a batch, each with its router."""
        router = self.router(request.router)
        _count("requests", request.requests, self._limits.batch)
        if not request.requests:
            raise InvalidInput("requests", "required")
        for item in request.requests:
            item.router = item.router or router
        return list(request.requests)

    def select(self, request: pb.SelectRequest) -> Select:
        """A Select."""
        return Select(
            router=self.router(request.router),
            session_id=self.id("session_id", request.session_id),
            request_id=self.id("request_id", request.request_id),
            features=self._features(request.features),
            requirements=self._requirements(request),
            pinned_arm=self.id("pinned_arm", request.pinned_arm),
        )

    def escalate(self, request: pb.EscalateRequest) -> Escalate:
        """An Escalate."""
        session_id, decision_id = self._attempt(request)
        if request.reason not in _REASONS:
            known = request.reason in pb.EscalationReason.values()
            raise InvalidInput("reason", "required" if known else f"there is no reason {request.reason}")
        given = request.outcome
        return Escalate(
            router=self.router(request.router),
            session_id=session_id,
            decision_id=decision_id,
            reason=_REASONS[request.reason],
            outcome=Outcome(
                cost_usd=_optional(given, "cost_usd", _amount, "outcome."),
                usage=_usage("outcome.usage", given.usage) if given.HasField("usage") else None,
                latency_seconds=_optional(given, "latency_seconds", _amount, "outcome."),
            ),
            features=self._features(request.features),
            required_capabilities=self._names("required_capabilities", request.required_capabilities),
            context_tokens=_optional(request, "context_tokens", _whole),
            endpoint=self.id("endpoint", request.endpoint),
        )

    def report_progress(self, request: pb.ReportProgressRequest) -> Report:
        """A ReportProgress."""
        session_id, decision_id = self._attempt(request)
        given = request.signals
        return Report(
            router=self.router(request.router),
            session_id=session_id,
            decision_id=decision_id,
            signals=Signals(
                **{name: _optional(given, name, _whole, "signals.") for name in _COUNTS},
                usage=_usage("signals.usage", given.usage) if given.HasField("usage") else None,
                cost_usd=_optional(given, "cost_usd", _amount, "signals."),
            ),
        )

    def _attempt(self, request: pb.EscalateRequest | pb.ReportProgressRequest) -> tuple[str, str]:
        """The ids of the session and the decision meant, at least one of them."""
        session_id = self.id("session_id", request.session_id)
        decision_id = self.id("decision_id", request.decision_id)
        if not session_id and not decision_id:
            raise InvalidInput("decision_id", "required where session_id is not given")
        return session_id, decision_id

    def _requirements(self, request: pb.SelectRequest) -> Requirements:
        demanded = Requirements(
            allow=self._names("allow", request.allow),
            deny=self._names("deny", request.deny),
            capabilities=self._names("required_capabilities", request.required_capabilities),
            context_tokens=_optional(request, "context_tokens", _whole) or 0,
            max_cost_usd=_optional(request, "max_cost_usd", _amount),
        )
        # One object for most requests, so that they are quick to compare and log.
        return demanded if demanded != NO_REQUIREMENTS else NO_REQUIREMENTS

    def reward(self, request: pb.RewardRequest) -> Reward:
        """A Reward."""
        if bool(request.decision_id) == bool(request.session_id):
            raise InvalidInput("decision_id", "give this or session_id, not both: their totals differ")
        _count("metrics", request.metrics, self._limits.features)
        for name in request.metrics:
            _finite(f"metrics.{self.id('metrics', name)}", request.metrics[name])
        return Reward(
            router=self.router(request.router),
            decision_id=self.id("decision_id", request.decision_id),
            session_id=self.id("session_id", request.session_id),
            outcome=Outcome(
                success=_optional(request, "success", _share),
                cost_usd=_optional(request, "cost_usd", _amount),
                usage=_usage("usage", request.usage) if request.HasField("usage") else None,
                latency_seconds=_optional(request, "latency_seconds", _amount),
                served_arm=self.id("served_arm", request.served_arm) or None,
            ),
            metrics=dict(sorted(request.metrics.items())),
            revision=_optional(request, "revision", _whole),
            final=request.final,
        )

    def put_arm(self, request: admin_pb2.PutArmRequest) -> PutArm:
        """A PutArm."""
        arm = request.arm
        if arm.predecessor:
            raise InvalidInput("arm.predecessor", "not supported by this version")
        _count("arm.figures", arm.figures, self._limits.list_items)
        price = None
        if arm.HasField("prices"):
            price = Price(
                input_usd=_amount("arm.prices.input_usd_per_million", arm.prices.input_usd_per_million),
                output_usd=_amount("arm.prices.output_usd_per_million", arm.prices.output_usd_per_million),
                cached_usd=_optional(arm.prices, "cached_usd_per_million", _amount, "arm.prices."),
            )
        return PutArm(
            router=self.router(request.router),
            arm=Arm(
                id=self.required_id("arm.id", arm.id),
                provider=self.id("arm.provider", arm.provider),
                price=price,
                capabilities=self._names("arm.capabilities", arm.capabilities),
                figures=tuple(self._figure(f"arm.figures[{i}]", figure) for i, figure in enumerate(arm.figures)),
            ),
        )

    def _figure(self, field: str, figure: admin_pb2.PriorFigure) -> Figure:
        return Figure(
            category=self.id(f"{field}.category", figure.category) or None,
            success_rate=_share(f"{field}.success_rate", figure.success_rate),
            cost_usd=_optional(figure, "cost_usd_mean", _amount, f"{field}."),
        )

    def _features(self, given: Mapping[str, pb.FeatureValue]) -> Features:
        _count("features", given, self._limits.features)
        return {
            self.required_id("features", name): self._feature(f"features.{name}", value)
            for name, value in given.items()
        }

    def _feature(self, field: str, value: pb.FeatureValue) -> FeatureValue:
        match value.WhichOneof("value"):
            case "number":
                return _finite(field, value.number)
            case "category":
                if len(value.category) > self._limits.id_chars:
                    raise InvalidInput(field, f"longer than {self._limits.id_chars} characters")
                return value.category
            case "text":
                if len(value.text) > self._limits.text_chars:
                    raise InvalidInput(field, f"longer than {self._limits.text_chars} characters")
                return Text(value.text)
            case "flag":
                return value.flag
            case "embedding":
                values = tuple(value.embedding.values)
                _count(field, values, self._limits.embedding)
                if not values:
                    raise InvalidInput(field, "an embedding needs at least one number")
                for number in itertools.filterfalse(math.isfinite, values):
                    _finite(field, number)
                return values
        raise InvalidInput(field, "no value is set")

    def _names(self, field: str, names: Collection[str]) -> frozenset[str]:
        if not names:
            return _NO_NAMES
        _count(field, names, self._limits.list_items)
        return frozenset(self.required_id(field, name) for name in names)


def _count(field: str, items: Sized, most: int) -> None:
    if len(items) > most:
        raise InvalidInput(field, f"has {len(items)} entries, at most {most} are taken")


def _optional(message: Message, field: str, check: Callable[[str, _Number], _Number], path: str = "") -> _Number | None:
    return check(path + field, getattr(message, field)) if message.HasField(field) else None


def _finite(field: str, number: float) -> float:
    if not math.isfinite(number):
        raise InvalidInput(field, f"is {number}, must be a finite number")
    return number


def _amount(field: str, number: float) -> float:
    if not 0 <= _finite(field, number) <= _MAX_AMOUNT:
        raise InvalidInput(field, f"is {number}, must lie in 0 to {_MAX_AMOUNT:g}")
    return number


def _whole(field: str, number: int) -> int:
    if not 0 <= number <= _MAX_COUNT:
        raise InvalidInput(field, f"is {number}, must lie in 0 to 2^53")
    return number


def _share(field: str, number: float) -> float:
    if not 0 <= _finite(field, number) <= 1:
        raise InvalidInput(field, f"is {number}, must lie in 0 to 1")
    return number


def _usage(field: str, usage: pb.Usage) -> Usage:
    for name in ("input_tokens", "output_tokens", "cached_tokens"):
        _whole(f"{field}.{name}", getattr(usage, name))
    return Usage(
        input_tokens=float(usage.input_tokens),
        output_tokens=float(usage.output_tokens),
        cached_tokens=float(usage.cached_tokens),
    )
