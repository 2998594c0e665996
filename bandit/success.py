"""Success: an item-response model with context, as a Gaussian posterior.

    logit P(arm k resolves the session | x, theta) = x . w_k + sigma theta,   theta ~ N(0, 1) once per session

theta is how hard the session is beyond what its features tell; it makes the failures of different arms on one
session depend on each other. It is integrated out by Gauss-Hermite quadrature (Bock & Aitkin 1981). The posterior of
the weights is Laplace's approximation at the mode, refitted over an exact window of sessions; what left the window
stays as a Gaussian factor. sigma is empirical Bayes, at most `SIGMA_MOST`.

An attempt whose truth is known contributes p^y (1-p)^(1-y). One that was only alarmed contributes p f + (1-p) r, with
f the probability that a good attempt raises an alarm and r the probability that a failed one does; one that ended
without an alarm and was never rewarded contributes p (1-f) + (1-p) (1-r). Were the latter left out, missing rewards
would look like failures.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy.special import expit, logsumexp

from bandit.prior import Spread, WeightPrior
from bandit.rows import Rows
from bandit.scores import WeightPosterior

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_hermite_nodes, _hermite_weights = np.polynomial.hermite_e.hermegauss(7)
NODES: Floats = _hermite_nodes
"""Values of theta at which it is integrated, shape (n_nodes,)."""
LOG_WEIGHTS: Floats = np.log(_hermite_weights / _hermite_weights.sum())

SPREADS = {
    "1": Spread(shared=1.5, own=1.2),
    "c": Spread(shared=1.2, own=0.9),
    "many": Spread(shared=0.7, own=0.3),
    "f": Spread(shared=0.5, own=0.3),
    "n": Spread(shared=0.5, own=0.3),
    "t": Spread(shared=0.2, own=0.1),
    "e": Spread(shared=0.3, own=0.15),
}

VERSION_CORRELATION = 0.75
"""Of what is an arm's own between a version of a model and the next."""
PRIOR_SIGMA = 2.2
SIGMA_MOST = 5.0
"""sigma's bound, the 99th percentile of its prior. There the nodes are 6 logits apart, too coarse to tell one sigma
from a larger one."""
_SIGMA_PRIOR_LOG_MEAN, _SIGMA_PRIOR_LOG_SD = np.log(PRIOR_SIGMA), 0.35
_PROBIT_SLOPE = 16.0 * np.sqrt(3.0) / (15.0 * np.pi)
_SPLIT_PRIOR = (0.3, 9.7)
"""Beta prior of the false-alarm rate; the detection rate has the mirror image."""


def attenuation(sigma: float) -> float:
    """How much larger a logit given theta = 0 is than the logit of the probability averaged over theta."""
    return float(np.sqrt(1.0 + (_PROBIT_SLOPE * sigma) ** 2))


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What has left the window, as a Gaussian factor exp(-w'Pw/2 + h'w) over the weights."""

    precision: Floats
    """P, shape (n_arms, n_columns, n_arms, n_columns)."""
    linear: Floats
    """h, shape (n_arms, n_columns)."""

    @classmethod
    def none(cls, n_arms: int, width: int) -> "Evidence":
        """No evidence."""
        return cls(precision=np.zeros((n_arms, width, n_arms, width)), linear=np.zeros((n_arms, width)))

    def __add__(self, other: "Evidence") -> "Evidence":
        return Evidence(precision=self.precision + other.precision, linear=self.linear + other.linear)

    def pad(self, n_arms: int, width: int) -> "Evidence":
        """The same, for more arms and columns, of which it says nothing."""
        k, d = self.linear.shape
        if (k, d) == (n_arms, width):
            return self
        wider = Evidence.none(n_arms, width)
        wider.precision[:k, :d, :k, :d] = self.precision
        wider.linear[:k, :d] = self.linear
        return wider


@dataclass(frozen=True, kw_only=True)
class SuccessPosterior(WeightPosterior):
    """A Gaussian over every arm's weights, its scores logits given theta = 0, and what was estimated beside it."""

    sigma: float
    """Spread of the latent difficulty in logits."""
    detection: float
    """r: probability that a failed attempt raises an alarm."""
    false_alarm: float
    """f: probability that a good attempt does."""


