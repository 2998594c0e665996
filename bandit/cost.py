"""Cost: what a session uses, learned apart from what that costs today.

Usage is counted in millions of tokens. Its logarithm is a Bayesian linear regression on the context, pooled across
arms (see `prior`), with the number of attempts so far as a feature: a session that one arm failed on is a longer one.

    E[dollars of arm k] = P(not free) x exp(mu_k(x) + s_k(x)^2 / 2) x smear_k x price index_k

where s_k(x)^2 is the posterior variance of mu_k(x), smear_k is what the arm's attempts used over what the others led to
expect of them, capped and shrunk to the pool's (after Duan 1983), and the price index is the mean price of one of its
tokens. Because prices enter only here, a price change counts at the next decision.
Where an attempt reports dollars and no tokens, the tokens that those dollars would have bought stand for them; a
router without prices works in dollars throughout.

An attempt that takes a session over from another arm reads it again without that arm's cache. The dollars of that
(`reread_usd`) are known beforehand, so they are taken off what is learned and added to what is expected.

Seconds are regressed in the same way (`fit_latency`), with 1 for every price.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import linalg

from bandit.prior import Spread, WeightPrior
from bandit.rows import Rows
from bandit.scores import WeightPosterior
from bandit.session import AttemptRow
from bandit.types import Price, Situation, Usage

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SPREADS = {
    "1": Spread(shared=2.0, own=0.8),
    "c": Spread(shared=0.8, own=0.4),
    "many": Spread(shared=0.5, own=0.2),
    "f": Spread(shared=0.4, own=0.2),
    "n": Spread(shared=0.4, own=0.2),
    "t": Spread(shared=0.2, own=0.08),
    "e": Spread(shared=0.2, own=0.1),
}
VERSION_CORRELATION = 0.4
"""Of what is an arm's own between a version of a model and the next: their usage is less alike than their success."""
_ATTEMPT = Spread(shared=0.4, own=0.02)
ATTEMPT_COLUMNS = 2
"""Columns added to the context: whether this is at least the second attempt, and at least the third."""

_TYPICAL = Usage(input_tokens=0.10e6, output_tokens=0.03e6, cached_tokens=0.87e6)
"""A million tokens of an agent's session, by kind: what a price index weighs by."""
PRIOR_NOISE = 0.9
"""Spread of the log usage around its mean, before there is data."""
_NOISE_WEIGHT = 10.0
"""Attempts that the prior noise counts for."""
_SMEAR_WEIGHT = 20.0
"""Attempts that the pool's smear counts for in an arm's."""
_LARGEST_RESIDUAL = 3.0
"""Residuals are capped at so many spreads when smeared, so that one monster session does not move an arm's price."""
_MOST_LEVERAGE = 0.9
"""A row alone on its columns says nothing of what would be expected without it."""
LOG_USAGE_RANGE = (-20.0, 20.0)
"""Logs of usage and of seconds are held to it: half a billion of its unit. A price or report beyond any real one then
moves what is expected of its arm, and nothing overflows."""
_FREE_PRIOR = (0.05, 4.95)
"""Beta prior of an arm's share of attempts that cost nothing."""
TYPICAL_SECONDS = 300.0
"""What an attempt is thought to take before any was timed."""


def price_index(price: Price | None) -> float:
    """Dollars per million tokens of a typical session; 1 where no price is known, so that usage is in dollars."""
    return 1.0 if price is None else price.dollars(_TYPICAL)


def dollars(row: AttemptRow, price: Price | None) -> float | None:
    """What an attempt cost: as reported, or from its tokens at the given price; None where neither is known."""
    if row.cost_usd is not None or row.usage is None or price is None:
        return row.cost_usd
    return price.dollars(row.usage)


def reread_usd(situation: Situation, price: Price | None) -> float:
    """What an arm of that price pays for reading the session so far again; 0 where its price is not known."""
    return situation.reread_tokens * price.input_usd / 1e6 if price is not None else 0.0


def usage_of(row: AttemptRow) -> float:
    """Millions of index tokens an attempt used, but for reading the session again; NaN where unknown.

    They are its dollars over its price index then. An arm whose price is 0 costs nothing whatever it uses, so its
    tokens count as they are.
    """
    situation = row.decision.situation
    price = next((offer.price for offer in situation.offers if offer.arm == row.arm), None)
    paid, index = dollars(row, price), price_index(price)
    if paid is not None and index > 0.0:
        return max(0.0, paid - reread_usd(situation, price)) / index
    if row.usage is not None:
        return row.usage.total / 1e6
    return 0.0 if paid == 0.0 else float("nan")


