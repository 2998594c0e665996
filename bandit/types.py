"""The values everything else speaks in: arms, features, situations, distributions, decisions, outcomes.

All are frozen and built by keyword. They double as the JSON schema of the event log, so a field is never
renamed or given another meaning; fields may be added with a default.
"""

import enum
from typing import TypeAlias

import msgspec


class Text(msgspec.Struct, frozen=True, omit_defaults=True):
    """A feature value that is prose (an issue, a prompt), as opposed to a category's label."""

    text: str = ""
    hashed: tuple[float, ...] = ()
    """What is learned from it (see `features.without_texts`), where the text itself is not kept; else empty."""


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


class Mode(enum.StrEnum):
    """Who decides, and whether outcomes are learned from."""

    APPRENTICE = "apprentice"
    """The baseline arm takes every session; the policy learns from it."""
    LIVE = "live"
    FROZEN = "frozen"
    """The policy decides with what it has learned; what is reported meanwhile is learned once it is live again."""


class PolicyStage(enum.StrEnum):
    """What a policy of a router is doing."""

    CREATED = "created"
    SHADOW = "shadow"
    """It is asked beside the live one, and what it says is logged."""
    CANARY = "canary"
    """It decides for a random share of new sessions."""
    LIVE = "live"
    SUPERSEDED = "superseded"
    ROLLED_BACK = "rolled_back"


class Preset(enum.StrEnum):
    """How much a success is worth against what it costs, for those who would rather not name an amount."""

    CHEAP = "cheap"
    BALANCED = "balanced"
    BEST = "best"

    @property
    def value_usd(self) -> float:
        """Dollars that a resolved session is worth."""
        return {Preset.CHEAP: 1.0, Preset.BALANCED: 5.0, Preset.BEST: 25.0}[self]


class ProgressAction(enum.StrEnum):
    """What an agent is advised to do with a running attempt."""

    CONTINUE = "continue"
    ESCALATE = "escalate"
    STOP = "stop"


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one attempt, totals so far. Cached input tokens are not counted again as input tokens."""

    input_tokens: float = 0.0
    output_tokens: float = 0.0
    cached_tokens: float = 0.0

    @property
    def total(self) -> float:
        """All tokens together."""
        return self.input_tokens + self.output_tokens + self.cached_tokens


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """List price in dollars per million tokens, each >= 0."""

    input_usd: float = 0.0
    output_usd: float = 0.0
    cached_usd: float | None = None
    """Cached input; None where the provider gives no discount, so that input_usd applies."""

    def dollars(self, usage: Usage) -> float:
        """What so many tokens cost."""
        cached_usd = self.input_usd if self.cached_usd is None else self.cached_usd
        return (
            usage.input_tokens * self.input_usd
            + usage.output_tokens * self.output_usd
            + usage.cached_tokens * cached_usd
        ) / 1e6


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
    endpoints: tuple[str, ...] = ()
    """Names of the places that serve it, the preferred one first; empty: one place without a name."""
    capabilities: frozenset[str] = frozenset()
    context_window_tokens: int | None = None
    """Longest prompt it takes; None is unknown, and no prompt is too long."""
    figures: tuple[Figure, ...] = ()
    predecessor: str = ""
    """The arm of which it is a newer version, put before it; empty: none."""
    retired: bool = False


class Signals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a running attempt has gone so far: counts since it began, each >= 0; None is unknown."""

    turns: int | None = None
    tool_calls: int | None = None
    tool_errors: int | None = None
    """Tool calls that failed."""
    repeated_calls: int | None = None
    """Tool calls equal to an earlier one of the attempt."""
    failed_tests: int | None = None
    reverted_edits: int | None = None
    usage: Usage | None = None
    cost_usd: float | None = None