class Likelihood:
    """The window's marginal likelihood, theta integrated out, as a function of the attempts' logits."""

    def __init__(self, rows: Rows, *, detection: float, false_alarm: float) -> None:
        self.starts = np.concatenate([[0], np.cumsum(rows.lengths)[:-1]]).astype(np.int64)
        self.session = np.repeat(np.arange(len(rows.lengths)), rows.lengths)
        self.known = ~np.isnan(rows.truth)
        self.truth = np.nan_to_num(rows.truth)[:, None]
        alarm = (rows.signal > 0)[:, None]
        self.if_good = np.where(alarm, false_alarm, 1.0 - false_alarm)
        """Probability of the row's signal where the attempt was good, shape (n_rows, 1)."""
        self.if_failed = np.where(alarm, detection, 1.0 - detection)
        self.first, self.second = _pairs(rows.lengths, self.starts)
        self.held = rows.held
        self.free = np.isnan(rows.held)
        """Rows whose arm is now what it was then: the weights have no say in the logits of the others."""

    def _at_nodes(self, eta: Floats, sigma: float) -> Floats:
        """The logits at each node, shape (n_rows, n_nodes)."""
        return np.asarray(np.where(self.free, eta, self.held)[:, None] + sigma * NODES)

    def value(self, eta: Floats, sigma: float) -> float:
        """The log likelihood at the logits given theta = 0, shape (n_rows,)."""
        z = self._at_nodes(eta, sigma)
        return float(logsumexp(self._session_log(z), axis=1).sum())

    def _row_log(self, z: Floats) -> Floats:
        """Log likelihood of each row at each node, shape (n_rows, n_nodes)."""
        told = self.truth * z - np.logaddexp(0.0, z)
        if self.known.all():
            return np.asarray(told)
        p = expit(z)
        signalled = np.log(p * self.if_good + (1.0 - p) * self.if_failed)
        return np.where(self.known[:, None], told, signalled)

    def _session_log(self, z: Floats) -> Floats:
        return np.asarray(np.add.reduceat(self._row_log(z), self.starts, axis=0) + LOG_WEIGHTS)

    def derivatives(self, eta: Floats, sigma: float) -> tuple[float, Floats, Floats, Floats, Floats]:
        """The log likelihood, its gradient, and minus its Hessian in three parts.

        Returns (value, gradient (n_rows,), curvature of each row (n_rows,), curvature of each pair of rows of one
        session (n_pairs,), and the curvature of each row with theta held (n_rows,), which is never negative).
        """
        z = self._at_nodes(eta, sigma)
        p = expit(z)
        variance = p * (1.0 - p)
        gradient = self.truth - p
        bend = variance
        if not self.known.all():
            f, r = self.if_good, self.if_failed
            mixed = p * f + (1.0 - p) * r
            slope = (f - r) * variance / mixed
            known = self.known[:, None]
            gradient = np.where(known, gradient, slope)
            bend = np.where(known, bend, slope**2 - (f - r) * variance * (1.0 - 2.0 * p) / mixed)
        joint = self._session_log(z)
        total = logsumexp(joint, axis=1)
        belief = np.exp(joint - total[:, None])[self.session]
        mean_gradient = np.sum(belief * gradient, axis=1)
        held = np.sum(belief * bend, axis=1)
        row = held - np.sum(belief * gradient**2, axis=1) + mean_gradient**2
        i, j = self.first, self.second
        pair = mean_gradient[i] * mean_gradient[j] - np.sum(belief[i] * gradient[i] * gradient[j], axis=1)
        if not self.free.all():
            free = self.free
            mean_gradient, row, held = (np.where(free, part, 0.0) for part in (mean_gradient, row, held))
            pair = np.where(free[i] & free[j], pair, 0.0)
        return float(total.sum()), mean_gradient, row, pair, np.maximum(held, 0.0)

    def good_given_signal(self, eta: Floats, sigma: float) -> Floats:
        """P(the attempt was good | the session's evidence) for each row, shape (n_rows,); its truth where known."""
        z = self._at_nodes(eta, sigma)
        p = expit(z)
        joint = self._session_log(z)
        belief = np.exp(joint - logsumexp(joint, axis=1)[:, None])[self.session]
        f, r = self.if_good, self.if_failed
        good = np.sum(belief * p * f / (p * f + (1.0 - p) * r), axis=1)
        return np.where(self.known, self.truth[:, 0], good)


def _pairs(lengths: Ints, starts: Ints) -> tuple[Ints, Ints]:
    """Indices (i, j), i < j, of all pairs of rows of one session."""
    first: list[Ints] = []
    second: list[Ints] = []
    for a in range(int(lengths.max(initial=0))):
        for b in range(a + 1, int(lengths.max(initial=0))):
            long = lengths > b
            first.append(starts[long] + a)
            second.append(starts[long] + b)
    none = [np.zeros(0, dtype=np.int64)]
    return np.concatenate(none + first), np.concatenate(none + second)


