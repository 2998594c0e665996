"""Off-policy statistics: what another policy would have come to on sessions that were logged under this one.

A session is a short sequence of decisions. At each, the logging policy took an action (an arm, or giving up) with a
known propensity, and the policy in question, the target, would have taken the same action with another. Weights
are the products of these ratios. Arrays are rectangular, shape (n_sessions, n_steps): sessions that ended earlier are
padded with ratio 1, reward 0 and model values 0, which leaves every estimator as it is. Rewards and model
values have a last axis more, one entry a metric (success, dollars).

All estimators are per decision: a reward is weighted by the decisions that led to it and not by those after it.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectories:
    """Logged sessions, and what a model of the rewards says of each step."""

    ratio: Floats
    """Target's propensity over the logging policy's of the action taken, shape (n_sessions, n_steps), >= 0."""
    reward: Floats
    """What each step brought, shape (n_sessions, n_steps, n_metrics)."""
    taken: Floats
    """The model's value Q of the action taken, with what the target makes of the rest; as `reward`."""
    expected: Floats
    """The model's value V of the state: Q averaged over the target's actions; as `reward`."""
    settled: Floats
    """Share of the target's actions at each step whose outcome is known without being seen (giving up costs nothing),
    and which the log need not support: `ratio` leaves them out. Shape (n_sessions, n_steps), mostly 0."""
    settled_reward: Floats
    """What that share brings, Q times `settled`; as `reward`."""

    @functools.cached_property
    def weights(self) -> Floats:
        """Product of the ratios up to each step, shape (n_sessions, n_steps)."""
        return np.asarray(np.cumprod(self.ratio, axis=1), np.float64)

    @functools.cached_property
    def reached(self) -> Floats:
        """Product of the ratios before each step, shape (n_sessions, n_steps)."""
        return np.concatenate((np.ones_like(self.ratio[:, :1]), self.weights[:, :-1]), axis=1)

    @functools.cached_property
    def mass(self) -> Floats:
        """Weight of the session up to each step, with what was settled until then, shape (n_sessions, n_steps).

        Its mean is 1 at every step where the log supports all that the target does.
        """
        return np.asarray(self.weights + np.cumsum(self.reached * self.settled, axis=1))

    @functools.cached_property
    def weighted_rewards(self) -> Floats:
        """W_t r_t and what is settled at t, shape (n_sessions, n_steps, n_metrics)."""
        return np.asarray(
            self.weights[:, :, None] * self.reward + self.reached[:, :, None] * self.settled_reward, np.float64
        )

    @functools.cached_property
    def errors(self) -> Floats:
        """What each step and the model's value after it came to, less what the model had said; as `reward`."""
        following = np.concatenate((self.expected[:, 1:], np.zeros_like(self.expected[:, :1])), axis=1)
        return np.asarray(self.reward + following - self.taken)


def inverse_propensity(t: Trajectories) -> Floats:
    """Each session's rewards by their weights, sum over t of W_t r_t; shape (n_sessions, n_metrics).

    Precup, Sutton and Singh (2000), Eligibility traces for off-policy policy evaluation (ICML): per-decision
    importance sampling. Its mean is unbiased where the target takes nothing that the logging policy never takes.
    """
    return np.asarray(t.weighted_rewards.sum(axis=1))


def direct(t: Trajectories) -> Floats:
    """The model's value of each session's beginning, shape (n_sessions, n_metrics): as good as the model is."""
    return t.expected[:, 0]


def doubly_robust(t: Trajectories) -> Floats:
    """V_t + rho_t (r_t + DR_(t+1) - Q_t) at the session's beginning, shape (n_sessions, n_metrics).

    Jiang and Li (2016), Doubly robust off-policy value evaluation for reinforcement learning (ICML). Its mean is
    unbiased where the propensities are right, whatever the model, as long as the model of a session does not depend
    on that session or later ones; and it is right where the model is right, whatever the propensities.
    """
    value = np.zeros_like(t.expected[:, 0])
    for step in reversed(range(t.ratio.shape[1])):
        error = t.reward[:, step] + value - t.taken[:, step]
        value = t.expected[:, step] + t.ratio[:, step, None] * error
    return value


