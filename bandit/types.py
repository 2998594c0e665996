"""The values everything else speaks in: arms, features, situations, distributions, decisions, outcomes.

All are frozen and built by keyword. They double as the JSON schema of the event log, so a field is never
renamed or given another meaning; fields may be added with a default.
"""

import enum
from typing import TypeAlias

import msgspec


class Text(msgspec.Struct, frozen=True):
    """A feature value that is prose (an issue, a prompt), as opposed to a category's label."""

    text: str


FeatureValue: TypeAlias = float | bool | str | Text | tuple[float, ...]
"""number | flag | category | text | embedding."""

Features: TypeAlias = dict[str, FeatureValue]


class SelectReason(enum.StrEnum):
    """Why a session got its arm."""

    SAMPLED = "sampled"
    STICKY = "sticky"
    PINNED = "pinned"
    ONLY_ELIGIBLE = "only_eligible"
    BASELINE = "baseline"
    ESCALATED = "escalated"
    REROUTED_UNAVAILABLE = "rerouted_unavailable"
    REROUTED_CAPABILITY = "rerouted_capability"
    REROUTED_POLICY = "rerouted_policy"


class EscalationReason(enum.StrEnum):
    """Why an attempt was left. The first two are alarms: the attempt did not resolve the session."""

    VERIFIED_FAILURE = "verified_failure"
    STRUGGLING = "struggling"
    USER_REQUEST = "user_request"
    CAPABILITY = "capability"
    UNAVAILABLE = "unavailable"
    POLICY = "policy"

    @property
    def is_alarm(self) -> bool:
        """Whether leaving for this reason is evidence that the attempt failed."""
        return self in (EscalationReason.VERIFIED_FAILURE, EscalationReason.STRUGGLING)


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """List price in dollars per million tokens, each >= 0."""

    input_usd: float = 0.0
    output_usd: float = 0.0
    cached_usd: float | None = None
    """Cached input; None where the provider gives no discount, so that input_usd applies."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A published benchmark figure of an arm, overall or for one category of the feature `category`."""

    category: str | None = None
    success_rate: float
    cost_usd: float | None = None
    """Mean dollars of a session."""


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One model, with version and effort where they matter. An id is never reused."""

    id: str
    provider: str = ""
    price: Price | None = None
    capabilities: frozenset[str] = frozenset()
    figures: tuple[Figure, ...] = ()
    retired: bool = False


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one attempt, totals so far. Cached input tokens are not counted again as input tokens."""

    input_tokens: float = 0.0
    output_tokens: float = 0.0
    cached_tokens: float = 0.0

    @property
    def total(self) -> float:
        """All tokens together."""
        return self.input_tokens + self.output_tokens + self.cached_tokens


class Objective(msgspec.Struct, frozen=True, kw_only=True):
    """What a router maximises: value_usd x success - cost."""

    value_usd: float = 5.0
    """Dollars that a resolved session is worth, > 0."""


class RouterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One optimizer: its policy, objective and the numbers its decisions depend on."""

    id: str = "default"
    seed: int = 0
    policy: str = "thompson"
    objective: Objective = Objective()
    max_attempts: int = 3
    exploration_floor: float = 0.02
    """Share of every lottery that is uniform over the eligible arms, in [0, 1]."""
    draws: int = 256
    """Posterior draws a decision takes, M."""
    alpha: float = 0.6
    """Scale of the posterior's spread in those draws; 1 is plain Thompson sampling."""


class BarKind(enum.StrEnum):
    """What rules an arm out at a decision."""

    RETIRED = "retired"
    UNAVAILABLE = "unavailable"
    CAPABILITY = "capability"
    POLICY = "policy"
    TRIED = "tried"
    COST = "cost"


class Bar(msgspec.Struct, frozen=True):
    """Why an arm is not eligible: its kind, and the reason in words."""

    kind: BarKind
    why: str


class Offer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An arm as it stands at one decision; `bar` is None where it is eligible."""

    arm: str
    price: Price | None = None
    bar: Bar | None = None


class Situation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """All that a decision depends on apart from the epoch: logged with it, so that it can be recomputed."""

    router: str
    seed: int
    session_id: str
    attempt: int
    """Number of the attempt to be begun, from 1; with seed and session_id it keys every random stream."""
    attempts_left: int
    """Attempts that may still be made, this one included, >= 1."""
    features: Features
    offers: tuple[Offer, ...]
    alarmed: tuple[str, ...] = ()
    """Arms of this session whose attempts were left with an alarm, oldest first."""
    may_stop: bool = False
    """Whether giving up is an answer (the last attempt was left with an alarm)."""
    cost_cap_usd: float | None = None
    """Expected dollars that the attempt may cost at most."""
    objective: Objective
    exploration_floor: float
    draws: int
    alpha: float


class ArmScore(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What the policy believed of one arm at a decision; None where the policy believes nothing."""

    arm: str
    propensity: float
    success_mean: float | None = None
    success_low: float | None = None
    """5 % quantile of the success probability."""
    success_high: float | None = None
    """95 % quantile."""
    cost_usd: float | None = None
    """Expected dollars of the attempt."""
    bar: Bar | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One begun attempt: what was drawn, from which distribution, and everything that led to it."""

    decision_id: str
    situation: Situation
    arm: str
    propensity: float
    reason: SelectReason
    scores: tuple[ArmScore, ...]
    """One a known arm, in the router's order; their propensities are the vector sampled from."""
    ladder: tuple[str, ...] = ()
    """Where the policy would escalate to, in order, without the current arm."""
    policy: str
    """The policy's specification, e.g. ``thompson``."""
    policy_version: str
    epoch: int
    epoch_hash: str

    @property
    def session_id(self) -> str:
        """The session this decision belongs to."""
        return self.situation.session_id

    @property
    def attempt(self) -> int:
        """Number of the attempt it begins, from 1."""
        return self.situation.attempt


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of how an attempt went; None is unknown, which is not 0."""

    success: float | None = None
    """Resolved the session: 0, 1 or a share between."""
    cost_usd: float | None = None
    usage: Usage | None = None
    latency_seconds: float | None = None
    served_arm: str | None = None
    """The arm that really served, where it is not the decided one."""