def with_attempt(x: Floats, attempt: npt.NDArray[np.int64]) -> Floats:
    """Contexts with the attempt's columns appended, shape (n_rows, n_columns + ATTEMPT_COLUMNS)."""
    return np.hstack([x, (attempt >= 2)[:, None], (attempt >= 3)[:, None]])


def column_spreads_with_attempt(spreads: list[Spread]) -> list[Spread]:
    """The columns' spreads with those of the attempt's columns appended."""
    return [*spreads, *[_ATTEMPT] * ATTEMPT_COLUMNS]


@dataclass(frozen=True, kw_only=True)
class UsageSums:
    """Sufficient statistics of the regression, additive over rows: all that old rows need leave behind."""

    square: Floats
    """X'X of each arm, shape (n_arms, n_columns, n_columns)."""
    cross: Floats
    """X'y of each arm, shape (n_arms, n_columns)."""
    total: Floats
    """Rows, y'y and free rows of each arm, shape (n_arms, 3)."""

    @classmethod
    def none(cls, n_arms: int, width: int) -> "UsageSums":
        """Of no rows; `width` with the attempt's columns."""
        return cls(
            square=np.zeros((n_arms, width, width)), cross=np.zeros((n_arms, width)), total=np.zeros((n_arms, 3))
        )

    @classmethod
    def of(cls, rows: Rows, x: Floats, n_arms: int) -> "UsageSums":
        """Of the rows whose usage is known; `x` with the attempt's columns."""
        sums = cls.none(n_arms, x.shape[1])
        for k in range(n_arms):
            mine = (rows.arm == k) & ~np.isnan(rows.usage)
            paid = mine & (rows.usage > 0.0)
            y = _log(rows.usage[paid])
            sums.square[k] = x[paid].T @ x[paid]
            sums.cross[k] = y @ x[paid]
            sums.total[k] = np.count_nonzero(paid), y @ y, np.count_nonzero(mine) - np.count_nonzero(paid)
        return sums

    def __add__(self, other: "UsageSums") -> "UsageSums":
        return UsageSums(
            square=self.square + other.square, cross=self.cross + other.cross, total=self.total + other.total
        )

    def __sub__(self, other: "UsageSums") -> "UsageSums":
        return UsageSums(
            square=self.square - other.square, cross=self.cross - other.cross, total=self.total - other.total
        )

    def pad(self, n_arms: int, width: int) -> "UsageSums":
        """The same, for more arms and context columns (the attempt's columns stay last)."""
        k, d = self.cross.shape
        if (k, d) == (n_arms, width):
            return self
        own = [*range(d - ATTEMPT_COLUMNS), *range(width - ATTEMPT_COLUMNS, width)]
        wider = UsageSums.none(n_arms, width)
        wider.square[np.ix_(range(k), own, own)] = self.square
        wider.cross[np.ix_(range(k), own)] = self.cross
        wider.total[:k] = self.total
        return wider


@dataclass(frozen=True, kw_only=True)
class CostPosterior(WeightPosterior):
    """A Gaussian over every arm's usage weights, the attempt's columns last, and the corrections to dollars."""

    noise: float
    """Spread of the log usage around its mean."""
    smear: Floats
    """Mean of exp(residual) by arm, shape (n_arms,)."""
    paid: Floats
    """Share of attempts that cost anything, shape (n_arms,)."""

    def log_usage(self, x: Floats, attempt: int, novel: Ints) -> tuple[Floats, Floats]:
        """Mean (n, n_arms) and covariance (n, n_arms, n_arms) of the log usage at n scaled contexts (n, n_columns)."""
        return self.scores(with_attempt(x, np.full(len(x), attempt)), SPREADS["c"], novel)

    def factor(self, prices: Floats) -> Floats:
        """What exp(log usage) is multiplied by to give expected dollars, for price indices of shape (n_arms,)."""
        return np.asarray(self.smear * self.paid * prices)

    def later_attempts(self, attempt: int, count: int) -> Floats:
        """Log of how much more each of the next `count` attempts uses than the one numbered `attempt`: (count,)."""
        steps = self.mean[:, -ATTEMPT_COLUMNS:].mean(axis=0)
        level = np.array([0.0, steps[0], steps[0] + steps[1]])
        numbers = np.minimum(np.arange(attempt, attempt + count), 3) - 1
        return np.asarray(level[numbers] - level[min(attempt, 3) - 1])


