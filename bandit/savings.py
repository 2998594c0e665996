"""What another arm alone would have come to on the sessions of a log, against what they came to: success and dollars.

"Always arm k" takes k for a session's first attempt and never escalates. For a session that k could have begun, m is
what the first decision foretold of it, and c what the session came to. The mean under k is estimated in two ways:

- **corrected**: what was foretold, corrected by how attempts of k turned out against what had been foretold of them:
  E[m] plus their mean error for success, E[m] times dollars spent over dollars foretold for dollars. It takes forecasts
  to be off on these sessions as they were on k's attempts, wherever in a session those came.
- **weighted**: the same correction by sessions that k was drawn for alone, each weighted by w = 1 / its propensity, so
  that they stand for all: success E[m] + (E[w y] - E[w m]) / E[w], dollars E[m] E[w y] / E[w m], where y is the outcome
  of the first attempt. The self-normalised doubly robust estimate and its ratio form: it takes nothing for granted,
  since p is exact and m rests on earlier sessions only (Dudik, Erhan, Langford and Li, 2014), and needs many sessions.

Spreads are those of the delta method. All of it follows from sums of products of (1, m, w, w m, w y, c) over sessions
and of errors over attempts, which may be added up over any stretches of a log.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bandit.intervals import Interval, student

Floats = npt.NDArray[np.float64]

LEAST_ATTEMPTS = 10
"""Of an arm, before they correct what was foretold of it."""
LEAST_EFFECTIVE = 30.0
"""Sessions that those an arm was drawn for must be worth, before they speak by themselves."""
_N = 6
_ONE, _M, _W, _WM, _WY, _C = range(_N)
_UPPER = np.triu_indices(_N)
PRODUCTS = len(_UPPER[0])
"""Sums that are kept of a figure of an arm over sessions."""


def products(foretold: Floats, weight: Floats, own: Floats, whole: Floats | float) -> Floats:
    """What is to be summed over sessions, shape (…, PRODUCTS), of arrays of shape (…).

    `foretold` (m) is 0 where nothing was foretold, `weight` (w) 0 where the arm was not taken or its first attempt's
    outcome `own` (y) is not known, `whole` (c) what the session came to.
    """
    z = np.empty((*foretold.shape, _N))
    z[..., _ONE] = 1.0
    z[..., _M] = foretold
    z[..., _W] = weight
    z[..., _WM] = weight * foretold
    z[..., _WY] = weight * own
    z[..., _C] = whole
    of: Floats = z[..., _UPPER[0]] * z[..., _UPPER[1]]
    return of


class Errors(NamedTuple):
    """Sums over an arm's attempts of which a figure was foretold and is known."""

    attempts: float
    foretold: float
    real: float
    foretold_squared: float
    real_squared: float
    product: float
    """Of both."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the arm alone would have come to, with 95 % intervals."""

    value: Interval
    less: Interval
    """That less what the sessions came to."""
    share: Interval | None
    """The same as a share of what the arm would have come to; None where that may be nothing."""


@dataclass(frozen=True, kw_only=True)
class Alone:
    """An arm by itself on the sessions that it could have begun, in one figure: success, or dollars a session."""

    sessions: int
    attempts: int
    """Of the arm, of which both forecast and outcome are known."""
    effective: float
    """How many sessions drawn for it alike would tell as much as those that were."""
    foretold: float
    """What decisions expected of it, on average; 0 where they expected nothing."""
    real: float
    """What the sessions came to, whoever had them."""
    corrected: Estimate | None
    """None with few attempts, or where nothing was foretold."""
    weighted: Estimate | None
    """None with few sessions drawn for it."""


def alone(sums: Floats, errors: Errors, *, dollars: bool) -> Alone | None:
    """From the sums of `products`, shape (PRODUCTS,); None where there is no session."""
    moments = np.zeros((_N, _N))
    moments[_UPPER] = sums
    moments.T[_UPPER] = sums
    n = round(float(moments[_ONE, _ONE]))
    if n < 2:
        return None
    mean = moments[_ONE] / n
    spread = moments / n - np.outer(mean, mean)
    squares = float(moments[_W, _W])
    effective = float(moments[_ONE, _W]) ** 2 / squares if squares > 0.0 else 0.0
    weighted = _weighted(mean, dollars) if effective >= LEAST_EFFECTIVE else None
    return Alone(
        sessions=n,
        attempts=round(errors.attempts),
        effective=effective,
        foretold=float(mean[_M]),
        real=float(mean[_C]),
        corrected=_corrected(errors, mean, spread / n, dollars),
        weighted=_estimate(*weighted, mean, spread / n, 0.0, effective, dollars) if weighted is not None else None,
    )


def _corrected(errors: Errors, mean: Floats, spread: Floats, dollars: bool) -> Estimate | None:
    n, slope = errors.attempts, np.zeros(_N)
    if n < LEAST_ATTEMPTS or errors.foretold <= 0.0 or mean[_M] <= 0.0:
        return None
    if dollars:
        ratio = errors.real / errors.foretold
        off = errors.real_squared - 2.0 * ratio * errors.product + ratio * ratio * errors.foretold_squared
        slope[_M] = ratio
        own = float(mean[_M]) ** 2 * max(off, 0.0) * n / (n - 1.0) / errors.foretold**2
        return _estimate(ratio * float(mean[_M]), slope, mean, spread, own, n, dollars)
    bias = (errors.real - errors.foretold) / n
    squared = errors.real_squared - 2.0 * errors.product + errors.foretold_squared
    slope[_M] = 1.0
    own = max(squared / n - bias * bias, 0.0) / (n - 1.0)
    return _estimate(float(mean[_M]) + bias, slope, mean, spread, own, n, dollars)


def _weighted(mean: Floats, dollars: bool) -> tuple[float, Floats]:
    """The estimate and its slope in the means; there is some weight."""
    m, w, wm, wy = (float(mean[i]) for i in (_M, _W, _WM, _WY))
    slope = np.zeros(_N)
    if dollars and wm > 0.0:
        value = m * wy / wm
        slope[[_M, _WM, _WY]] = wy / wm, -value / wm, m / wm
        return value, slope
    correction = (wy - wm) / w
    slope[[_M, _W, _WM, _WY]] = 1.0, -correction / w, -1.0 / w, 1.0 / w
    return m + correction, slope


def _estimate(
    value: float, slope: Floats, mean: Floats, spread: Floats, own: float, counted: float, dollars: bool
) -> Estimate:
    """`spread` is the covariance of the means, `own` a variance of the value beside it, `counted` what it rests on."""
    real = float(mean[_C])
    against = np.zeros(_N)
    against[_C] = 1.0

    def interval(centre: float, of_value: float, of_real: float) -> Interval:
        along = of_value * slope + of_real * against
        variance = float(along @ spread @ along) + of_value**2 * own
        return student(centre, math.sqrt(max(variance, 0.0)), counted - 1.0)

    plain = interval(value, 1.0, 0.0)
    share = interval(1.0 - real / value, real / value**2, -1.0 / value) if plain.low > 0.0 else None
    return Estimate(
        value=plain.clipped(0.0, math.inf if dollars else 1.0), less=interval(value - real, 1.0, -1.0), share=share
    )