def fit(rows: Rows, x: Floats, prior: WeightPrior, evidence: Evidence, start: SuccessPosterior) -> SuccessPosterior:
    """The posterior given the window, the prior and the evidence that has left the window.

    `x` are the rows' scaled contexts, shape (n_rows, n_columns); `start` is where the search for the mode begins
    (an earlier posterior, padded).
    """
    x, rows = _taught(rows, x)
    fixed = prior.full_precision() + evidence.precision
    if not len(rows):
        precision = fixed.reshape(prior.mean.size, prior.mean.size)
        shift = np.einsum("jkl,lj->kj", prior.precision, prior.mean) + evidence.linear
        covariance = linalg.cho_solve(linalg.cho_factor(precision), np.eye(len(precision)))
        mean = (covariance @ shift.ravel()).reshape(prior.mean.shape)
        return replace(start, mean=mean, covariance=covariance.reshape(fixed.shape))
    likelihood = Likelihood(rows, detection=start.detection, false_alarm=start.false_alarm)
    problem = _Problem(likelihood, x, rows.arm, prior, evidence, fixed)
    w = problem.mode(start.mean, start.sigma)
    _, factor = problem.newton(w, start.sigma)
    detection, false_alarm = _alarm_rates(rows, likelihood.good_given_signal(_eta(w, x, rows.arm), start.sigma))
    return SuccessPosterior(
        mean=w,
        covariance=linalg.cho_solve(factor, np.eye(w.size)).reshape(fixed.shape),
        sigma=_better_sigma(problem, w, start.sigma),
        detection=detection,
        false_alarm=false_alarm,
    )


@dataclass(frozen=True)
class _Problem:
    """The log posterior of the weights at a given sigma."""

    likelihood: Likelihood
    x: Floats
    arm: Ints
    prior: WeightPrior
    evidence: Evidence
    fixed: Floats
    """Precision of prior and evidence together."""

    def value(self, w: Floats, sigma: float) -> float:
        """The log posterior density, up to a constant."""
        old = 0.5 * np.tensordot(w, np.tensordot(self.evidence.precision, w, 2), 2) - np.sum(self.evidence.linear * w)
        return self.likelihood.value(_eta(w, self.x, self.arm), sigma) - self.prior.penalty(w) - float(old)

    def newton(self, w: Floats, sigma: float) -> tuple[Floats, tuple[Floats, bool]]:
        """The gradient, and the Cholesky factor of minus the Hessian, both at w."""
        _, slope, row, pair, held = self.likelihood.derivatives(_eta(w, self.x, self.arm), sigma)
        gradient = _scatter(slope, self.x, self.arm, len(w)) - self.prior.pull(w)
        gradient -= np.tensordot(self.evidence.precision, w, 2) - self.evidence.linear
        return gradient, _factor(self.fixed, self.x, self.arm, row, pair, held, self.likelihood)

    def mode(self, w: Floats, sigma: float) -> Floats:
        """Where the log posterior is greatest, searched from w."""
        value = self.value(w, sigma)
        for _ in range(25):
            gradient, factor = self.newton(w, sigma)
            step = linalg.cho_solve(factor, gradient.ravel()).reshape(w.shape)
            if float(np.sum(step * gradient)) < 1e-7:
                break
            # Newton damped by halving: with few nodes or f > 0 the likelihood is only nearly concave.
            for halvings in range(30):
                moved = w + step * 0.5**halvings
                reached = self.value(moved, sigma)
                if reached > value:
                    break
            else:
                break
            w, value = moved, reached
        return w

    def marginal(self, w: Floats, sigma: float) -> float:
        """Laplace's log marginal likelihood, up to a constant, with the mode one Newton step from w."""
        gradient, factor = self.newton(w, sigma)
        moved = w + linalg.cho_solve(factor, gradient.ravel()).reshape(w.shape)
        value = max(self.value(w, sigma), self.value(moved, sigma))
        return value - float(np.log(np.diag(factor[0])).sum())


def gradient(rows: Rows, x: Floats, at: SuccessPosterior) -> Floats:
    """Gradient of the rows' log likelihood over the weights at a posterior's mode, shape (n_arms, n_columns)."""
    x, rows = _taught(rows, x)
    if not len(rows):
        return np.zeros_like(at.mean)
    likelihood = Likelihood(rows, detection=at.detection, false_alarm=at.false_alarm)
    _, slope, *_ = likelihood.derivatives(_eta(at.mean, x, rows.arm), at.sigma)
    return _scatter(slope, x, rows.arm, len(at.mean))


