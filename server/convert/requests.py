"""Messages to domain values, every input checked: what passes here is within its domain."""

import itertools
import math
from collections.abc import Mapping, Sequence

from bandit.errors import InvalidInput
from bandit.types import (
    NO_REQUIREMENTS,
    EscalationReason,
    Features,
    FeatureValue,
    Outcome,
    Requirements,
    Signals,
    Text,
    Usage,
)
from pointsman.v1 import routing_pb2 as pb
from server.commands import Escalate, Report, Reward, Select
from server.convert.checks import Checks, amount, count, finite, optional, share, whole

_REASONS = {pb.EscalationReason.Value(f"ESCALATION_REASON_{reason.name}"): reason for reason in EscalationReason}
_COUNTS = ("turns", "tool_calls", "tool_errors", "repeated_calls", "failed_tests", "reverted_edits")


class Requests(Checks):
    """Turns messages into commands. Every method raises InvalidInput, naming the field as the caller spells it."""

    def sessions(self, session_ids: Sequence[str]) -> list[str]:
        """Sessions that must be given, each once."""
        count("session_ids", session_ids, self._limits.list_items)
        if not session_ids:
            raise InvalidInput("session_ids", "required")
        return list(dict.fromkeys(self.required_id("session_ids", session_id) for session_id in session_ids))

    def batch(self, request: pb.BatchSelectRequest) -> list[pb.SelectRequest]:
        """The items of a batch, each with its router."""
        router = self.router(request.router)
        count("requests", request.requests, self._limits.batch)
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
                cost_usd=optional(given, "cost_usd", amount, "outcome."),
                usage=_usage("outcome.usage", given.usage) if given.HasField("usage") else None,
                latency_seconds=optional(given, "latency_seconds", amount, "outcome."),
            ),
            features=self._features(request.features),
            required_capabilities=self.names("required_capabilities", request.required_capabilities),
            context_tokens=optional(request, "context_tokens", whole),
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
                **{name: optional(given, name, whole, "signals.") for name in _COUNTS},
                usage=_usage("signals.usage", given.usage) if given.HasField("usage") else None,
                cost_usd=optional(given, "cost_usd", amount, "signals."),
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
            allow=self.names("allow", request.allow),
            deny=self.names("deny", request.deny),
            capabilities=self.names("required_capabilities", request.required_capabilities),
            context_tokens=optional(request, "context_tokens", whole) or 0,
            max_cost_usd=optional(request, "max_cost_usd", amount),
        )
        # One object for most requests, so that they are quick to compare and log.
        return demanded if demanded != NO_REQUIREMENTS else NO_REQUIREMENTS

    def reward(self, request: pb.RewardRequest) -> Reward:
        """A Reward."""
        if bool(request.decision_id) == bool(request.session_id):
            raise InvalidInput("decision_id", "give this or session_id, not both: their totals differ")
        count("metrics", request.metrics, self._limits.features)
        for name in request.metrics:
            finite(f"metrics.{self.id('metrics', name)}", request.metrics[name])
        return Reward(
            router=self.router(request.router),
            decision_id=self.id("decision_id", request.decision_id),
            session_id=self.id("session_id", request.session_id),
            outcome=Outcome(
                success=optional(request, "success", share),
                cost_usd=optional(request, "cost_usd", amount),
                usage=_usage("usage", request.usage) if request.HasField("usage") else None,
                latency_seconds=optional(request, "latency_seconds", amount),
                served_arm=self.id("served_arm", request.served_arm) or None,
            ),
            metrics=dict(sorted(request.metrics.items())),
            revision=optional(request, "revision", whole),
            final=request.final,
        )

    def _features(self, given: Mapping[str, pb.FeatureValue]) -> Features:
        count("features", given, self._limits.features)
        return {
            self.required_id("features", name): self._feature(f"features.{name}", value)
            for name, value in given.items()
        }

    def _feature(self, field: str, value: pb.FeatureValue) -> FeatureValue:
        match value.WhichOneof("value"):
            case "number":
                return finite(field, value.number)
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
                count(field, values, self._limits.embedding)
                if not values:
                    raise InvalidInput(field, "an embedding needs at least one number")
                for number in itertools.filterfalse(math.isfinite, values):
                    finite(field, number)
                return values
        raise InvalidInput(field, "no value is set")


def _usage(field: str, usage: pb.Usage) -> Usage:
    for name in ("input_tokens", "output_tokens", "cached_tokens"):
        whole(f"{field}.{name}", getattr(usage, name))
    return Usage(
        input_tokens=float(usage.input_tokens),
        output_tokens=float(usage.output_tokens),
        cached_tokens=float(usage.cached_tokens),
    )
