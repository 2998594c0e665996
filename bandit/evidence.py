"""Is a canary as good as the policy it would replace? What its sessions say so far, and when that is enough.

New sessions were given to the canary with a known chance e, else to the live policy. For a figure Y of a session (its
success, its dollars, its utility) and a factor f, each session gives an unbiased estimate of E[Y of the canary] -
f E[Y of the live one], augmented by what was foretold of it:

    m1 - f m0 + A (Y - m1) / e - f (1 - A) (Y - m0) / (1 - e),   A = 1 where the canary had it.

(Robins, Rotnitzky and Zhao, 1994.) m1 and m0 are the two sides' regressions of Y on what the live policy predicted of
the session, fitted on earlier sessions only, so that no session's own outcome has a part in them: whatever they
are, the estimate stays unbiased, and the better they are, the less it varies. The mean of these estimates is looked at
after every session through the asymptotic confidence sequence, which may be: see `intervals`.
"""

import functools
import math
from typing import Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np

from bandit import gate
from bandit.gate import Condition, Metric
from bandit.intervals import ALPHA, Interval, asymptotic_sequence, best_tuned_at

MARGIN = 0.02
"""How far below the live policy's success the canary's may be under the default gate."""
DEFAULT_GATE = f"success >= baseline - {MARGIN}"

LEAST_A_SIDE = 100
"""Sessions a side before anything is said: the sequence's level needs their spread to be known."""
LEAST_EFFECTIVE = 500.0
"""Effective sample before a canary is promoted."""
MOST_UNEQUAL = 0.01
"""By how much the sides' shares of sessions without an outcome may differ. By a point they cannot turn a success by
more than a point, whatever became of them."""
_TUNED_AT = 3_000.0
"""Sessions at which the sequence is narrowest."""
_SHRINKAGE = 20.0
"""Sessions that a regression's slope is held to 0 with."""

Conclusion: TypeAlias = Literal["promote", "roll_back", "undecided"]


class Figures(NamedTuple):
    """Of a session, as foretold or as it was; None is unknown."""

    success: float | None = None
    """0 to 1."""
    cost_usd: float | None = None

    def of(self, metric: Metric, value_usd: float) -> float | None:
        """The figure that a condition is about."""
        if metric == "success":
            return self.success
        if metric == "cost":
            return self.cost_usd
        if self.success is None or self.cost_usd is None:
            return None
        return value_usd * self.success - self.cost_usd


class Regression(msgspec.Struct, frozen=True):
    """Least squares of a figure on one number, fitted session by session: means and centred sums."""

    n: int = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def predict(self, x: float | None) -> float:
        """What is expected at `x`; the mean where it is unknown."""
        if x is None or self.xx <= 0.0:
            return self.y
        return self.y + self.xy / self.xx * self.n / (self.n + _SHRINKAGE) * (x - self.x)

    def add(self, x: float | None, y: float) -> "Regression":
        """With one more session."""
        n = self.n + 1
        dx = (x if x is not None else self.x) - self.x
        mean_y = self.y + (y - self.y) / n
        return Regression(
            n=n,
            x=self.x + dx / n,
            y=mean_y,
            xx=self.xx + dx * dx * self.n / n,
            xy=self.xy + dx * (y - mean_y),
        )


