"""What the engine is asked and what it answers, in domain values: validated, and without a trace of gRPC."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from bandit.configuration import Down
from bandit.events import Escalated, Progressed
from bandit.evidence import Evidence, Verdict
from bandit.session import Session
from bandit.types import (
    NO_REQUIREMENTS,
    Arm,
    Canary,
    Decision,
    EscalationReason,
    Features,
    Mode,
    Outcome,
    PolicyRecord,
    Requirements,
    RouterSettings,
    Shadow,
    Signals,
)


class Select(msgspec.Struct, frozen=True, kw_only=True):
    """Which arm takes this session?"""

    router: str
    session_id: str = ""
    """Empty: derived from the request id, else random."""
    request_id: str = ""
    features: Features = {}
    requirements: Requirements = NO_REQUIREMENTS
    pinned_arm: str = ""


class Escalate(msgspec.Struct, frozen=True, kw_only=True):
    """The running attempt is left: what next?"""

    router: str
    session_id: str = ""
    """Empty: the session of `decision_id`."""
    decision_id: str = ""
    """Empty: the session's running attempt."""
    reason: EscalationReason
    outcome: Outcome = Outcome()
    features: Features = {}
    required_capabilities: frozenset[str] = frozenset()
    """Needed beside what was required before."""
    context_tokens: int | None = None
    """None: as before."""
    endpoint: str = ""
    """The one that is left; empty: the one that was answered last."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How the running attempt gets on: go on?"""

    router: str
    session_id: str = ""
    """Empty: the session of `decision_id`."""
    decision_id: str = ""
    """Empty: the session's running attempt."""
    signals: Signals = Signals()


class Reward(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt (by decision_id) or a session (by session_id) went; exactly one of the two is given."""

    router: str
    decision_id: str = ""
    session_id: str = ""
    outcome: Outcome = Outcome()
    metrics: Mapping[str, float] = {}
    revision: int | None = None
    final: bool = False


class PutArm(msgspec.Struct, frozen=True, kw_only=True):
    """Add an arm or replace its settings."""

    router: str
    arm: Arm


class CreateRouter(msgspec.Struct, frozen=True, kw_only=True):
    """Make a router without arms."""

    settings: RouterSettings


class UpdateRouter(msgspec.Struct, frozen=True, kw_only=True):
    """Change some of a router's settings."""

    router: str
    fields: Mapping[str, Any]
    """Of `RouterSettings`, with what they become."""


class SetMode(msgspec.Struct, frozen=True, kw_only=True):
    """Set who decides, and whether outcomes are learned from."""

    router: str
    mode: Mode


class RetireArm(msgspec.Struct, frozen=True, kw_only=True):
    """Take an arm out for good."""

    router: str
    arm: str


class SetAvailability(msgspec.Struct, frozen=True, kw_only=True):
    """Say that an arm or one endpoint of it is down for a while, or (0 seconds) up."""

    router: str
    arm: str
    endpoint: str = ""
    down_seconds: float
    why: str = ""


class CreatePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Add a policy by its specification, its definition or both."""

    router: str
    policy: str = ""
    definition: str = ""


class StartShadow(msgspec.Struct, frozen=True, kw_only=True):
    """Have a policy asked beside the live one."""

    router: str
    policy_version: str


class StartCanary(msgspec.Struct, frozen=True, kw_only=True):
    """Give a policy a share of new sessions."""

    router: str
    policy_version: str
    canary: Canary


class PromotePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Make a policy the live one."""

    router: str
    policy_version: str


class RollBackPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Take a policy out again."""

    router: str
    policy_version: str = ""
    """Empty: the canary if one runs, else whichever is live."""
    why: str = ""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to Select: a decision, whether it stood before (`sticky`), and where to call the arm."""

    decision: Decision
    endpoint: str = ""
    sticky: bool = False


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to Escalate: how the attempt was left, and the next one; None where the session is exhausted."""

    left: Escalated
    next: Choice | None


class Advised(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ReportProgress: the report with its advice."""

    progressed: Progressed


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to Reward: the revision under which it was taken."""

    revision: int


class ArmStands(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to a change of an arm: the arm as it is now, and what of it is down."""

    arm: Arm
    down: Mapping[str, Down] = {}
    """By endpoint; empty: the arm as a whole."""


class RouterStands(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to a change of a router: its settings as they are now."""

    settings: RouterSettings


class TrialStands(msgspec.Struct, frozen=True, kw_only=True):
    """How a canary does."""

    evidence: Evidence
    waiting: int
    """Sessions that do not count yet."""
    verdict: Verdict


class PolicyStands(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to a change of a policy: the policy as it is now."""

    policy: PolicyRecord
    trial: TrialStands | None = None
    """How it does as a canary, where that is asked and known."""


class TakenIn(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to events of another log: how many entered this one, and how many were there."""

    imported: int
    skipped: int


class Closure(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a session whose reward is overdue was closed."""

    closed: bool


class Erasing(msgspec.Struct, frozen=True, kw_only=True):
    """Whether there was anything of a session to erase; what there was is to be deleted now."""

    logged: bool


Reply: TypeAlias = (
    Choice | Moved | Advised | Accepted | ArmStands | RouterStands | PolicyStands | TakenIn | Closure | Erasing
)


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What the log says about one attempt beyond its state: when it began, how it was left, what was measured."""

    at_us: int
    escalated: Escalated | None = None
    """The Escalate that left it; None where it runs or where Select rerouted the session."""
    metrics: Mapping[str, float] = {}
    revision: int | None = None
    """The highest revision of its outcome; None where nothing was reported."""


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known about a session; `told` has one entry an attempt."""

    router: str
    session: Session
    told: tuple[Told, ...]


class DecisionView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known about a decision, as attempt `index` of its session."""

    view: SessionView
    index: int
    decision: Decision
    unconfirmed: str
    """Why the decision could not be recomputed to what was logged; empty where it was."""
    erased: bool
    shadows: tuple[Shadow, ...]
    """What policies that were asked beside would have done."""
    event_json: str

    @property
    def stop_propensity(self) -> float:
        """Probability with which giving up would have been drawn instead."""
        before = self.view.told[self.index - 1].escalated if self.index else None
        return before.stop_propensity if before is not None else 0.0


class RouterView(msgspec.Struct, frozen=True, kw_only=True):
    """A router and how far it has learned."""

    settings: RouterSettings
    created_us: int
    epoch: int
    epoch_hash: str
    last_seq: int
    learned_seq: int
    budget_price: float = 0.0
    budget_spent_usd: float | None = None
    """In the running period; None without a budget."""
    candidates: tuple[PolicyStands, ...] = ()
    """The policies in shadow and the canary."""
