"""How sure a mean is: intervals for a number of observations fixed beforehand, and sequences valid at any time.

An interval for fixed n may be looked at once. Whoever looks again and again as data come, and stops when it pleases
him, needs a confidence sequence: with probability 1 - alpha it holds the mean at every n at once.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]

ALPHA = 0.05
"""Chance of missing the mean that is meant where nothing else is said."""


class Interval(NamedTuple):
    """An estimate and the ends of its interval."""

    estimate: float
    low: float
    high: float

    def clipped(self, lowest: float, highest: float) -> "Interval":
        """The same with the ends, not the estimate, held to where the mean can be."""
        return Interval(self.estimate, min(max(self.low, lowest), highest), max(min(self.high, highest), lowest))


def student(estimate: float, stderr: float, freedom: float, *, skewness: float = 0.0, alpha: float = ALPHA) -> Interval:
    """The two-sided 1 - alpha interval of Student's t about an estimate, for an n fixed beforehand.

    `freedom` (> 0, may be a fraction) are the degrees of freedom of `stderr` (>= 0). `skewness` is the estimate's own,
    that of its observations divided by sqrt(n): where the long tail lies the end is moved out by
    stderr |skewness| (2 z^2 + 1) / 6, the first term of the Cornish-Fisher expansion of the studentised mean (Johnson
    1978, Modified t tests and confidence intervals for asymmetrical populations, JASA 73(363); Hall 1992, The Bootstrap
    and Edgeworth Expansion, section 2.4). The other end, which it would move in as far, stays. Of a skewness beyond 1,
    where the expansion says nothing any more, 1 is taken.
    """
    if stderr <= 0.0:
        return Interval(estimate, estimate, estimate)
    half = float(special.stdtrit(freedom, 1.0 - alpha / 2.0)) * stderr
    z = float(special.ndtri(1.0 - alpha / 2.0))
    lean = stderr * min(max(skewness, -1.0), 1.0) * (2.0 * z * z + 1.0) / 6.0
    return Interval(estimate, estimate - half + min(0.0, lean), estimate + half + max(0.0, lean))


def best_tuned_at(n: float, alpha: float = ALPHA) -> float:
    """The parameter rho at which `asymptotic_sequence` is narrowest after about `n` observations (n > 0).

    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), Time-uniform central limit theory and asymptotic
    confidence sequences, Annals of Statistics 52(6), appendix B.2.
    """
    twice_log = -2.0 * math.log(alpha)
    return math.sqrt((twice_log + math.log(twice_log + 1.0)) / n)


def asymptotic_sequence(n: Floats, mean: Floats, deviation: Floats, *, rho: float, alpha: float = ALPHA) -> Floats:
    """Ends of the asymptotic confidence sequence at each n, shape (2, n_times): low and high.

    mean +- deviation sqrt(2 (n rho^2 + 1) / (n^2 rho^2) log(sqrt(n rho^2 + 1) / alpha)), the normal mixture of
    Waudby-Smith et al. (2024), theorem 2.2. `n` (>= 1), `mean` and the standard `deviation` of the observations so
    far have shape (n_times,). As with the central limit theorem, its level holds once n is large enough that the
    deviation is known: begin to look after some dozens of observations.
    """
    grown = n * rho * rho + 1.0
    half = deviation * np.sqrt(2.0 * grown / (n * rho) ** 2 * np.log(np.sqrt(grown) / alpha))
    return np.stack((mean - half, mean + half))


def empirical_bernstein_sequence(values: Floats, lowest: float, highest: float, *, alpha: float = ALPHA) -> Floats:
    """Ends of the empirical-Bernstein confidence sequence after each value, shape (2, n_values): low and high.

    For values in [lowest, highest] with a constant conditional mean; holds at every n, without any approximation. The
    predictable plug-in of Waudby-Smith and Ramdas (2024), Estimating means of bounded random variables by betting,
    JRSS B 86(1), theorem 2; the running intersection is taken. Raises ValueError where a value is out of range.
    """
    if not (highest > lowest and np.all((values >= lowest) & (values <= highest))):
        raise ValueError(f"values must lie in [{lowest}, {highest}]")
    x = (values - lowest) / (highest - lowest)
    n = np.arange(1, len(x) + 1)
    mean = (0.5 + np.cumsum(x)) / (n + 1)
    before = np.concatenate(([0.5], mean[:-1]))
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (n + 1)
    variance_before = np.concatenate(([0.25], variance[:-1]))
    bet = np.minimum(np.sqrt(2.0 * math.log(2.0 / alpha) / (variance_before * n * np.log1p(n))), 0.5)
    staked = np.cumsum(bet)
    centre = np.cumsum(bet * x) / staked
    penalty = 4.0 * (x - before) ** 2 * (-np.log1p(-bet) - bet) / 4.0
    half = (math.log(2.0 / alpha) + np.cumsum(penalty)) / staked
    low = np.maximum.accumulate(np.maximum(centre - half, 0.0))
    high = np.minimum.accumulate(np.minimum(centre + half, 1.0))
    return lowest + (highest - lowest) * np.stack((low, high))
