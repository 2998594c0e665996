"""The model that off-policy estimates lean on: what actions bring, from sessions before those it is used on.

At each step of a session a linear model of the context says what every arm leads to, in success and in dollars, with
what the target makes of the rest of the session: fitted Q evaluation (Le, Voloshin and Yue 2019, Batch policy
learning under constraints, ICML), by ridge regressions, from the last step backwards. It need not be right for the
estimates to be: it makes them narrower.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandit.features import Encoder, Scaling
from sim.piece import Piece
from sim.tails import Tails
from sim.world import Floats

SUCCESS, COST = 0, 1
"""Positions of the two metrics."""
_COLUMNS = 40
_LARGEST_WINDOW = 30_000
"""Steps that are fitted on; of longer logs, the latest."""
_SHARED_RIDGE, _OWN_RIDGE = 2.0, 10.0
"""Strength of the prior on what a feature does for all arms, and on how an arm differs: in outcomes."""
_FLAT = np.array([0.5, 0.0])
"""What is thought of everything before anything is known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What the model says of a piece, and the piece's rewards with what was not told made good."""

    reward: Floats
    """Of each step, shape (n_sessions, n_steps, 2): success where the session ended with the step, and dollars.

    Where one was told, it is weighted by the share of such that is told, so that the mean is right where it depends
    only on the action whether it is told; see `_made_good`.
    """
    values: Floats
    """Q of every action, shape (n_sessions, n_steps, n_arms + 1, 2)."""
    taken: Floats
    """Q of the action taken, shape (n_sessions, n_steps, 2)."""
    expected: Floats
    """V: Q averaged over the target's actions, shape (n_sessions, n_steps, 2)."""
    spread: Floats
    """Foretold variances and covariance (success, dollars, both) of what a session's estimate adds to V at its first
    step, given its context, shape (n_sessions, 3)."""
    tail: Floats
    """The same of its dollars alone, as all arms together tell of dear sessions: second and third central moment, shape
    (n_sessions, 2)."""