def fit(rows: Rows, x: Floats, prior: WeightPrior, old: UsageSums) -> CostPosterior:
    """The posterior given the window's rows, the sums of the rows before it, and the prior.

    `x` are the scaled contexts with the attempt's columns. The noise is the residuals' own, shrunk to its prior.
    """
    n_arms, width = prior.mean.shape
    sums = UsageSums.of(rows, x, n_arms) + old
    fixed = prior.full_precision()
    pull = np.einsum("jkl,lj->kj", prior.precision, prior.mean)
    noise = PRIOR_NOISE
    mean = prior.mean
    covariance = fixed
    for _ in range(2):
        precision = fixed.copy()
        at = np.arange(n_arms)
        precision[at, :, at, :] += sums.square / noise**2
        flat = precision.reshape(n_arms * width, n_arms * width)
        factor = linalg.cho_factor(flat, lower=True)
        mean = linalg.cho_solve(factor, (pull + sums.cross / noise**2).ravel()).reshape(n_arms, width)
        covariance = linalg.cho_solve(factor, np.eye(len(flat))).reshape(fixed.shape)
        fitted = np.einsum("kd,kde,ke->k", mean, sums.square, mean) - 2.0 * np.sum(mean * sums.cross, axis=1)
        squares = float(np.sum(sums.total[:, 1] + fitted))
        told = _NOISE_WEIGHT * PRIOR_NOISE**2 + max(squares, 0.0)
        # The residuals of fitted rows are smaller than the noise by what the weights took up.
        fitted_away = float(np.einsum("kdke,kde->", covariance, sums.square)) / noise**2
        noise = float(np.sqrt(told / (_NOISE_WEIGHT + sums.total[:, 0].sum() - fitted_away)))
    a, b = _FREE_PRIOR
    free = (a + sums.total[:, 2]) / (a + b + sums.total[:, 0] + sums.total[:, 2])
    return CostPosterior(
        mean=mean,
        covariance=covariance,
        noise=noise,
        smear=_smear(rows, x, mean, covariance, noise),
        paid=np.where(sums.total[:, 2] > 0, 1.0 - free, 1.0),
    )


def fit_latency(rows: Rows, x: Floats, prior: WeightPrior) -> CostPosterior:
    """The posterior of seconds given the window's rows; what left it counts no more, for providers' speed drifts."""
    timed = replace(rows, usage=rows.latency)
    return fit(timed, x, prior, UsageSums.none(*prior.mean.shape))


def _log(usage: Floats) -> Floats:
    """The log of usage above 0, held to its range."""
    return np.clip(np.log(usage), *LOG_USAGE_RANGE)


def _smear(rows: Rows, x: Floats, mean: Floats, covariance: Floats, noise: float) -> Floats:
    """What usage came to over what was expected of it, by arm, shape (n_arms,).

    What was expected of a row is what the other rows alone say of it: where a row's posterior variance is h x noise^2,
    leaving it out multiplies its residual by 1 / (1 - h), and its variance likewise. Sums are compared, not single
    ratios, for it is the sum of dollars that has to come out right.
    """
    n_arms = len(mean)
    count, used, expected = np.zeros(n_arms), np.zeros(n_arms), np.zeros(n_arms)
    for k in range(n_arms):
        mine = (rows.arm == k) & (np.nan_to_num(rows.usage) > 0.0)
        y, own = _log(rows.usage[mine]), x[mine]
        leverage = np.minimum(np.sum((own @ covariance[k, :, k]) * own, axis=1) / noise**2, _MOST_LEVERAGE)
        residual = (y - own @ mean[k]) / (1.0 - leverage)
        predicted = y - residual + half_variance(leverage / (1.0 - leverage) * noise**2)
        count[k] = len(y)
        expected[k] = np.exp(predicted).sum()
        used[k] = np.exp(np.minimum(y, predicted + _LARGEST_RESIDUAL * noise)).sum()
    # In units of the arm's mean expected usage, so that each attempt counts the same whatever its arm uses.
    typical = expected / np.maximum(count, 1.0)
    share = np.divide(used, typical, out=np.zeros(n_arms), where=count > 0.0)
    normal = float(np.exp(noise**2 / 2.0))
    pooled = (share.sum() + _SMEAR_WEIGHT * normal) / (count.sum() + _SMEAR_WEIGHT)
    return np.asarray((share + _SMEAR_WEIGHT * pooled) / (count + _SMEAR_WEIGHT))


def log_usage_of(expected: float) -> float:
    """The prior mean of the log usage at which that usage, in millions of tokens and above 0, is what is expected."""
    spread = SPREADS["1"]
    variance = np.array(spread.shared**2 + spread.own**2)
    return float(np.clip(np.log(expected), *LOG_USAGE_RANGE) - half_variance(variance) - PRIOR_NOISE**2 / 2.0)


def half_variance(variance: Floats) -> Floats:
    """What the uncertainty of a mean log usage adds to the log of expected usage, same shape.

    The mean of a log-normal is exp of it above exp of its log's mean. A variance above 1 is ignorance of the unit
    more than of the arm, and counts no more.
    """
    return np.asarray(np.minimum(variance, 1.0) / 2.0)
