"""Off-policy evaluation of one candidate on a log: estimates, their errors, and whether the log can be trusted.

What a session contributes is a row of numbers; estimates are functions of the rows' means, so nothing is kept but sums.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from bandit import estimators, intervals
from bandit.estimators import Estimate, Moments, Trajectories
from bandit.intervals import Interval
from sim.nuisances import COST, SUCCESS, View
from sim.piece import Bools, Piece
from sim.world import Floats

_SWITCHES = (2.0, 5.0, 20.0, 100.0)
_STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
_TUNED_AT = 2_000
"""Sessions at which the anytime intervals are narrowest."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Metrics:
    """Success, dollars and utility of a session, as functions of the same means."""

    success: Estimate
    cost: Estimate
    utility: Estimate

    @classmethod
    def of(cls, success: Estimate, cost: Estimate, value_usd: float) -> "Metrics":
        """With utility = value x success - dollars."""
        return cls(success=success, cost=cost, utility=success.times(value_usd) - cost)

    def __sub__(self, other: "Metrics") -> "Metrics":
        return Metrics(
            success=self.success - other.success, cost=self.cost - other.cost, utility=self.utility - other.utility
        )


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What a log is worth for a candidate."""

    sessions: int
    decisions: int
    effective_sample_size: float
    """Kish's, of the sessions' weights."""
    mean_weight: float
    """Expected to be 1 where the log supports all that the candidate does."""
    mean_weight_z: float
    """By how many standard errors it is not."""
    max_weight: float
    min_propensity: float
    """The least propensity of an action that was taken."""
    unsupported_decisions: int
    """Decisions at which the candidate might take what the log never would have."""
    missing_rewards: int
    """Sessions whose success was never told."""
    lottery_p: float
    """Chance of arms so different from their propensities, by chi-square; tiny: the propensities are not true."""


class Evaluation:
    """What was found about a candidate. Estimates are made on demand, with the errors of all together."""

    def __init__(self, rows: "Rows", moments: Moments, trust: Trust, value_usd: float, tails: Sequence[Floats]) -> None:
        """`tails`, of the candidate and then of the baseline if there is one: second and third central moment of the
        dollars that weighting adds to a session, times its weight to the second and third, on average; shape (2,)."""
        self.trust = trust
        self._tails = dict(zip(("", "baseline "), tails, strict=False))
        self._rows = rows
        self._moments = moments
        self._value_usd = value_usd
        self._mean = moments.mean
        self.candidate = self._weighted("")
        """Doubly robust, per decision, with weights that are self-normalised step by step (Thomas and Brunskill 2016,
        Data-efficient off-policy policy evaluation for reinforcement learning, ICML): what was never done leaves the
        model alone instead of nothing."""
        self.baseline = self._weighted("baseline ") if rows.has("baseline h") else self._plain("logged")
        """What it is compared with, on the same sessions."""

    def others(self) -> dict[str, Metrics]:
        """The other estimators, for comparison."""
        steps = range(self._rows.steps)
        return {
            "ips": self._plain("ips"),
            "snips": self._metrics(
                *(
                    estimators.sum_of_ratios(
                        self._mean, [(self._rows.at(f"W{t} r{metric}"), self._rows.at(f"W{t}")) for t in steps]
                    )
                    for metric in (SUCCESS, COST)
                )
            ),
            "dm": self._plain("dm"),
            "switch-dr": self._best([self._plain(f"switch {at:g}") for at in _SWITCHES]),
            "dr-shrinkage": self._best([self._plain(f"shrink {at:g}") for at in _STRENGTHS]),
        }

    def if_missing(self, success: float) -> Metrics:
        """The candidate if all successes that were never told had been 0, or 1."""
        name = "none" if success == 0.0 else "all"
        told, taken = (
            estimators.ratio(self._mean, self._rows.at(f"h dr {of}"), self._rows.at("h")) for of in ("told", name)
        )
        return self._metrics(self.candidate.success + taken - told, self.candidate.cost)

    def level(self, metric: str) -> Interval:
        """95 % for the candidate's success, cost or utility, for this log as it is."""
        return self._interval(getattr(self.candidate, metric), metric, candidate=1.0, baseline=0.0)

    def baseline_level(self, metric: str) -> Interval:
        """The same of the baseline."""
        return self._interval(getattr(self.baseline, metric), metric, candidate=0.0, baseline=1.0)

    def difference(self, metric: str, factor: float = 1.0) -> Interval:
        """The same of the candidate's less `factor` times the baseline's."""
        gap = getattr(self.candidate, metric) - getattr(self.baseline, metric).times(factor)
        return self._interval(gap, metric, candidate=1.0, baseline=factor)

    def plain(self, estimate: Estimate) -> Interval:
        """The same of another estimator's, by the sessions' own spread alone."""
        return intervals.student(estimate.value, math.sqrt(self._moments.variance(estimate.gradient)), self._freedom())

    def anytime(self, interval: Interval) -> Interval:
        """The interval for a log that is looked at again and again as it grows."""
        n = np.array([float(self._moments.count)])
        once = intervals.student(0.0, 1.0, self._freedom()).high
        deviation = np.abs(np.array(interval[1:]) - interval.estimate) / once * np.sqrt(n)
        low, high = intervals.asymptotic_sequence(
            n, np.full(2, interval.estimate), deviation, rho=intervals.best_tuned_at(_TUNED_AT)
        )
        return Interval(interval.estimate, float(low[0]), float(high[1]))

    def _interval(self, estimate: Estimate, metric: str, *, candidate: float, baseline: float) -> Interval:
        """By the sessions' own spread, and what weighting by these propensities is bound to add to it: errors that come
        seldom and weigh much are not in the log until they come. Dear sessions are among them, so the interval leans to
        where they would move the estimate."""
        sides = [("", candidate)]
        if self._rows.has("baseline h"):
            sides.append(("baseline ", -baseline))
        unseen = sum(factor**2 * self._unseen(who, metric) for who, factor in sides)
        stderr = math.sqrt(self._moments.variance(estimate.gradient) + unseen)
        third = sum(factor**3 * self._third_moment(who, metric) for who, factor in sides)
        freedom = self._freedom() if candidate or self._rows.has("baseline h") else float(self._moments.count)
        return intervals.student(estimate.value, stderr, freedom, skewness=third / stderr**3 if stderr > 0.0 else 0.0)

    def _freedom(self) -> float:
        return max(1.0, self.trust.effective_sample_size)

    def _unseen(self, who: str, metric: str) -> float:
        """By how much the variance of a side's estimate, foretold from propensities, squared errors and all arms' dear
        sessions, exceeds the one found."""
        v = self._value_usd
        of_sessions = [float(self._mean[self._rows.at(f"{who}h2 spread{j}")]) for j in range(3)]
        success, cost, both = (self._foretold(who, moment, 2) for moment in of_sessions)
        cost = max(cost, self._foretold(who, float(self._tails[who][0]), 2))
        added = {"success": success, "cost": cost, "utility": v * v * success + cost - 2.0 * v * both}[metric]
        of_model = self._moments.variance(getattr(self._plain(f"{who}dm"), metric).gradient)
        found = self._moments.variance(getattr(self._weighted(who), metric).gradient)
        return max(0.0, max(0.0, added) + of_model - found)

    def _third_moment(self, who: str, metric: str) -> float:
        """Of a side's estimate, as far as dollars make it."""
        sign = {"success": 0.0, "cost": 1.0, "utility": -1.0}[metric]
        return sign * self._foretold(who, float(self._tails[who][1]), 3)

    def _foretold(self, who: str, of_session: float, order: int) -> float:
        """The moment of a side's estimate that those of its sessions, weighted, come to."""
        h = float(self._mean[self._rows.at(f"{who}h")])
        return of_session / float(h**order * self._moments.count ** (order - 1)) if h > 0.0 else 0.0

    def _weighted(self, who: str) -> Metrics:
        """The model's value, and what each step came to beyond it, self-normalised step by step."""
        at, steps = self._rows.at, range(self._rows.steps)
        return self._metrics(
            *(
                estimators.ratio(self._mean, at(f"{who}h V{metric}"), at(f"{who}h"))
                + estimators.sum_of_ratios(
                    self._mean, [(at(f"{who}h W{t} e{metric}"), at(f"{who}h W{t}")) for t in steps]
                )
                for metric in (SUCCESS, COST)
            )
        )

    def _plain(self, name: str) -> Metrics:
        return self._metrics(
            *(
                estimators.ratio(self._mean, self._rows.at(f"{name}{metric}"), self._rows.at("one"))
                for metric in (SUCCESS, COST)
            )
        )

    def _metrics(self, success: Estimate, cost: Estimate) -> Metrics:
        return Metrics.of(success, cost, self._value_usd)

    def _best(self, choices: Sequence[Metrics]) -> Metrics:
        """The one of least squared error in utility: its variance, and its bias as far as the doubly robust estimate
        shows one."""

        def squared_error(choice: Metrics) -> float:
            gap = choice.utility - self.candidate.utility
            bias = max(0.0, gap.value**2 - self._moments.variance(gap.gradient))
            return self._moments.variance(choice.utility.gradient) + bias

        return min(choices, key=squared_error)


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """A piece as a policy sees it: what it would have done, what the model says of that, and what came of it."""

    targets: Floats
    view: View
    trajectories: Trajectories
    weight: float
    """Of each session among the others, h."""