class Nuisances:
    """The model so far. Feed it pieces in order: what it says of a piece never depends on that piece."""

    def __init__(self, n_arms: int, longest: int) -> None:
        self._k = n_arms
        self._encoder = Encoder(cap=_COLUMNS)
        self._scaling = Scaling(centre=np.zeros(1), spread=np.ones(1))
        self._window: deque[tuple[Piece, Floats, Floats]] = deque()
        self._weights: list[Floats | None] = [None] * longest
        """By step: the coefficients of every arm, shape (width, n_arms, 2)."""
        # Of each action: how often its session ended with it, was told its success, and the sum of those; likewise
        # its dollars.
        self._ended = np.zeros(n_arms + 1)
        self._told = np.zeros((n_arms + 1, 2))
        self._sums = np.zeros((n_arms + 1, 2))
        self._spent = np.zeros(n_arms + 1)
        # Squared errors (success, dollars, both) of every action at every step, and their number.
        self._errors = np.zeros((longest, n_arms + 1, 3))
        self._counts = np.zeros((longest, n_arms + 1))
        self._tails = Tails(longest, n_arms + 1)

    def view(self, piece: Piece, targets: Floats) -> View:
        """What is to be said of a piece; `targets` as of a candidate, shape (n_sessions, n_steps, n_arms + 1)."""
        values = self._values(piece)
        there = piece.there[:, :, None]
        taken = piece.of_action(values) * there
        expected = (targets[..., None] * values).sum(axis=2) * there
        return View(
            reward=self._made_good(piece),
            values=values,
            taken=taken,
            expected=expected,
            spread=_weighted(piece, targets, self._square(), (2, 2, 2))[:, 0],
            tail=_weighted(piece, targets, self._tails.expected(), (2, 3))[:, 0],
        )

    def learn(self, piece: Piece, targets: Floats, view: View, *, refit: bool) -> None:
        """Takes in a piece of which `view` was said. Without `refit` the regressions stay as they are for now."""
        self._count(piece)
        self._learn_errors(piece, targets, view)
        self._window.append((piece, targets, view.reward))
        while sum(p.action.size for p, *_ in self._window) > _LARGEST_WINDOW and len(self._window) > 1:
            self._window.popleft()
        if refit:
            self._fit()

    def _contexts(self, piece: Piece) -> Floats:
        """The encoded contexts that a piece knows, shape (n_known, n_columns)."""
        return self._scaling.apply(np.stack([self._encoder.encode(features)[0] for features in piece.known]))

    def _values(self, piece: Piece) -> Floats:
        contexts = self._contexts(piece)
        values = np.empty((*piece.propensities.shape, 2), order="F")
        for step in range(piece.action.shape[1]):
            values[:, step] = self._values_at(step, contexts, piece)
        return values

    def _values_at(self, step: int, contexts: Floats, piece: Piece) -> Floats:
        """Q of every action of sessions at one step, shape (n_sessions, n_arms + 1, 2)."""
        k = self._k
        values = np.empty((len(piece.action), k + 1, 2), order="F")
        weights = self._weights[step]
        if weights is None:
            values[:, :k] = self._pooled()
        else:
            # Every context is worked out once, however many sessions have it.
            columns = contexts.shape[1]
            of_context, of_alarm = (part.T.reshape(2 * k, -1) for part in (weights[:columns], weights[columns:]))
            found = (of_context @ contexts.T)[:, piece.features[:, step]]
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
        k = self._k
        told = self._told[:k].sum(axis=0)
        return np.asarray((_FLAT + self._sums[:k].sum(axis=0)) / (1.0 + told))

    def _stopped(self) -> Floats:
        """What giving up brings: seldom a success, of an attempt that was thought failed and was not."""
        return np.array([self._sums[self._k, SUCCESS] / (1.0 + self._told[self._k, SUCCESS]), 0.0])

    def _made_good(self, piece: Piece) -> Floats:
        """Rewards, with the mean of what was told of an action in the place of what was not, and what was told
        weighted up: m + told / share (y - m), the augmented inverse-probability estimate of Robins, Rotnitzky and Zhao
        (1994). It is right where what is told of an action does not depend on how it went."""
        n, steps = piece.action.shape
        reward = np.zeros((n, steps, 2))
        here, last = np.arange(n), piece.last
        acted = piece.action[here, last]
        reward[here, last, SUCCESS] = self._augmented(piece.success, acted, self._ended, SUCCESS)
        at = piece.action >= 0
        reward[at, COST] = self._augmented(piece.cost_usd[at], piece.action[at], self._spent, COST)
        return reward

    def _augmented(self, y: Floats, action: npt.NDArray[np.int64], count: Floats, metric: int) -> Floats:
        told = ~np.isnan(y)
        if told.all():
            return y
        share = (1.0 + self._told[:, metric]) / (1.0 + count)
        mean = (_FLAT[metric] + self._sums[:, metric]) / (1.0 + self._told[:, metric])
        error = np.where(told, np.nan_to_num(y) - mean[action], 0.0)
        return np.asarray(mean[action] + error / np.minimum(share, 1.0)[action])

    def _count(self, piece: Piece) -> None:
        n = len(piece.action)
        acted, told = piece.action[np.arange(n), piece.last], ~np.isnan(piece.success)
        width = self._k + 1
        self._ended += np.bincount(acted, minlength=width)
        self._told[:, SUCCESS] += np.bincount(acted[told], minlength=width)
        self._sums[:, SUCCESS] += np.bincount(acted[told], weights=piece.success[told], minlength=width)
        at = piece.there & (piece.action < self._k)
        action, cost = piece.action[at], piece.cost_usd[at]
        told = ~np.isnan(cost)
        self._spent += np.bincount(action, minlength=width)
        self._told[:, COST] += np.bincount(action[told], minlength=width)
        self._sums[:, COST] += np.bincount(action[told], weights=cost[told], minlength=width)

    def _square(self) -> Floats:
        """Expected squared error of every action at every step, an arm's shrunk towards all arms' of the step, shape
        (longest, n_arms + 1, 3)."""
        arms = np.s_[:, : self._k]
        errors, counts = self._errors[arms], self._counts[arms]
        pooled = (errors.sum(axis=1) + _FLAT_SQUARE) / (counts.sum(axis=1)[:, None] + 1.0)
        square = np.empty_like(self._errors)
        square[arms] = (errors + _POOLING * pooled[:, None]) / (counts + _POOLING)[:, :, None]
        square[:, self._k] = (self._errors[:, self._k] + _FLAT_SQUARE) / (self._counts[:, self._k] + 1.0)[:, None]
        return square

    def _learn_errors(self, piece: Piece, targets: Floats, view: View) -> None:
        """Squared errors, and how dollars scatter, in the states to which the target may come, whatever was done there.
        What weighting adds at the next step stands as foretold there for what it happened to add."""
        following = _of_next(view.expected)
        came_to = view.reward + following
        error = came_to - view.taken
        square = np.stack((error[..., 0] ** 2, error[..., 1] ** 2, error[..., 0] * error[..., 1]), axis=2)
        square += _of_next(_weighted(piece, targets, self._square(), (2, 2, 2)))
        tail = _of_next(_weighted(piece, targets, self._tails.expected(), (2, 3)))
        taken = piece.of_action(targets)
        reached = np.concatenate((np.ones_like(taken[:, :1]), np.cumprod(taken, axis=1)[:, :-1]), axis=1) > 0.0
        for step in range(piece.action.shape[1]):
            at = piece.there[:, step] & reached[:, step]
            action, squares = piece.action[at, step], square[at, step]
            self._counts[step] += np.bincount(action, minlength=self._k + 1)
            for j in range(3):
                self._errors[step, :, j] += np.bincount(action, weights=squares[:, j], minlength=self._k + 1)
            self._tails.learn(step, action, came_to[at, step, COST], tail[at, step])

    def _fit(self) -> None:
        known = [features for piece, *_ in self._window for features in piece.known]
        self._encoder = self._encoder.grow(known)
        self._scaling = Scaling.fit(self._encoder, np.stack([self._encoder.encode(features)[0] for features in known]))
        contexts = [self._contexts(piece) for piece, *_ in self._window]
        longest = max(piece.action.shape[1] for piece, *_ in self._window)
        following: list[Floats] = [np.zeros((len(piece.action), 2)) for piece, *_ in self._window]
        for step in reversed(range(longest)):
            phis, actions, goals = [], [], []
            for (piece, _, reward), context, after in zip(self._window, contexts, following, strict=True):
                if step < piece.action.shape[1]:
                    at = (piece.action[:, step] >= 0) & (piece.action[:, step] < self._k)
                    phis.append(np.hstack((context[piece.features[at, step]], piece.alarmed[at, step])))
                    actions.append(piece.action[at, step])
                    goals.append(reward[at, step] + after[at])
            if sum(map(len, actions)):
                self._weights[step] = _ridges(
                    np.concatenate(phis), np.concatenate(actions), np.concatenate(goals), self._k
                )
            following = [
                np.zeros((len(piece.action), 2))
                if step >= piece.action.shape[1]
                else (targets[:, step, :, None] * self._values_at(step, context, piece)).sum(axis=1)
                for (piece, targets, _), context in zip(self._window, contexts, strict=True)
            ]


