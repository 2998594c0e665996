"""How far a dear session lies from the mean, as all arms tell together.

A session in a hundred that costs ten times the mean is seldom among the few that an arm was given, and decides how far
off the mean of these few is. In units of what an arm comes to on average, arms are much alike in this, so each is
mostly taken to be as all of them are together.
"""

import numpy as np

from sim.piece import Ints
from sim.world import Floats

_POOLING, _MEAN_POOLING = 100.0, 5.0
"""Outcomes of an arm that weigh as much as all arms' together: for its moments, and for means."""


class Tails:
    """Second and third central moments of the dollars that actions come to, by step of a session."""

    def __init__(self, n_steps: int, n_actions: int) -> None:
        # Of each action at each step: outcomes, sums of their first three powers, and of what is to be added to the
        # second and third central moment.
        self._count = np.zeros((n_steps, n_actions))
        self._powers = np.zeros((n_steps, n_actions, 3))
        self._added = np.zeros((n_steps, n_actions, 2))

    def __add__(self, other: "Tails") -> "Tails":
        both = Tails(*self._count.shape)
        both._count = self._count + other._count
        both._powers = self._powers + other._powers
        both._added = self._added + other._added
        return both

    def learn(self, step: int, action: Ints, usd: Floats, added: Floats) -> None:
        """Takes in what actions at a step came to in dollars, shape (n,), and by how much that is foretold to scatter
        in what follows: its second and third central moment, shape (n, 2)."""
        n_actions = self._count.shape[1]
        self._count[step] += np.bincount(action, minlength=n_actions)
        for power in range(3):
            self._powers[step, :, power] += np.bincount(action, weights=usd ** (power + 1), minlength=n_actions)
        for order in range(2):
            self._added[step, :, order] += np.bincount(action, weights=added[:, order], minlength=n_actions)

    def expected(self) -> Floats:
        """Second and third central moment of every action at every step, in dollars^2 and dollars^3, shape
        (n_steps, n_actions, 2)."""
        n, total = self._count[:, :, None], self._powers[:, :, :1]
        mean, square, cube = np.moveaxis(self._powers / np.maximum(n, 1.0), 2, 0)
        central = np.stack((square - mean**2, cube - 3.0 * mean * square + 2.0 * mean**3), axis=2)
        usual = _shrunk(total, n, _shrunk(total.sum(axis=0), n.sum(axis=0), _mean(total, n, (0, 1))))
        unit = np.maximum(usual, 1e-9) ** np.array([2, 3])
        # One outcome alone has no moments about its own mean.
        weight = np.maximum(n - 1.0, 0.0)
        pooled = _mean(weight * central / unit, weight, (0, 1))
        here = (weight * central + _POOLING * pooled * unit) / (weight + _POOLING)
        # What follows is not pooled over steps: it would be foretold from itself.
        return np.asarray(here + _shrunk(self._added, n, _mean(self._added, n, 1)))


def _mean(total: Floats, n: Floats, axis: int | tuple[int, int]) -> Floats:
    return np.asarray(total.sum(axis=axis, keepdims=True) / np.maximum(n.sum(axis=axis, keepdims=True), 1.0))


def _shrunk(total: Floats, n: Floats, to: Floats) -> Floats:
    """Means of n outcomes, held back towards others."""
    return np.asarray((total + _MEAN_POOLING * to) / (n + _MEAN_POOLING))