class Rows:
    """What a session contributes, as columns with names."""

    def __init__(self, steps: int, *, with_baseline: bool) -> None:
        both = (SUCCESS, COST)
        names = ["one", "h dr told", "h dr none", "h dr all"]
        for plain in (
            "ips",
            "logged",
            *(f"switch {x:g}" for x in _SWITCHES),
            *(f"shrink {x:g}" for x in _STRENGTHS),
        ):
            names += [f"{plain}{m}" for m in both]
        for t in range(steps):
            names += [f"W{t}", *(f"W{t} r{m}" for m in both)]
        for who in ("", "baseline ") if with_baseline else ("",):
            names += [f"{who}h", *(f"{who}{name}{m}" for name in ("h V", "dm") for m in both)]
            for t in range(steps):
                names += [f"{who}h W{t}", *(f"{who}h W{t} e{m}" for m in both)]
            names += [f"{who}h2 spread{j}" for j in range(3)]
        self.steps = steps
        self.width = len(names)
        self._at = {name: i for i, name in enumerate(names)}

    def at(self, name: str) -> int:
        """Position of a column."""
        return self._at[name]

    def has(self, name: str) -> bool:
        """Whether there is such a column."""
        return name in self._at

    def of(self, piece: Piece, candidate: Seen, baseline: Seen | None = None) -> Floats:
        """The rows of a piece, shape (n_sessions, width)."""
        rows = np.zeros((len(piece.action), self.width), order="F")

        def put(name: str, values: Floats | float) -> None:
            if isinstance(values, float) or values.ndim == 1:
                rows[:, self._at[name]] = values
            else:
                for metric in (SUCCESS, COST):
                    rows[:, self._at[f"{name}{metric}"]] = values[:, metric]

        t = candidate.trajectories
        put("one", 1.0)
        put("ips", estimators.inverse_propensity(t))
        put("logged", candidate.view.reward.sum(axis=1))
        for largest in _SWITCHES:
            put(f"switch {largest:g}", estimators.switch(t, largest))
        for strength in _STRENGTHS:
            put(f"shrink {strength:g}", estimators.shrinkage(t, strength))
        weights, mass, weighted = t.weights, t.mass, t.weighted_rewards
        for step in range(self.steps):
            put(f"W{step}", mass[:, min(step, mass.shape[1] - 1)])
            if step < mass.shape[1]:
                put(f"W{step} r", weighted[:, step])
        for who, side in (("", candidate), ("baseline ", baseline)):
            if side is not None:
                put(f"{who}h", side.weight)
                self._put_robust(who, side, put)
                put(f"{who}dm", estimators.direct(side.trajectories))
                for j in range(3):
                    put(f"{who}h2 spread{j}", side.weight**2 * side.view.spread[:, j])
        # With every success that was not told taken for 0, and for 1: the estimate is linear in it.
        here, last = np.arange(len(piece.action)), piece.last
        missing = np.isnan(piece.success)
        shift = weights[here, last] * (np.nan_to_num(piece.success) - t.reward[here, last, SUCCESS])
        robust = estimators.doubly_robust(t)[:, SUCCESS]
        none = robust + shift
        put("h dr told", candidate.weight * robust)
        put("h dr none", candidate.weight * none)
        put("h dr all", candidate.weight * (none + weights[here, last] * missing))
        return rows

    def _put_robust(self, who: str, side: Seen, put: Callable[[str, Floats], None]) -> None:
        t, h = side.trajectories, side.weight
        put(f"{who}h V", h * estimators.direct(t))
        weights, mass, errors = t.weights, t.mass, t.errors
        for step in range(self.steps):
            put(f"{who}h W{step}", h * mass[:, min(step, mass.shape[1] - 1)])
            if step < mass.shape[1]:
                put(f"{who}h W{step} e", h * weights[:, step, None] * errors[:, step])