def switch(t: Trajectories, largest: float) -> Floats:
    """Doubly robust with the model alone where the weight exceeds `largest` (> 0); shape (n_sessions, n_metrics).

    Wang, Agarwal and Dudik (2017), Optimal and adaptive off-policy evaluation in contextual bandits (ICML), on the
    weights up to each step.
    """
    weights = t.weights
    return _corrected(t, np.where(weights <= largest, weights, 0.0))


def shrinkage(t: Trajectories, strength: float) -> Floats:
    """Doubly robust with weights shrunk to strength W / (W^2 + strength); shape (n_sessions, n_metrics).

    Su, Dimakopoulou, Krishnamurthy and Dudik (2020), Doubly robust off-policy evaluation with shrinkage (ICML), the
    optimistic form, on the weights up to each step. `strength` (> 0): infinite leaves them, 0 leaves the model alone.
    """
    weights = t.weights
    return _corrected(t, strength * weights / (weights**2 + strength))


def _corrected(t: Trajectories, weights: Floats) -> Floats:
    return np.asarray(t.expected[:, 0] + np.einsum("it,itm->im", weights, t.errors))


class Moments:
    """Sums and products of what sessions bring, for means, their ratios and the errors of these: O(1) in sessions.

    A session is a row of `width` numbers. Rows may come in any number of pieces.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self._total = np.zeros(width)
        self._cross = np.zeros((width, width))

    def add(self, rows: Floats) -> None:
        """Takes in rows, shape (n_sessions, width)."""
        self.count += len(rows)
        self._total += rows.sum(axis=0)
        self._cross += rows.T @ rows

    def merge(self, other: "Moments") -> None:
        """Takes in the rows that another one has."""
        self.count += other.count
        self._total += other._total
        self._cross += other._cross

    @property
    def mean(self) -> Floats:
        """Means of the columns, shape (width,). There must be a row."""
        return np.asarray(self._total / self.count)

    def variance(self, gradient: Floats) -> float:
        """Variance of the mean of rows @ gradient, >= 0; `gradient` has shape (width,). 0 for a single row."""
        if self.count < 2:
            return 0.0
        mean = self.mean
        spread = self._cross / self.count - np.outer(mean, mean)
        return max(0.0, float(gradient @ spread @ gradient)) / (self.count - 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """A smooth function of the means of `Moments`: its value, and its gradient there, for the delta method."""

    value: float
    gradient: Floats

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(value=self.value + other.value, gradient=self.gradient + other.gradient)

    def __sub__(self, other: "Estimate") -> "Estimate":
        return self + other.times(-1.0)

    def times(self, factor: float) -> "Estimate":
        """The function times a number."""
        return Estimate(value=factor * self.value, gradient=factor * self.gradient)


def ratio(mean: Floats, numerator: int, denominator: int) -> Estimate:
    """Column `numerator` over column `denominator` of the means; 0 where the latter is 0."""
    gradient = np.zeros_like(mean)
    over, under = float(mean[numerator]), float(mean[denominator])
    if under == 0.0:
        return Estimate(value=0.0, gradient=gradient)
    gradient[numerator] += 1.0 / under
    gradient[denominator] -= over / under**2
    return Estimate(value=over / under, gradient=gradient)


def sum_of_ratios(mean: Floats, pairs: Sequence[tuple[int, int]]) -> Estimate:
    """The sum of `ratio` over pairs of columns, of which there must be one: self-normalised per-decision estimates.

    With pairs (mean of W_t r_t, mean of W_t) for every step t it is the weighted per-decision estimator of Precup,
    Sutton and Singh (2000), where sessions that ended before t keep their last weight.
    """
    first, *others = (ratio(mean, over, under) for over, under in pairs)
    return sum(others, first)