def summarise(rows: Rows, x: Floats, at: SuccessPosterior) -> Evidence:
    """The rows' log likelihood to second order around a posterior's mode, its curvature held positive semidefinite."""
    x, rows = _taught(rows, x)
    if not len(rows):
        return Evidence.none(*at.mean.shape)
    likelihood = Likelihood(rows, detection=at.detection, false_alarm=at.false_alarm)
    _, slope, row, pair, _ = likelihood.derivatives(_eta(at.mean, x, rows.arm), at.sigma)
    shape = (*at.mean.shape, *at.mean.shape)  # `at` may have been widened, but for its covariance
    values, vectors = linalg.eigh(
        _information(x, rows.arm, row, pair, likelihood, at.mean.shape).reshape(at.mean.size, -1)
    )
    precision = ((vectors * np.maximum(values, 0.0)) @ vectors.T).reshape(shape)
    linear = np.tensordot(precision, at.mean, 2) + _scatter(slope, x, rows.arm, len(at.mean))
    return Evidence(precision=precision, linear=linear)


def _taught(rows: Rows, x: Floats) -> tuple[Floats, Rows]:
    """Only what says something of success."""
    taught = (rows.signal != 0) | ~np.isnan(rows.truth)
    return x[taught], rows.filter(taught)


def _eta(w: Floats, x: Floats, arm: Ints) -> Floats:
    return np.asarray(np.einsum("nd,nd->n", x, w[arm]))


def _scatter(values: Floats, x: Floats, arm: Ints, n_arms: int) -> Floats:
    """Sum of value x row, by arm, shape (n_arms, n_columns)."""
    return np.array([values[arm == k] @ x[arm == k] for k in range(n_arms)])


def _information(
    x: Floats, arm: Ints, row: Floats, pair: Floats, likelihood: Likelihood, shape: tuple[int, ...]
) -> Floats:
    """Minus the Hessian over the weights, shape (n_arms, n_columns, n_arms, n_columns)."""
    n_arms, width = shape
    information = np.zeros((n_arms, width, n_arms, width))
    for k in range(n_arms):
        mine = np.flatnonzero(arm == k)
        information[k, :, k, :] = x[mine].T @ (row[mine, None] * x[mine])
    i, j = likelihood.first, likelihood.second
    cell = arm[i] * n_arms + arm[j]
    for c in np.unique(cell):
        k, m = divmod(int(c), n_arms)
        here = cell == c
        block = x[i[here]].T @ (pair[here, None] * x[j[here]])
        information[k, :, m, :] += block
        information[m, :, k, :] += block.T
    return information


def _factor(
    fixed: Floats, x: Floats, arm: Ints, row: Floats, pair: Floats, held: Floats, likelihood: Likelihood
) -> tuple[Floats, bool]:
    """Cholesky factor of the posterior precision; with theta held where the exact one is not positive definite."""
    shape = fixed.shape[:2]
    size = shape[0] * shape[1]
    try:
        exact = fixed + _information(x, arm, row, pair, likelihood, shape)
        factor: tuple[Floats, bool] = linalg.cho_factor(exact.reshape(size, size), lower=True)
    except linalg.LinAlgError:
        safe = fixed + _information(x, arm, held, np.zeros_like(pair), likelihood, shape)
        factor = linalg.cho_factor(safe.reshape(size, size), lower=True)
    return factor


def _better_sigma(problem: _Problem, w: Floats, sigma: float) -> float:
    """One damped Newton step of Laplace's log marginal likelihood in log sigma, with a log-normal prior.

    The weights move with sigma along the ray that keeps the probabilities averaged over theta, so that one step
    finds the new mode. The likelihood alone would not do: with many columns, scaling all logits up costs it nothing.
    The curvature is that on the ray, where the weights have not yet followed. That leans upwards, and with single
    attempts on many columns it would climb for ever, past where the marginal likelihood falls: hence `SIGMA_MOST`.
    """
    h = 0.1

    def objective(log_sigma: float) -> float:
        there = float(np.exp(log_sigma))
        deviation = (log_sigma - _SIGMA_PRIOR_LOG_MEAN) / _SIGMA_PRIOR_LOG_SD
        return problem.marginal(w * (attenuation(there) / attenuation(sigma)), there) - float(0.5 * deviation**2)

    at = float(np.log(sigma))
    low, mid, high = objective(at - h), objective(at), objective(at + h)
    slope, bend = (high - low) / (2 * h), (high - 2 * mid + low) / h**2
    step = slope / -bend if bend < 0 else np.sign(slope) * h
    return min(float(np.exp(at + np.clip(step, -h, h))), SIGMA_MOST)


def _alarm_rates(rows: Rows, good: Floats) -> tuple[float, float]:
    """(r, f) by one step of EM: each row counts as good or failed to the degree it is believed to be."""
    a, b = _SPLIT_PRIOR
    told = rows.signal != 0
    alarm, good = (rows.signal[told] > 0).astype(float), good[told]
    detection = (b + np.sum(alarm * (1.0 - good))) / (a + b + np.sum(1.0 - good))
    false_alarm = (a + np.sum(alarm * good)) / (a + b + np.sum(good))
    return float(detection), float(min(false_alarm, 0.9 * detection))