class Tally:
    """Counts that tell what the log is worth."""

    def __init__(self, n_actions: int) -> None:
        self._sessions = self._decisions = self._unsupported = self._missing = 0
        self._weight = self._square = self._largest = self._foretold = 0.0
        self._least = 1.0
        self._gap = np.zeros(n_actions)
        self._covariance = np.zeros((n_actions, n_actions))

    def merge(self, other: "Tally") -> None:
        """Takes in what another one counted of other sessions."""
        for name, theirs in vars(other).items():
            mine = getattr(self, name)
            both = max(mine, theirs) if name == "_largest" else min(mine, theirs) if name == "_least" else mine + theirs
            setattr(self, name, both)

    def add(self, piece: Piece, seen: Seen, free: Bools) -> None:
        """Takes in a piece; `free` are the sessions that count."""
        there = piece.there & free[:, None]
        drawn = there & ~piece.pinned
        p = piece.propensities
        final = seen.trajectories.mass[free, -1]
        self._sessions += int(free.sum())
        self._decisions += int((there & (piece.action < piece.open_arms.shape[2])).sum())
        # Where the target would never have come, it need not be supported.
        unsupported = ((seen.targets > 1e-12) & (p <= 0.0))[:, :, :-1].any(axis=2)
        self._unsupported += int((unsupported & drawn & (seen.trajectories.reached > 0.0)).sum())
        self._missing += int(np.isnan(piece.success[free]).sum())
        self._foretold += _foretold_square(piece, seen)[free].sum()
        self._weight += float(final.sum())
        self._square += float(np.square(final).sum())
        self._largest = max(self._largest, float(final.max(initial=0.0)))
        self._least = min(self._least, float(piece.of_action(p).min(initial=1.0, where=drawn)))
        self._compare(piece, drawn)

    def _compare(self, piece: Piece, drawn: Bools) -> None:
        """Actions against their propensities, as two lotteries: whether to give up, and where not, which arm."""
        giving_up = piece.propensities.shape[2] - 1
        gave_up = piece.action == giving_up
        might = drawn & piece.may_stop
        stop = piece.propensities[:, :, giving_up][might]
        self._gap[giving_up] += float((might & gave_up).sum() - stop.sum())
        self._covariance[giving_up, giving_up] += float((stop * (1.0 - stop)).sum())
        went_on = drawn & ~gave_up
        for step in range(piece.action.shape[1]):
            at = went_on[:, step]
            arms = piece.propensities[:, step, :giving_up]
            arms = arms / np.where(at, arms.sum(axis=1), np.inf)[:, None]
            self._gap[:giving_up] += np.bincount(piece.action[at, step], minlength=giving_up) - arms.sum(axis=0)
            self._covariance[:giving_up, :giving_up] += np.diag(arms.sum(axis=0)) - arms.T @ arms

    def trust(self) -> Trust:
        """All of it."""
        n = max(1, self._sessions)
        mean = self._weight / n
        # Weights that come seldom are not in the log until they come: their variance is also foretold.
        variance = max(self._square / n - mean**2, self._foretold / n) / n
        return Trust(
            sessions=self._sessions,
            decisions=self._decisions,
            effective_sample_size=self._weight**2 / self._square if self._square > 0.0 else 0.0,
            mean_weight=mean,
            mean_weight_z=(mean - 1.0) / math.sqrt(variance) if variance > 0.0 else 0.0,
            max_weight=self._largest,
            min_propensity=self._least,
            unsupported_decisions=self._unsupported,
            missing_rewards=self._missing,
            lottery_p=self._lottery_p(),
        )

    def _lottery_p(self) -> float:
        """Chi-square of how often each action was taken against its propensities: d' C^+ d, with C the covariance of
        counts d of independent lotteries."""
        values, vectors = np.linalg.eigh(self._covariance)
        real = values > 1e-9 * max(float(values.max(initial=0.0)), 1e-9)
        if not real.any():
            return 1.0
        statistic = float((np.square(vectors[:, real].T @ self._gap) / values[real]).sum())
        return float(special.chdtrc(int(real.sum()), statistic))


def _foretold_square(piece: Piece, seen: Seen) -> Floats:
    """The variance of a session's weight given what was known before each of its lotteries, shape (n_sessions,)."""
    square = seen.view.leverage[..., 0].sum(axis=2)
    mean = (seen.targets * (piece.propensities > 0.0)).sum(axis=2)
    return np.asarray((seen.trajectories.reached**2 * np.where(piece.there, square - mean**2, 0.0)).sum(axis=1))
