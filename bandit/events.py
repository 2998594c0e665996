"""The event log's vocabulary. Every state in Pointsman is a fold over these, in sequence order."""

from typing import TypeAlias

import msgspec

from bandit.types import Arm, Decision, EscalationReason, Features, Outcome, RouterSettings


class RouterPut(msgspec.Struct, frozen=True, kw_only=True, tag="router_put"):
    """A router was created or its settings changed."""

    settings: RouterSettings


class ArmPut(msgspec.Struct, frozen=True, kw_only=True, tag="arm_put"):
    """An arm was added, changed (its price, say) or retired."""

    arm: Arm


class Decided(msgspec.Struct, frozen=True, kw_only=True, tag="decided"):
    """An attempt was begun. Where it replaces one that could not go on, `left` says why that one was left."""

    decision: Decision
    left: EscalationReason | None = None


class Stuck(msgspec.Struct, frozen=True, kw_only=True, tag="stuck"):
    """A repeatable Select was answered with the session's running decision: no decision of its own."""

    decision_id: str


class Escalated(msgspec.Struct, frozen=True, kw_only=True, tag="escalated"):
    """An attempt was left, with its outcome so far. The next attempt, if any, follows as a Decided event."""

    decision_id: str
    reason: EscalationReason
    outcome: Outcome = Outcome()
    features: Features = {}
    """What changed; merged into the session's features."""
    next_decision_id: str = ""
    """Empty where the session is exhausted."""
    stop_propensity: float = 0.0
    """Probability with which giving up was drawn at this point: 0 or 1 outside the margin of indifference."""


class Rewarded(msgspec.Struct, frozen=True, kw_only=True, tag="rewarded"):
    """An outcome was reported, for one attempt or (decision_id empty) for the whole session."""

    session_id: str
    decision_id: str = ""
    outcome: Outcome
    metrics: dict[str, float] = {}
    revision: int
    """Per field, the highest revision that carries it wins; ties go to the later event."""
    final: bool = False


Event: TypeAlias = RouterPut | ArmPut | Decided | Stuck | Escalated | Rewarded
