"""The event log's vocabulary. Every state in Pointsman is a fold over these, in sequence order."""

from typing import TypeAlias

import msgspec

from bandit.types import (
    Arm,
    Decision,
    EscalationReason,
    Features,
    Outcome,
    PolicyRecord,
    ProgressAction,
    Requirements,
    RouterSettings,
    Shadow,
    Signals,
)


class RouterPut(msgspec.Struct, frozen=True, kw_only=True, tag="router_put"):
    """A router was created or its settings changed."""

    settings: RouterSettings


class ArmPut(msgspec.Struct, frozen=True, kw_only=True, tag="arm_put"):
    """An arm was added, changed (its price, say) or retired."""

    arm: Arm


class PolicyPut(msgspec.Struct, frozen=True, kw_only=True, tag="policy_put"):
    """A policy was created, or came to another stage. Which one decides stands in the router's settings."""

    policy: PolicyRecord


class AvailabilitySet(msgspec.Struct, frozen=True, kw_only=True, tag="availability_set", omit_defaults=True):
    """An arm, or one endpoint of it, was said to be down for a while, or up again."""

    arm: str
    endpoint: str = ""
    """Empty: the arm as a whole."""
    until_us: int = 0
    """Down until then, UTC microseconds since 1970; 0: up."""
    why: str = ""


class Configured(msgspec.Struct, frozen=True, kw_only=True, tag="configured"):
    """What the configuration file said of the router when it was last looked at. It changes nothing by itself: the
    changes that it led to follow. At the next start only what the file says differently from this is changed, so that
    what was changed at run time stands."""

    settings: RouterSettings
    arms: tuple[Arm, ...]


class Decided(msgspec.Struct, frozen=True, kw_only=True, tag="decided", omit_defaults=True):
    """An attempt was begun. Where it replaces one that could not go on, `left` says why that one was left."""

    decision: Decision
    left: EscalationReason | None = None
    endpoint: str = ""
    """Where the agent was told to reach the arm; empty where the arm has no named endpoints."""
    shadows: tuple[Shadow, ...] = ()
    """What other policies would have done: those in shadow, and the live one beside a canary's decision."""


class Stuck(msgspec.Struct, frozen=True, kw_only=True, tag="stuck", omit_defaults=True):
    """A Select was answered with the session's running decision: no decision of its own.

    Logged where the request can be repeated, or demands something else than the session's latest request.
    """

    decision_id: str
    requirements: Requirements | None = None
    """What the request demanded, where that differs from what held before; it goes on to hold."""
    endpoint: str = ""


class Progressed(msgspec.Struct, frozen=True, kw_only=True, tag="progressed", omit_defaults=True):
    """An agent reported how its running attempt goes, and was advised."""

    decision_id: str
    signals: Signals
    action: ProgressAction
    arm: str = ""
    """The arm to go on with: the current one, the likely next one, none."""
    propensity: float = 1.0
    """Probability with which this advice was given."""
    success_mean: float | None = None
    """Probability that the attempt resolves the session; None before that is learned."""
    threshold: float | None = None
    """The success below which leaving was advised; None where the plain rule advised."""
    rule: str = ""
    """What the plain rule saw, in words; empty where it saw nothing or did not advise."""


class Escalated(msgspec.Struct, frozen=True, kw_only=True, tag="escalated", omit_defaults=True):
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
    endpoint: str = ""
    """Which endpoint of the arm it is about, as the agent said; empty: the one it was last told."""


class Rewarded(msgspec.Struct, frozen=True, kw_only=True, tag="rewarded", omit_defaults=True):
    """An outcome was reported, for one attempt or (decision_id empty) for the whole session."""

    session_id: str
    decision_id: str = ""
    outcome: Outcome
    metrics: dict[str, float] = {}
    revision: int
    """Per field, the highest revision that carries it wins; ties go to the later event."""
    final: bool = False


class Closed(msgspec.Struct, frozen=True, kw_only=True, tag="closed", omit_defaults=True):
    """A session's reward did not come within the router's wait. A later one still counts."""

    session_id: str
    success: float | None = None
    """The success taken for its last attempt where none was told; None: censored."""


class Erased(msgspec.Struct, frozen=True, kw_only=True, tag="erased"):
    """A session's features were erased on request, from all events before this one."""

    session_id: str


Configuring: TypeAlias = RouterPut | ArmPut | PolicyPut | AvailabilitySet | Configured
"""Events that say what a router is."""

Event: TypeAlias = Configuring | Decided | Stuck | Progressed | Escalated | Rewarded | Closed | Erased


def decision_of(event: Event) -> str:
    """The decision that an event introduces or refers to; empty for those about none."""
    match event:
        case Decided(decision=decision):
            return decision.decision_id
        case Stuck() | Progressed() | Escalated() | Rewarded():
            return event.decision_id
    return ""
