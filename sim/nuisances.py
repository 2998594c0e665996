"""The model that off-policy estimates lean on: what actions bring, from sessions before those it is used on.

At each step of a session a linear model of the context says what every arm leads to, in success and in dollars, with
what the target makes of the rest of the session; `fitted_q` fits it. It need not be right for the estimates to be: it
makes them narrower.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from bandit.features import Encoder, Scaling
from bandit.types import Features
from sim.piece import Piece
from sim.tails import Tails
from sim.world import Floats

SUCCESS, COST = 0, 1
"""Positions of the two metrics."""
_COLUMNS = 40
_FLAT = np.array([0.5, 0.0])
"""What is thought of everything before anything is known."""
_POOLING = 10.0
"""Outcomes of an arm that weigh as much as those of all arms where its squared error is estimated."""
_FLAT_SQUARE = np.array([0.25, 0.25, 0.0])
"""Squared errors that are expected before any is known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What the model says of a piece, and the piece's rewards with what was not told made good."""

    reward: Floats
    """Of each step, shape (n_sessions, n_steps, 2): success where the session ended with the step, and dollars.

    Where one was told, it is weighted by the share of such that is told, so that the mean is right where it depends
    only on the action whether it is told; see `Model.made_good`.
    """
    values: Floats
    """Q of every action, shape (n_sessions, n_steps, n_arms + 1, 2)."""
    taken: Floats
    """Q of the action taken, shape (n_sessions, n_steps, 2)."""
    expected: Floats
    """V: Q averaged over the target's actions, shape (n_sessions, n_steps, 2)."""
    foretold: Floats
    """Variances and covariance (success, dollars, both) that weighting is foretold to add at each step given the state
    there, shape (n_sessions, n_steps, 3)."""
    dear: Floats
    """The same of dollars alone, as all arms together tell of dear sessions: second and third central moment, shape
    (n_sessions, n_steps, 2)."""
    leverage: Floats
    """What weighting makes of the second and third central moment of each action, a factor: target^2 / propensity and
    target^3 / propensity^2, shape (n_sessions, n_steps, n_arms + 1, 2)."""

    @property
    def spread(self) -> Floats:
        """Foretold variances and covariance of what a session's estimate adds to V at its first step, given its
        context, shape (n_sessions, 3)."""
        return self.foretold[:, 0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Totals:
    """What is counted of sessions; those of all are the sum of those of their pieces."""

    ended: Floats
    """How many sessions ended with each action, shape (n_arms + 1,)."""
    spent: Floats
    """How often each arm was taken; as `ended`."""
    told: Floats
    """Of how many of these success, or dollars, were told, shape (n_arms + 1, 2)."""
    sums: Floats
    """The sums of what was told; as `told`."""
    errors: Floats
    """Squared errors (success, dollars, both) of every action at every step, shape (longest, n_arms + 1, 3)."""
    counts: Floats
    """The number of those, shape (longest, n_arms + 1)."""
    tails: Tails
    """How the dollars that they came to scatter."""

    @classmethod
    def nothing(cls, n_arms: int, longest: int) -> "Totals":
        """Those of no sessions."""
        width = n_arms + 1
        return cls(
            ended=np.zeros(width),
            spent=np.zeros(width),
            told=np.zeros((width, 2)),
            sums=np.zeros((width, 2)),
            errors=np.zeros((longest, width, 3)),
            counts=np.zeros((longest, width)),
            tails=Tails(longest, width),
        )

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """What is thought of actions, from sessions that are over."""

    n_arms: int
    encoder: Encoder
    scaling: Scaling
    weights: tuple[Floats | None, ...]
    """By step: the coefficients of every arm, shape (width, n_arms, 2): of the context, and of which arms have
    failed."""
    totals: Totals

    @classmethod
    def blank(cls, n_arms: int, longest: int) -> "Model":
        """Of nothing."""
        return cls(
            n_arms=n_arms,
            encoder=Encoder(cap=_COLUMNS),
            scaling=Scaling(centre=np.zeros(1), spread=np.ones(1)),
            weights=(None,) * longest,
            totals=Totals.nothing(n_arms, longest),
        )

    def view(self, piece: Piece, targets: Floats, contexts: Floats) -> View:
        """What is to be said of a piece; `targets` as of a candidate, shape (n_sessions, n_steps, n_arms + 1), and
        `contexts` as of `contexts`."""
        values = self._values(piece, contexts)
        there = piece.there[:, :, None]
        leverage = _leverage(piece, targets)
        return View(
            reward=self.made_good(piece),
            values=values,
            taken=piece.of_action(values) * there,
            expected=(targets[..., None] * values).sum(axis=2) * there,
            foretold=_weighted(leverage, self._square(), (2, 2, 2)),
            dear=_weighted(leverage, self.totals.tails.expected(), (2, 3)),
            leverage=leverage,
        )

    def contexts(self, known: Sequence[Features]) -> Floats:
        """What sessions are known by, encoded, shape (n_known, n_columns)."""
        return self.scaling.apply(np.stack([self.encoder.encode(features)[0] for features in known]))

    def _values(self, piece: Piece, contexts: Floats) -> Floats:
        values = np.empty((*piece.propensities.shape, 2), order="F")
        for step in range(piece.action.shape[1]):
            values[:, step] = self.values_at(step, contexts, piece)
        return values

    def values_at(self, step: int, contexts: Floats, piece: Piece) -> Floats:
        """Q of every action of sessions at one step, shape (n_sessions, n_arms + 1, 2)."""
        k = self.n_arms
        values = np.empty((len(piece.action), k + 1, 2), order="F")
        weights = self.weights[step]
        if weights is None:
            values[:, :k] = self._pooled()
        else:
            # Every context is worked out once, however many sessions have it.
            columns = contexts.shape[1]
            of_context, of_alarm = (part.T.reshape(2 * k, -1) for part in (weights[:columns], weights[columns:]))
            found = np.take(of_context @ contexts.T, piece.features[:, step], axis=1)
            alarmed = piece.alarmed[:, step]
            if alarmed.any():
                found += of_alarm @ alarmed.T
            values[:, :k] = found.reshape(2, k, -1).T
        np.clip(values[:, :k, SUCCESS], 0.0, 1.0, out=values[:, :k, SUCCESS])
        np.maximum(values[:, :k, COST], 0.0, out=values[:, :k, COST])
        values[:, k] = self._stopped()
        return values

    def _pooled(self) -> Floats:
        """What is thought of an arm at a step nothing is known of."""
        k = self.n_arms
        told = self.totals.told[:k].sum(axis=0)
        return np.asarray((_FLAT + self.totals.sums[:k].sum(axis=0)) / (1.0 + told))

    def _stopped(self) -> Floats:
        """What giving up brings: seldom a success, of an attempt that was thought failed and was not."""
        return np.array([self.totals.sums[self.n_arms, SUCCESS] / (1.0 + self.totals.told[self.n_arms, SUCCESS]), 0.0])

    def made_good(self, piece: Piece) -> Floats:
        """Rewards, with the mean of what was told of an action in the place of what was not, and what was told
        weighted up: m + told / share (y - m), the augmented inverse-probability estimate of Robins, Rotnitzky and Zhao
        (1994). It is right where what is told of an action does not depend on how it went."""
        n, steps = piece.action.shape
        reward = np.zeros((n, steps, 2), order="F")
        here, last = np.arange(n), piece.last
        acted = piece.action[here, last]
        reward[here, last, SUCCESS] = self._augmented(piece.success, acted, self.totals.ended, SUCCESS)
        at = piece.action >= 0
        reward[at, COST] = self._augmented(piece.cost_usd[at], piece.action[at], self.totals.spent, COST)
        return reward

    def _augmented(self, y: Floats, action: npt.NDArray[np.int64], count: Floats, metric: int) -> Floats:
        told = ~np.isnan(y)
        if told.all():
            return y
        share = (1.0 + self.totals.told[:, metric]) / (1.0 + count)
        mean = (_FLAT[metric] + self.totals.sums[:, metric]) / (1.0 + self.totals.told[:, metric])
        error = np.where(told, np.nan_to_num(y) - mean[action], 0.0)
        return np.asarray(mean[action] + error / np.minimum(share, 1.0)[action])

    def _square(self) -> Floats:
        """Expected squared error of every action at every step, an arm's shrunk towards all arms' of the step, shape
        (longest, n_arms + 1, 3)."""
        arms = np.s_[:, : self.n_arms]
        errors, counts = self.totals.errors[arms], self.totals.counts[arms]
        pooled = (errors.sum(axis=1) + _FLAT_SQUARE) / (counts.sum(axis=1)[:, None] + 1.0)
        square = np.empty_like(self.totals.errors)
        square[arms] = (errors + _POOLING * pooled[:, None]) / (counts + _POOLING)[:, :, None]
        square[:, self.n_arms] = (self.totals.errors[:, self.n_arms] + _FLAT_SQUARE) / (
            self.totals.counts[:, self.n_arms] + 1.0
        )[:, None]
        return square

    def count(self, piece: Piece, targets: Floats, view: View) -> Totals:
        """What is counted of a piece of which `view` was said."""
        totals = Totals.nothing(self.n_arms, len(self.weights))
        _count_outcomes(piece, totals)
        _count_errors(piece, targets, view, totals)
        return totals


def _count_outcomes(piece: Piece, totals: Totals) -> None:
    n = len(piece.action)
    acted, told = piece.action[np.arange(n), piece.last], ~np.isnan(piece.success)
    width = len(totals.ended)
    totals.ended[:] = np.bincount(acted, minlength=width)
    totals.told[:, SUCCESS] = np.bincount(acted[told], minlength=width)
    totals.sums[:, SUCCESS] = np.bincount(acted[told], weights=piece.success[told], minlength=width)
    at = piece.there & (piece.action < width - 1)
    action, cost = piece.action[at], piece.cost_usd[at]
    told = ~np.isnan(cost)
    totals.spent[:] = np.bincount(action, minlength=width)
    totals.told[:, COST] = np.bincount(action[told], minlength=width)
    totals.sums[:, COST] = np.bincount(action[told], weights=cost[told], minlength=width)


def _count_errors(piece: Piece, targets: Floats, view: View, totals: Totals) -> None:
    """Squared errors, and how dollars scatter, in the states to which the target may come, whatever was done there.
    What weighting adds at the next step stands as foretold there for what it happened to add."""
    width = len(totals.ended)
    came_to = view.reward + _of_next(view.expected)
    error = came_to - view.taken
    square = np.stack((error[..., 0] ** 2, error[..., 1] ** 2, error[..., 0] * error[..., 1]), axis=2)
    square += _of_next(view.foretold)
    tail = _of_next(view.dear)
    taken = piece.of_action(targets)
    reached = np.concatenate((np.ones_like(taken[:, :1]), np.cumprod(taken, axis=1)[:, :-1]), axis=1) > 0.0
    for step in range(piece.action.shape[1]):
        at = piece.there[:, step] & reached[:, step]
        action, squares = piece.action[at, step], square[at, step]
        totals.counts[step] = np.bincount(action, minlength=width)
        for j in range(3):
            totals.errors[step, :, j] = np.bincount(action, weights=squares[:, j], minlength=width)
        totals.tails.learn(step, action, came_to[at, step, COST], tail[at, step])


def _leverage(piece: Piece, targets: Floats) -> Floats:
    """See `View.leverage`; 0 where a step is not there."""
    ratio = targets / np.where(piece.propensities > 0.0, piece.propensities, np.inf)
    leverage = np.empty((*targets.shape, 2), order="F")
    np.multiply(targets, ratio, out=leverage[..., 0])
    np.multiply(leverage[..., 0], ratio, out=leverage[..., 1])
    return leverage


def _weighted(leverage: Floats, moments: Floats, orders: Sequence[int]) -> Floats:
    """Moments of what weighting makes of actions' outcomes at each step, shape (n_sessions, n_steps, n_moments), from
    those of the outcomes, shape (longest, n_arms + 1, n_moments) and of the orders given."""
    result = np.empty((*leverage.shape[:2], len(orders)), order="F")
    for step in range(leverage.shape[1]):
        for j, order in enumerate(orders):
            result[:, step, j] = leverage[:, step, :, order - 2] @ moments[step, :, j]
    return result


def _of_next(of_steps: Floats) -> Floats:
    """Of each step what stands at the next one; 0 of the last."""
    return np.concatenate((of_steps[:, 1:], np.zeros_like(of_steps[:, :1])), axis=1)
