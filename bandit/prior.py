"""Where learning starts: a Gaussian over every arm's weights, with what arms have in common.

The weights of arm k are w_k = beta + gamma_k, a part shared by all arms and a part of its own, each independent over
the columns with a spread that depends on the kind of column. The own parts of a model's versions are correlated, so
that a new version starts where its predecessor's posterior is, widened. Over the arms, the weights of one column
therefore have covariance shared^2 11' + own own' * kinship, elementwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandit.features import CATEGORY, EMBEDDING, FLAG, INTERCEPT, NUMBER, TEXT

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Prior standard deviations of a column's weights: what all arms share, and what is each arm's own."""

    shared: float
    own: float


Spreads = Mapping[str, Spread]
"""By kind of column. ``many`` is a category of a feature with many categories (a repository, say)."""

MANY = "many"
_FEW_CATEGORIES = 8
OVERFLOW = "#"


def column_spreads(columns: Sequence[str], spreads: Spreads) -> list[Spread]:
    """The spread of each column, by its kind and, for categories, by how many its feature has."""
    sizes: dict[str, int] = {}
    for column in columns:
        if column.startswith(CATEGORY + ":"):
            feature = column.partition("=")[0]
            sizes[feature] = sizes.get(feature, 0) + 1

    def kind(column: str) -> str:
        if column == INTERCEPT:
            return INTERCEPT
        if column.startswith(OVERFLOW):
            return MANY
        prefix = column.partition(":")[0]
        if prefix == CATEGORY and sizes[column.partition("=")[0]] > _FEW_CATEGORIES:
            return MANY
        assert prefix in (NUMBER, FLAG, CATEGORY, TEXT, EMBEDDING), column
        return prefix

    return [spreads[kind(column)] for column in columns]


def kinship(predecessors: Sequence[int | None], correlation: float) -> Floats:
    """Correlations of the arms' own parts, shape (n_arms, n_arms): `correlation` to the power of the versions between.

    `predecessors` has for each arm the position of its predecessor, which stands before it. Along a tree of versions
    this is a Gauss-Markov process, hence positive definite for a correlation below 1.
    """
    kin = np.eye(len(predecessors))
    for k, predecessor in enumerate(predecessors):
        if predecessor is not None:
            kin[k, :k] = kin[:k, k] = correlation * kin[predecessor, :k]
    return kin


@dataclass(frozen=True, kw_only=True)
class WeightPrior:
    """A Gaussian over the weights of all arms."""

    mean: Floats
    """Shape (n_arms, n_columns)."""
    precision: Floats
    """Shape (n_columns, n_arms, n_arms): columns are independent of each other."""

    @classmethod
    def build(cls, mean: Floats, spreads: Sequence[Spread], own_scale: Floats, kinship: Floats) -> "WeightPrior":
        """From a mean, the columns' spreads, a factor on each arm's own spread, shape (n_arms,), and `kinship`."""
        shared = np.array([s.shared for s in spreads])[:, None, None]
        own = np.array([s.own for s in spreads])[:, None] * own_scale
        covariance = shared**2 + own[:, :, None] * own[:, None, :] * kinship
        return cls(mean=mean, precision=np.asarray(np.linalg.inv(covariance), dtype=np.float64))

    def full_precision(self) -> Floats:
        """The precision over all weights, shape (n_arms, n_columns, n_arms, n_columns)."""
        d, k, _ = self.precision.shape
        full = np.zeros((k, d, k, d))
        at = np.arange(d)
        full[:, at, :, at] = self.precision
        return full

    def pull(self, weights: Floats) -> Floats:
        """Precision x (weights - mean), shape (n_arms, n_columns): minus the gradient of the log density."""
        return np.asarray(np.einsum("jkl,lj->kj", self.precision, weights - self.mean))

    def penalty(self, weights: Floats) -> float:
        """Minus the log density, up to a constant."""
        return 0.5 * float(np.sum((weights - self.mean) * self.pull(weights)))
