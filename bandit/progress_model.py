"""P(a running attempt succeeds | its reports): a small Bayesian logistic model over what reports say (see `signs`).

    logit P = w . signs,   w ~ N(w_0, diag(spread^2))

The first sign is the logit of what the attempt's decision expected, and w_0 is 1 there and 0 elsewhere: before any
data the model says what the decision said. The posterior is Laplace's approximation at the mode, refitted per block
on the newest sessions that were reported on; what left that window counts no more, for agents change.

The first report at each age is a row, whatever the attempt came to. Were rows weighted by an attempt's number of
reports, or its last ones only kept, then the early reports of long attempts, most of them failing, would count for
less, and P would come out .05 to .07 too high.

An attempt that was left because that was advised has no truth. Its last report says nothing then, and its earlier
ones count with what the model makes of the last one. Were they failures, then each advice to leave would be one more
reason for the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy.special import expit

from bandit.session import AttemptRow, SessionChange
from bandit.signs import NAMES, Mark

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

WINDOW_ATTEMPTS = 2000
"""Reported attempts that the model is fitted on, the newest."""
FEWEST_OF_EACH = 30
"""Reported attempts that must have succeeded, and as many that must have failed, before the model advises."""

_PRIOR_MEAN = np.array([float(name == "belief") for name in NAMES])
_PRIOR_SPREAD = np.array([0.5 if name == "belief" or name.endswith("unknown") else 1.5 for name in NAMES])
_CONSTANT_SPREAD = 1.0
_WIDTH = len(NAMES) + 1


class Chance(NamedTuple):
    """What is believed of an attempt's success: a Gaussian over its logit."""

    mean: float
    spread: float

    @property
    def probability(self) -> float:
        """Averaged over the Gaussian (MacKay 1992, doi:10.1162/neco.1992.4.5.720)."""
        return float(expit(self.mean / np.sqrt(1.0 + np.pi * self.spread**2 / 8.0)))


@dataclass(frozen=True, kw_only=True)
class ProgressModel:
    """The posterior and the attempts that it came from, those of one session together."""

    session_ids: tuple[str, ...] = ()
    """Of each attempt."""
    truth: Floats
    """Of each attempt; NaN where it was left because that was advised."""
    latest: Floats
    """Signs at each attempt's last report, a constant 1 before them, shape (n_attempts, n_columns)."""
    lengths: Ints
    """Marks of each attempt."""
    x: Floats
    """Signs at each mark, likewise, shape (n_marks, n_columns)."""
    mean: Floats
    """Of the weights, shape (n_columns,)."""
    covariance: Floats
    """Shape (n_columns, n_columns)."""

    @classmethod
    def start(cls) -> "ProgressModel":
        """The prior, before any report."""
        spread = np.concatenate([[_CONSTANT_SPREAD], _PRIOR_SPREAD])
        return cls(
            truth=np.zeros(0),
            latest=np.zeros((0, _WIDTH)),
            lengths=np.zeros(0, dtype=np.int64),
            x=np.zeros((0, _WIDTH)),
            mean=np.concatenate([[0.0], _PRIOR_MEAN]),
            covariance=np.diag(spread**2),
        )

    @property
    def learned(self) -> bool:
        """Whether there is evidence enough to advise on."""
        good, failed = float(np.nansum(self.truth)), float(np.nansum(1.0 - self.truth))
        return min(good, failed) >= FEWEST_OF_EACH

    def chance(self, mark: Mark) -> Chance:
        """What is believed of an attempt of which a report says this."""
        x = _row(mark)
        return Chance(float(x @ self.mean), float(np.sqrt(x @ self.covariance @ x)))

    def fold(self, changes: Sequence[SessionChange]) -> "ProgressModel":
        """The posterior after a block; the attempts of changed sessions count as they are now."""
        told = [(c.session_id, row, row.latest) for c in changes for row in c.after if row.latest is not None]
        news = [
            (s, row, latest) for s, row, latest in told if row.marks and (row.unseen_end or _truth(row) is not None)
        ]
        known = set(self.session_ids)
        if not news and not any(change.session_id in known for change in changes):
            return self
        changed = {change.session_id for change in changes}
        kept = self._select(np.array([s not in changed for s in self.session_ids], dtype=bool))
        truths = [np.nan if row.unseen_end else _truth(row) for _, row, _ in news]
        grown = replace(
            kept,
            session_ids=kept.session_ids + tuple(s for s, _, _ in news),
            truth=np.concatenate([kept.truth, np.array(truths, dtype=np.float64)]),
            latest=np.vstack([kept.latest, *(_row(latest) for _, _, latest in news)]),
            lengths=np.concatenate([kept.lengths, np.array([len(row.marks) for _, row, _ in news], dtype=np.int64)]),
            x=np.vstack([kept.x, *(_row(mark) for _, row, _ in news for mark in row.marks)]),
        )
        n = len(grown.truth)
        return grown._select(np.arange(n) >= n - WINDOW_ATTEMPTS)._fitted()

    def _select(self, attempts: npt.NDArray[np.bool_]) -> "ProgressModel":
        """With the marked attempts only, shape (n_attempts,)."""
        if attempts.all():
            return self
        return replace(
            self,
            session_ids=tuple(s for s, keep in zip(self.session_ids, attempts.tolist(), strict=True) if keep),
            truth=self.truth[attempts],
            latest=self.latest[attempts],
            lengths=self.lengths[attempts],
            x=self.x[np.repeat(attempts, self.lengths)],
        )

    def _fitted(self) -> "ProgressModel":
        prior = ProgressModel.start()
        precision = 1.0 / np.diag(prior.covariance)
        unseen = np.isnan(self.truth)
        y = np.repeat(np.where(unseen, expit(self.latest @ self.mean), self.truth), self.lengths)
        # The last report of an attempt that was left would only be told what the model says already.
        newest = (self.x == np.repeat(self.latest, self.lengths, axis=0)).all(axis=1)
        counts = ~(newest & np.repeat(unseen, self.lengths))
        x, y = self.x[counts], y[counts]

        def value(w: Floats) -> float:
            z = x @ w
            return float(y @ z - np.logaddexp(0.0, z).sum() - 0.5 * precision @ (w - prior.mean) ** 2)

        def newton(w: Floats) -> tuple[Floats, Floats]:
            p = expit(x @ w)
            gradient = x.T @ (y - p) - precision * (w - prior.mean)
            return gradient, x.T @ ((p * (1.0 - p))[:, None] * x) + np.diag(precision)

        w, reached = self.mean, value(self.mean)
        for _ in range(25):
            gradient, hessian = newton(w)
            step = linalg.solve(hessian, gradient, assume_a="pos")
            if float(step @ gradient) < 1e-7:
                break
            moved = w + step
            while (there := value(moved)) < reached and float(np.abs(moved - w).max()) > 1e-9:
                moved = (w + moved) / 2.0
            w, reached = moved, there
        return replace(self, mean=w, covariance=linalg.inv(newton(w)[1]))


def _row(mark: Mark) -> Floats:
    return np.array([1.0, *mark.signs])


def _truth(row: AttemptRow) -> float | None:
    """What is known of an attempt's success: what was told, else that an alarm was raised."""
    if row.success is not None:
        return row.success
    return 0.0 if row.alarm else None
