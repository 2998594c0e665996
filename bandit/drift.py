"""Whether an arm has changed: its outcomes against what was foretold of them, before and after every moment.

An attempt's residual is its outcome minus the success that its decision foretold. For one arm, with residuals r and
the variances v = p (1 - p) of the outcomes, the score statistic of a shift that began with attempt t is

    Z(t) = S(t) / sqrt(W(t)),   S(t) = sum_c [ R_c(t) - R_c V_c(t) / V_c ],   W(t) = sum_c V_c(t) (1 - V_c(t) / V_c)

where c is the number of the attempt, R_c(t) and V_c(t) are sums over the attempts from t on and R_c, V_c over all of
them. The mean of the residuals of each attempt number is thereby taken off: a forecast that has always been wrong
says nothing of a change, only one that becomes wrong does. The arm has changed where max |Z(t)| over t passes a
threshold: the generalised likelihood ratio for a shift of unknown size and time (Siegmund & Venkatraman, Annals of
Statistics 1995, doi:10.1214/aos/1176324466), in either direction.

What has changed is forgotten (`forget`): the arm's own weights are learned anew, from what came after the change and
a twentieth of what was before. The other arms' attempts in the same sessions go on to know how the arm had done there.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from bandit.rows import Rows
from bandit.success import Evidence

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

THRESHOLD = 4.4
"""|Z| that says an arm has changed. By chance it does 0.08 times in 10,000 attempts of an arm (simulated; the 95 %
interval is 0.04 to 0.13), see `tests/benchmarks/RESULTS.md`, Drift."""
KEPT_EVERY = 20
"""Of the attempts before a change one in so many is kept as evidence."""
_LEAST_VARIANCE = 4.0
"""W(t) below it is too little to go by: some 20 attempts. Beyond, the tails of S(t) are near enough Gaussian."""
_CLASSES = 3
"""Attempt numbers that are told apart; later ones count as the last of them."""


def changed(rows: Rows, n_arms: int) -> dict[int, int]:
    """The arms that have changed: position of the arm -> the row with which that most likely began."""
    outcome = _outcome(rows)
    watched = ~np.isnan(rows.foretold) & ~np.isnan(outcome)
    found = {}
    for arm in range(n_arms):
        mine = np.flatnonzero(watched & (rows.arm == arm))
        p = np.clip(rows.foretold[mine], 0.02, 0.98)
        z = shift(outcome[mine] - p, p * (1.0 - p), rows.attempt[mine])
        if len(z) and z.max() > THRESHOLD:
            found[arm] = int(mine[z.argmax()])
    return found


def shift(residual: Floats, variance: Floats, attempt: Ints) -> Floats:
    """|Z(t)| for a shift that began with each of an arm's attempts, in their order; all have shape (n_attempts,)."""
    score, weight = np.zeros((2, len(residual)))
    for c in range(1, _CLASSES + 1):
        here = np.minimum(attempt, _CLASSES) == c
        if not here.any():
            continue
        r = np.cumsum(np.where(here, residual, 0.0)[::-1])[::-1]
        v = np.cumsum(np.where(here, variance, 0.0)[::-1])[::-1]
        score += r - v / v[0] * r[0]
        weight += v * (1.0 - v / v[0])
    known = weight > _LEAST_VARIANCE
    return np.where(known, np.abs(score) / np.sqrt(np.where(known, weight, 1.0)), 0.0)


def _outcome(rows: Rows) -> Floats:
    """1 where an attempt went well as far as is known, 0 where it raised an alarm, shape (n_rows,); NaN: not known."""
    quiet = np.where(rows.signal < 0, 1.0, np.nan)
    return np.where(rows.signal > 0, 0.0, np.where(np.isnan(rows.truth), quiet, rows.truth))


def forget(rows: Rows, x: Floats, mean: Floats, changes: dict[int, int]) -> Rows:
    """The rows with what was before the changes held at what was learned of it, but for one in KEPT_EVERY.

    `x` are the rows' scaled contexts, `mean` the success posterior's, shape (n_arms, n_columns). Watching the changed
    arms begins anew.
    """
    held, foretold = rows.held.copy(), rows.foretold.copy()
    for arm, first in changes.items():
        mine = np.flatnonzero(rows.arm == arm)
        foretold[mine] = np.nan
        before = mine[mine < first]
        fading = before[np.arange(len(before))[::-1] % KEPT_EVERY != 0]
        fading = fading[np.isnan(held[fading])]
        held[fading] = x[fading] @ mean[arm]
    return replace(rows, held=held, foretold=foretold)


def fade(evidence: Evidence, mean: Floats, arms: list[int]) -> Evidence:
    """The evidence with 1 / KEPT_EVERY of what it says of these arms.

    Its precision P becomes S P S with S = sqrt(1 / KEPT_EVERY) on their weights, its gradient at `mean` S^2 of itself:
    it says of all weights what it said, with less force.
    """
    scale = np.ones(len(mean))
    scale[arms] = 1.0 / KEPT_EVERY
    root = np.sqrt(scale)
    precision = evidence.precision * root[:, None, None, None] * root[:, None]
    gradient = (evidence.linear - np.tensordot(evidence.precision, mean, 2)) * scale[:, None]
    return Evidence(precision=precision, linear=np.tensordot(precision, mean, 2) + gradient)
