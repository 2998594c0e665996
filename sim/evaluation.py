"""Off-policy evaluation of one candidate on a log: estimates, their errors, and what was not told.

What a session contributes is a row of numbers; estimates are functions of the rows' means, so nothing is kept but sums.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bandit import estimators, intervals
from bandit.estimators import Estimate, Moments
from bandit.intervals import Interval
from sim.nuisances import COST, SUCCESS
from sim.piece import Piece
from sim.trust import Seen, Trust
from sim.world import Floats

_SWITCHES = (2.0, 5.0, 20.0, 100.0)
_STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
_LEANING = ("dm", "switch-dr", "dr-shrinkage")
"""Estimators that are as good as the model is, somewhere at least."""
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


class Evaluation:
    """What was found about a candidate. Estimates are made on demand, with the errors of all together."""

    def __init__(
        self, rows: "Rows", moments: Moments, trusts: Sequence[Trust], value_usd: float, tails: Sequence[Floats]
    ) -> None:
        """`trusts` and `tails` are of the candidate and then of the baseline if there is one. Tails: second and third
        central moment of the dollars that weighting adds to a session, times its weight to the second and third, on
        average; shape (2,)."""
        self.trust = trusts[0]
        self.baseline_trust = trusts[1] if len(trusts) > 1 else None
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

    @functools.cached_property
    def others(self) -> Mapping[str, Metrics]:
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

    def untold(self, metric: str) -> tuple[Interval, Interval, Interval]:
        """Share of what counts of the candidate's sessions, and of the baseline's, in which success or the cost of an
        attempt was not told, and by how much the former is the larger."""
        m = SUCCESS if metric == "success" else COST
        at, mean = self._rows.at, self._mean
        mine = estimators.ratio(mean, at(f"lost{m}"), at("mass"))
        other, mass = ("baseline lost", "baseline mass") if self._rows.has("baseline h") else ("logged lost", "one")
        theirs = estimators.ratio(mean, at(f"{other}{m}"), at(mass))
        return self.plain(mine), self.plain(theirs), self.plain(mine - theirs)

    def told_sample(self, metric: str) -> float:
        """Kish's effective sample of the sessions in which success, or the cost of every attempt, was told: the
        candidate's, or the baseline's where that is less."""
        m = SUCCESS if metric == "success" else COST
        at, mean = self._rows.at, self._mean
        sides = ("", "baseline ") if self._rows.has("baseline h") else ("",)
        kept = [float(mean[at(f"{who}mass")] - mean[at(f"{who}lost{m}")]) for who in sides]
        squares = [float(mean[at(f"{who}kept2{m}")]) for who in sides]
        return min(
            self._moments.count * one**2 / square if square > 0.0 else 0.0
            for one, square in zip(kept, squares, strict=True)
        )

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

    def other(self, name: str, metric: str) -> Interval:
        """The same of one of `others`. What leans on the model may be wrong by more than it scatters: by as much as it
        is away from the doubly robust estimate, or could be."""
        estimate = getattr(self.others[name], metric)
        if name not in _LEANING:
            return self.plain(estimate)
        gap = estimate - getattr(self.candidate, metric)
        bias = max(gap.value**2, self._moments.variance(gap.gradient))
        stderr = math.sqrt(self._moments.variance(estimate.gradient) + bias)
        return intervals.student(estimate.value, stderr, self._freedom())

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


class Rows:
    """What a session contributes, as columns with names."""

    def __init__(self, steps: int, *, with_baseline: bool) -> None:
        both = (SUCCESS, COST)
        names = ["one", "h dr told", "h dr none", "h dr all"]
        for plain in (
            "ips",
            "logged",
            "logged lost",
            *(f"switch {x:g}" for x in _SWITCHES),
            *(f"shrink {x:g}" for x in _STRENGTHS),
        ):
            names += [f"{plain}{m}" for m in both]
        for t in range(steps):
            names += [f"W{t}", *(f"W{t} r{m}" for m in both)]
        for who in ("", "baseline ") if with_baseline else ("",):
            names += [f"{who}h", *(f"{who}{name}{m}" for name in ("h V", "dm") for m in both)]
            names += [f"{who}mass", *(f"{who}{name}{m}" for name in ("lost", "kept2") for m in both)]
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
        put("logged lost", _lost(piece, np.ones_like(t.weights), np.ones(len(piece.action))))
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
                final = side.trajectories.mass[:, -1]
                lost = _lost(piece, side.trajectories.weights, final)
                put(f"{who}mass", final)
                put(f"{who}lost", lost)
                put(f"{who}kept2", np.square(final[:, None] - lost))
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


def _lost(piece: Piece, weights: Floats, mass: Floats) -> Floats:
    """How much of each session's `mass`, shape (n_sessions,), stands for success, or dollars, that were not told;
    shape (n_sessions, 2). `weights` as in `Trajectories`: what came after the policy had left does not count."""
    lost = np.zeros((len(piece.action), 2))
    ended = weights[np.arange(len(piece.action)), piece.last]
    lost[:, SUCCESS] = np.where(np.isnan(piece.success), ended, 0.0)
    lost[:, COST] = np.where((np.isnan(piece.cost_usd) & piece.there & (weights > 0.0)).any(axis=1), mass, 0.0)
    return lost
