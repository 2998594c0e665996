"""From a Gaussian over weights to one over scores: the joint distribution of x . w_k over the arms at a context x.

Draws are taken in score space, n_arms numbers a draw, never in weight space. For that the covariance over weights is
kept once more, folded and packed: x'S x of a symmetric S is a dot product of S's upper triangle with that of xx', so
the scores' covariance is one product of a vector with a matrix, of which only the rows of active columns are touched.
"""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandit.prior import Spread

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_AT_ONCE = 8
"""Contexts multiplied out together: few, so that their products stay in the cache."""


@dataclass(frozen=True, kw_only=True)
class WeightPosterior:
    """A Gaussian over every arm's weights."""

    mean: Floats
    """Shape (n_arms, n_columns)."""
    covariance: Floats
    """Shape (n_arms, n_columns, n_arms, n_columns)."""

    @functools.cached_property
    def _packed(self) -> Floats:
        """The covariance of each pair of arms k <= l, folded over its diagonal, shape (d (d + 1) / 2, n_pairs)."""
        k, d = self.mean.shape
        i, j = _triangle(d)
        first, second = _triangle(k)
        by_pair = self.covariance.transpose(1, 3, 0, 2)[:, :, first, second]
        folded = np.where((i == j)[:, None], by_pair[i, j], by_pair[i, j] + by_pair[j, i])
        return np.ascontiguousarray(folded)

    def scores(self, x: Floats, unseen: Spread, novel: Ints) -> tuple[Floats, Floats]:
        """Mean (n, n_arms) and covariance (n, n_arms, n_arms) of x . w_k at n scaled contexts, shape (n, n_columns).

        Each of a context's `novel` categories never seen, shape (n,), which have no column in x, adds the prior
        variance `unseen`. A context gets the same, to the last bit, whatever it is asked with.
        """
        n, (n_arms, d) = len(x), self.mean.shape
        pairs = np.empty((n, n_arms * (n_arms + 1) // 2))
        sparse = 3 * np.count_nonzero(x, axis=1) <= d
        for row in np.flatnonzero(sparse):
            at = np.flatnonzero(x[row])
            i, j = _triangle(len(at))
            active = x[row, at]
            folded = self._packed.take(_position(at.take(i), at.take(j), d), axis=0)
            pairs[row] = (active.take(i) * active.take(j)) @ folded
        dense, (i, j) = np.flatnonzero(~sparse), _triangle(d)
        for start in range(0, len(dense), _AT_ONCE):
            some = dense[start : start + _AT_ONCE]
            active = x[some]
            # A product of its own for each: one for all is quicker, but sums in an order that depends on how many.
            pairs[some] = ((active.take(i, axis=1) * active.take(j, axis=1))[:, None] @ self._packed)[:, 0]
        first, second = _triangle(n_arms)
        covariance = np.empty((n, n_arms, n_arms))
        covariance[:, first, second] = pairs
        covariance[:, second, first] = pairs
        covariance += novel[:, None, None] * (unseen.shared**2 + unseen.own**2 * np.eye(n_arms))
        return np.asarray((self.mean @ x[:, :, None])[:, :, 0]), covariance


@functools.lru_cache(maxsize=256)
def _triangle(n: int) -> tuple[Ints, Ints]:
    """Rows and columns of the upper triangle of an n x n matrix, diagonal included, row by row."""
    rows, columns = np.triu_indices(n)
    return rows, columns


def _position(i: Ints, j: Ints, n: int) -> Ints:
    """Where (i, j), i <= j, stands in the upper triangle of an n x n matrix, row by row."""
    return np.asarray(i * n - i * (i - 1) // 2 + (j - i))
