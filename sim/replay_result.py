"""What a replay found, as data: the JSON document of `pointsman replay`."""

import msgspec

from bandit.gate import Verdict


class Figure(msgspec.Struct, kw_only=True, frozen=True):
    """A mean over sessions and its 95 % interval."""

    estimate: float
    low: float
    """For this log as it is, looked at once, …"""
    high: float
    anytime_low: float
    """… and for whoever looks again and again while it grows."""
    anytime_high: float


class Figures(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """The three, of a policy or of a difference."""

    name: str | None = None
    success_rate: Figure
    cost_usd_per_session: Figure
    utility_per_session: Figure
    """Dollars: value x success - cost."""


class GateResult(msgspec.Struct, kw_only=True, frozen=True):
    """Whether a candidate passes."""

    verdict: Verdict
    why: str


class Diagnostics(msgspec.Struct, kw_only=True, frozen=True):
    """Whether the log can tell."""

    effective_sample_size: float
    """Sessions, Kish's."""
    max_weight: float
    mean_weight: float
    """1 but for chance, where all that the candidate does is in the log."""
    min_propensity: float
    """The least of what was taken."""
    unsupported_decisions: int
    """At which the candidate may take what the log never would have."""
    missing_rewards: int
    """Sessions whose success was never told."""
    missing_costs: int
    """Attempts whose dollars were never told."""
    lottery_p: float
    """Chi-square of what was taken against the propensities: the chance of so large a difference."""
    doubts: tuple[str, ...]
    """Why no gate should decide on it, in words."""


class Missing(msgspec.Struct, kw_only=True, frozen=True):
    """What successes that were not told could change."""

    success_if_failures: float
    """The candidate's success rate if all of them were failures, …"""
    success_if_successes: float
    """… and if all were successes."""
    tipping_point: float | None
    """The share of successes among the candidate's missing ones at which its utility equals the baseline's as
    estimated; outside 0 to 1 they cannot change which is better."""


class CandidateResult(msgspec.Struct, kw_only=True, frozen=True):
    """What was found of a candidate."""

    name: str
    """As given."""
    success_rate: Figure
    cost_usd_per_session: Figure
    utility_per_session: Figure
    estimator: str
    """Of the three above: ``dr``, doubly robust per decision."""
    sessions: int
    """Sessions it was scored on."""
    difference: Figures
    """Minus the baseline's, on the same sessions."""
    others: dict[str, Figures]
    """By other estimators."""
    gate: GateResult | None
    diagnostics: Diagnostics
    missing: Missing | None
    """None where every success was told."""


class ReplayResult(msgspec.Struct, kw_only=True, frozen=True):
    """All of it."""

    events: int
    decisions: int
    sessions: int
    value: float
    candidates: tuple[CandidateResult, ...]
    baseline: Figures
    """On the sessions of the first candidate."""
    diagnostics: Diagnostics
    """Those of the candidate with the least effective sample."""