_POOLING = 10.0
"""Outcomes of an arm that weigh as much as those of all arms where its squared error is estimated."""
_FLAT_SQUARE = np.array([0.25, 0.25, 0.0])
"""Squared errors that are expected before any is known."""


def _weighted(piece: Piece, targets: Floats, moments: Floats, orders: Sequence[int]) -> Floats:
    """What weighting makes of moments of actions' outcomes, shape (longest, n_actions, n_moments) and of the orders
    given: at each step the sum over actions of target^m / propensity^(m - 1) times the moment of order m, shape
    (n_sessions, n_steps, n_moments)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(piece.propensities > 0.0, targets / piece.propensities, 0.0)
    # Steps that are not there have no targets, and come to 0.
    factor = {order: targets * ratio ** (order - 1) for order in set(orders)}
    result = np.empty((*targets.shape[:2], len(orders)))
    for step in range(targets.shape[1]):
        for j, order in enumerate(orders):
            result[:, step, j] = factor[order][:, step] @ moments[step, :, j]
    return result


def _of_next(of_steps: Floats) -> Floats:
    """Of each step what stands at the next one; 0 of the last."""
    return np.concatenate((of_steps[:, 1:], np.zeros_like(of_steps[:, :1])), axis=1)


def _ridges(phi: Floats, action: npt.NDArray[np.int64], goal: Floats, k: int) -> Floats:
    """Coefficients of every arm, shape (width, k, 2): what the arms share, and how each differs from that.

    What the model of a step sees, `phi`, is the context, and which arms have failed.
    """
    n, width = phi.shape
    design = np.zeros((n, width + k))
    design[:, :width] = phi
    design[np.arange(n), width + action] = 1.0
    # The first column is the intercept, which is not to be shrunk to 0; the arms' are, to what they share.
    strength = np.concatenate(([1e-3], np.full(width - 1, _SHARED_RIDGE), np.full(k, 1.0)))
    shared = np.linalg.solve(design.T @ design + np.diag(strength), design.T @ goal)
    left = goal - design @ shared
    weights = np.repeat(shared[:width, None], k, axis=1)
    weights[0] += shared[width:]
    for arm in range(k):
        mine = action == arm
        if mine.any():
            x = phi[mine]
            weights[:, arm] += np.linalg.solve(x.T @ x + _OWN_RIDGE * np.eye(width), x.T @ left[mine])
    return weights