class Comparison(msgspec.Struct, frozen=True):
    """How one figure of the canary compares with a factor times the live policy's."""

    factor: float = 1.0
    canary: Regression = Regression()
    live: Regression = Regression()
    n: int = 0
    mean: float = 0.0
    """Of the sessions' estimates, …"""
    squares: float = 0.0
    """… and their summed squared deviations from it."""

    def add(self, by_canary: bool, share: float, foretold: float | None, y: float) -> "Comparison":
        """With one more session, in the order in which they began."""
        m1 = (self.canary if self.canary.n else self.live).predict(foretold)
        m0 = (self.live if self.live.n else self.canary).predict(foretold)
        if by_canary:
            estimate = m1 + (y - m1) / share - self.factor * m0
        else:
            estimate = m1 - self.factor * (m0 + (y - m0) / (1.0 - share))
        n = self.n + 1
        mean = self.mean + (estimate - self.mean) / n
        return Comparison(
            factor=self.factor,
            canary=self.canary.add(foretold, y) if by_canary else self.canary,
            live=self.live if by_canary else self.live.add(foretold, y),
            n=n,
            mean=mean,
            squares=self.squares + (estimate - self.mean) * (estimate - mean),
        )

    def interval(self, alpha: float) -> Interval:
        """The difference at the 1 - alpha confidence sequence, at least two sessions in."""
        deviation = math.sqrt(self.squares / (self.n - 1))
        ends = asymptotic_sequence(
            np.array([float(self.n)]),
            np.array([self.mean]),
            np.array([deviation]),
            rho=best_tuned_at(_TUNED_AT, alpha),
            alpha=alpha,
        )
        return Interval(self.mean, float(ends[0, 0]), float(ends[1, 0]))


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is to become of a canary, and why, in words."""

    conclusion: Conclusion
    why: str


class Difference(NamedTuple):
    """What the canary's figure is beyond `factor` times the live policy's, as far as it is known."""

    condition: Condition
    interval: Interval


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What a canary's sessions say so far. It grows by one session at a time and never in size."""

    gate: str
    """What the canary must hold; empty: the default gate."""
    share: float
    """The chance e with which a session was given to the canary, in (0, 1)."""
    value_usd: float
    """Dollars that a success counts as in a utility."""
    canary_sessions: int = 0
    live_sessions: int = 0
    canary_missing: int = 0
    """Of its sessions, those that ended without an outcome that the gate asks for."""
    live_missing: int = 0
    compared: tuple[Comparison, ...] = ()
    """One a condition of the gate; empty before the first session."""
    unequal: Comparison = Comparison()
    """Of the shares of sessions without an outcome."""

    def add(self, by_canary: bool, foretold: Figures, outcome: Figures) -> "Evidence":
        """With one more session. Sessions count in the order in which they began, each once its outcome is final.

        `foretold` is what the live policy expected of it before; `outcome` what became of it.
        """
        conditions = _conditions(self.gate)
        values = [outcome.of(condition.metric, self.value_usd) for condition in conditions]
        missing = any(value is None for value in values)
        compared = self.compared or tuple(Comparison(condition.factor) for condition in conditions)
        if not missing:
            compared = tuple(
                comparison.add(by_canary, self.share, foretold.of(condition.metric, self.value_usd), value)
                for comparison, condition, value in zip(compared, conditions, values, strict=True)
                if value is not None
            )
        return msgspec.structs.replace(
            self,
            canary_sessions=self.canary_sessions + by_canary,
            live_sessions=self.live_sessions + (not by_canary),
            canary_missing=self.canary_missing + (missing and by_canary),
            live_missing=self.live_missing + (missing and not by_canary),
            compared=compared,
            unequal=self.unequal.add(by_canary, self.share, None, float(missing)),
        )

    @property
    def told(self) -> tuple[int, int]:
        """The sessions with an outcome, the canary's and the live policy's."""
        return self.canary_sessions - self.canary_missing, self.live_sessions - self.live_missing

    @property
    def effective(self) -> float:
        """How many sessions, shared equally, would tell as much."""
        canary, live = self.told
        return 4.0 * canary * live / (canary + live) if canary and live else 0.0

    def differences(self) -> tuple[Difference, ...]:
        """One a condition of the gate; none while a side has too few sessions to say anything."""
        conditions = _conditions(self.gate)
        if min(self.told) < LEAST_A_SIDE:
            return ()
        alpha = ALPHA / len(conditions)
        return tuple(
            Difference(condition, comparison.interval(alpha))
            for condition, comparison in zip(conditions, self.compared, strict=True)
        )

    def verdict(self) -> Verdict:
        """Whether the gate is shown to be held or not to be; it may be asked after every session.

        The canary is rolled back where a condition is shown to fail, and promoted where all are shown to hold and
        there is no reason to doubt it. Doubt holds a promotion back and never a return.
        """
        differences = self.differences()
        if not differences:
            canary, live = self.told
            return _undecided(
                f"too early: {canary:,} sessions of the canary and {live:,} of the live policy have told how they "
                f"went, and it takes {LEAST_A_SIDE} of each"
            )
        told = "; ".join(self._said(difference) for difference in differences)
        after = f"after {self.told[0]:,} sessions of the canary and {self.told[1]:,} of the live policy"
        failed = [difference for difference in differences if self._fails(difference)]
        if failed:
            return Verdict(conclusion="roll_back", why=f"{'; '.join(map(self._said, failed))}, {after}: {self._bad}")
        if not all(_holds(difference) for difference in differences):
            return _undecided(f"not clear yet: {told}, {after}")
        if self.effective < LEAST_EFFECTIVE:
            return _undecided(
                f"{told}, {after}: the gate is held, but these tell no more than {self.effective:,.0f} in equal "
                f"shares, and it takes {LEAST_EFFECTIVE:g}"
            )
        if doubt := self._doubt():
            return _undecided(f"{told}, {after}: the gate is held, but {doubt}")
        return Verdict(conclusion="promote", why=f"{told}, {after}: the gate {self._gate!r} is held{self._tipping()}")

    @property
    def _gate(self) -> str:
        return self.gate or DEFAULT_GATE

    @property
    def _bad(self) -> str:
        return f"the gate {self.gate!r} is not held" if self.gate else "worse than the live policy"

    def _fails(self, difference: Difference) -> bool:
        """Whether the condition is shown to fail: the interval lies wholly out. Under the default gate a canary that is
        shown to be worse at all goes."""
        condition, interval = difference
        bound = condition.offset if self.gate else 0.0
        return interval.high < bound if condition.at_least else interval.low > bound

    def _doubt(self) -> str:
        interval = self.unequal.interval(ALPHA)
        if interval.high >= -MOST_UNEQUAL and interval.low <= MOST_UNEQUAL:
            return ""
        canary, live = self.canary_missing / self.canary_sessions, self.live_missing / self.live_sessions
        return (
            f"{100 * canary:.1f} % of the canary's sessions and {100 * live:.1f} % of the live policy's have not told "
            "how they went, so that those that have may not be alike"
        )

    def _tipping(self) -> str:
        """How much worse the canary's silent sessions would have to be for the verdict to be wrong."""
        if not self.canary_missing:
            return ""
        slack = [d.interval.low - d.condition.offset for d in self.differences() if d.condition.metric == "success"]
        if not slack:
            return ""
        points = 100 * min(slack) * self.canary_sessions / self.canary_missing
        return (
            f"; the {self.canary_missing:,} sessions of the canary that have not told how they went would have to "
            f"succeed {points:,.0f} points less often than its others for that to be wrong"
        )

    def _said(self, difference: Difference) -> str:
        condition, interval = difference
        of_live = "the live policy's" if condition.factor == 1.0 else f"{condition.factor:g} times the live policy's"
        if condition.metric == "success":
            low, high = 100 * interval.low, 100 * interval.high
            amount = f"{100 * interval.estimate:+.1f} points ({low:+.1f} to {high:+.1f})"
        else:
            amount = f"${interval.estimate:+.3f} (${interval.low:+.3f} to ${interval.high:+.3f})"
        return f"{condition.metric} less {of_live} is {amount}"


def require_gate(text: str, field: str = "gate") -> None:
    """Raises InvalidInput naming `field` where a text is no gate; empty is the default."""
    if text:
        gate.parse(text, field)


@functools.lru_cache(maxsize=64)
def _conditions(text: str) -> tuple[Condition, ...]:
    return gate.parse(text or DEFAULT_GATE)


def _holds(difference: Difference) -> bool:
    condition, interval = difference
    return interval.low >= condition.offset if condition.at_least else interval.high <= condition.offset


def _undecided(why: str) -> Verdict:
    return Verdict(conclusion="undecided", why=why)