class Requirements(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a request demands of the arm that serves it, beyond the router's rules."""

    allow: frozenset[str] = frozenset()
    """Only these arms; empty: all."""
    deny: frozenset[str] = frozenset()
    capabilities: frozenset[str] = frozenset()
    context_tokens: int = 0
    """Tokens of the prompt that the arm has to take, 0 where unknown."""
    max_cost_usd: float | None = None
    """Expected dollars that an attempt may cost at most."""


NO_REQUIREMENTS = Requirements()


class Objective(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a router maximises: value_usd x success - (1 + price of budget) x cost - latency_usd_per_second x latency.

    With a quality floor, an attempt goes to the cheapest arm whose predicted success reaches it instead.
    """

    value_usd: float = Preset.BALANCED.value_usd
    """Dollars that a resolved session is worth, > 0."""
    latency_usd_per_second: float = 0.0
    """Dollars that a second of an attempt costs, >= 0."""
    quality_floor: float | None = None
    """Success that the arm's prediction must reach, in [0, 1]; the strongest arm where none does. None: no floor."""
    quality_floor_relative: bool = False
    """The floor is a share of the best arm's predicted success instead of a probability."""
    budget_usd: float | None = None
    """Dollars to spend per period, > 0. None: no budget."""
    budget_period_seconds: float | None = None
    """Length of the period, > 0; there where `budget_usd` is."""
    session_cap_usd: float | None = None
    """Arms that are expected to bring a session's dollars above this are ruled out. None: no cap."""


class Rule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which arms some callers may use.

    It holds for a session whose category features `organisation`, `project` and `user` equal the parts that are not
    empty; of several rules that hold, an arm must pass all.
    """

    organisation: str = ""
    project: str = ""
    user: str = ""
    allow: frozenset[str] = frozenset()
    """Only these arms; empty: all."""
    deny: frozenset[str] = frozenset()


class Failover(msgspec.Struct, frozen=True, kw_only=True):
    """When agents' reports take an endpoint of an arm out, and for how long."""

    errors: int = 3
    """Attempts left with UNAVAILABLE within the window that take it out, >= 1 …"""
    error_share: float = 0.5
    """… where they are at least this share of the attempts there that ended within the window, in [0, 1]."""
    window_seconds: float = 60.0
    cool_down_seconds: float = 60.0
    """How long it is out the first time; doubled each time it fails again right after its return."""


class RouterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One optimizer: its policy, objective and the numbers its decisions depend on."""

    id: str = "default"
    seed: int = 0
    mode: Mode = Mode.LIVE
    policy: str = "thompson"
    """Specification of the policy that decides."""
    policy_version: str = "1"
    """Names that policy with its definition; see `PolicyRecord`."""
    baseline_arm: str | None = None
    """What apprentice mode takes, and others are compared with."""
    objective: Objective = Objective()
    rules: tuple[Rule, ...] = ()
    failover: Failover = Failover()
    max_attempts: int = 3
    reward_wait_seconds: float = 7 * 86_400.0
    """How long after its last event a session without a final reward is waited for."""
    missing_success: float | None = None
    """The success taken for a session whose reward did not come in time, in [0, 1]; None: censored."""
    store_text: bool = False
    """Whether text features are logged as sent; else only what is learned from them, their hashed form."""
    exploration_floor: float = 0.02
    """Share of every lottery that is uniform over the eligible arms, in [0, 1]."""
    draws: int = 256
    """Posterior draws a decision takes, M."""
    alpha: float = 0.6
    """Scale of the posterior's spread in those draws; 1 is plain Thompson sampling."""


class Canary(msgspec.Struct, frozen=True, kw_only=True):
    """On what terms a policy decides for a share of new sessions."""

    share: float
    """Of new sessions, in (0, 1)."""
    gate: str
    """What it must hold against the live policy; see `gate`."""
    hold: bool = False
    """Where the gate is held, it is left to an operator to promote it."""


class PolicyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A policy that a router has or had."""

    version: str
    policy: str
    """Its specification."""
    definition: str = ""
    """The policy file it came from, TOML; empty where the specification says all."""
    stage: PolicyStage = PolicyStage.CREATED
    why: str = ""
    """Why it is at that stage, for people."""
    created_us: int = 0
    """When it was created, UTC microseconds since 1970; 0: with its router."""
    before: str = ""
    """Version of the policy that was live before this one was promoted; empty where none was."""
    settings: RouterSettings | None = None
    """The router's when this one was live last; None before."""
    canary: Canary | None = None
    """The terms on which it is a canary, or was one last."""


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
    mode: Mode = Mode.LIVE
    baseline_arm: str = ""
    """What is taken in apprentice mode wherever it is not ruled out; empty in other modes."""
    requirements: Requirements = NO_REQUIREMENTS
    """What the session's latest request demanded; it goes on to hold for the attempts after this one."""
    cost_cap_usd: float | None = None
    """Expected dollars that the attempt may cost at most: the least of the request's cap and what the session's cap
    leaves. None: no cap."""
    reread_tokens: int = 0
    """Tokens of the session so far that the arm would have to read at its full input price; 0 on the first attempt."""
    budget_price: float = 0.0
    """What a dollar costs under the budget, beyond itself, >= 0."""
    objective: Objective
    exploration_floor: float
    draws: int
    alpha: float


class Assignment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A lottery between two policies that a new session took part in."""

    canary: str
    """Version of the policy that decides with a chance of `share`; else the live one does."""
    share: float
    """In (0, 1)."""

    def propensity(self, policy_version: str) -> float:
        """The chance with which that policy was the one to decide."""
        return self.share if policy_version == self.canary else 1.0 - self.share


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
    assignment: Assignment | None = None
    """How that policy came to decide, where a canary runs; the attempts of a session share it."""

    @property
    def policy_propensity(self) -> float:
        """The chance with which that policy was the one to decide, in (0, 1]."""
        return self.assignment.propensity(self.policy_version) if self.assignment is not None else 1.0

    @property
    def session_id(self) -> str:
        """The session this decision belongs to."""
        return self.situation.session_id

    @property
    def attempt(self) -> int:
        """Number of the attempt it begins, from 1."""
        return self.situation.attempt


class Terms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The parts of a situation that go with a policy."""

    objective: Objective
    attempts_left: int
    exploration_floor: float
    draws: int
    alpha: float


class Shadow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a policy that did not decide would have done in a decision's place, at the decision's epoch."""

    policy: str
    policy_version: str
    epoch_hash: str
    """Of its own state."""
    terms: Terms | None = None
    """Where they differ from the decision's."""
    propensities: tuple[float, ...] = ()
    """Of the decision's offers, in their order; empty where it would have given up for certain, or failed."""
    stop_propensity: float = 0.0
    """Probability with which it would have given up instead."""
    success_mean: float | None = None
    """What it predicted of the arm it would have drawn, on average over its propensities; None where it predicts
    nothing, …"""
    cost_usd: float | None = None
    """… and the attempt's expected dollars."""
    error: str = ""
    """Why there is no answer of it."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of how an attempt went; None is unknown, which is not 0."""

    success: float | None = None
    """Resolved the session: 0, 1 or a share between."""
    cost_usd: float | None = None
    usage: Usage | None = None
    latency_seconds: float | None = None
    served_arm: str | None = None
    """The arm that really served, where it is not the decided one."""
