"""Coverage by simulation, each with the chance of failing although all is well."""

import numpy as np
import pytest
from scipy import stats

from bandit import intervals

RUNS, LENGTH = 400, 4_000
MOST_MISSES = int(stats.binom.isf(1e-4, RUNS, intervals.ALPHA))
"""Misses that a sequence at its nominal level exceeds with probability 1e-4: the false-failure rate of each test."""


def _ever_missed(low: np.ndarray, high: np.ndarray, mean: float) -> bool:
    return bool(np.any((low > mean) | (high < mean)))


def _running(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = np.arange(1, len(values) + 1, dtype=float)
    mean = np.cumsum(values) / n
    return n, mean, np.sqrt(np.maximum(np.cumsum(values**2) / n - mean**2, 1e-12))


def test_student_is_scipys() -> None:
    found = intervals.student(0.3, 0.1, 7.5, alpha=0.1)
    assert found[1:] == pytest.approx(stats.t.interval(0.9, 7.5, loc=0.3, scale=0.1), rel=1e-12)


def test_without_an_error_the_interval_is_the_estimate() -> None:
    assert intervals.student(0.3, 0.0, 5.0) == (0.3, 0.3, 0.3)


def test_an_interval_that_knows_of_a_long_tail_holds_the_mean_where_students_does_not() -> None:
    rng = np.random.default_rng(3)
    runs, n, sigma = 2_000, 40, 1.0
    skewness = (np.exp(sigma**2) + 2.0) * np.sqrt(np.exp(sigma**2) - 1.0) / np.sqrt(n)
    most = int(stats.binom.isf(1e-4, runs, intervals.ALPHA))
    values = rng.lognormal(-(sigma**2) / 2.0, sigma, (runs, n))
    means, stderrs = values.mean(axis=1), values.std(axis=1, ddof=1) / np.sqrt(n)

    def missed(skewness: float) -> int:
        found = [
            intervals.student(mean, stderr, n - 1.0, skewness=skewness)
            for mean, stderr in zip(means, stderrs, strict=True)
        ]
        return sum(not low <= 1.0 <= high for _, low, high in found)

    assert missed(skewness) <= most < missed(0.0)


def test_a_tail_moves_one_end() -> None:
    plain, up, down = (intervals.student(0.3, 0.1, 9.0, skewness=skewness) for skewness in (0.0, 0.5, -0.5))
    assert (up.low, down.high) == (plain.low, plain.high)
    assert intervals.student(0.3, 0.1, 9.0, skewness=7.0) == intervals.student(0.3, 0.1, 9.0, skewness=1.0)
    assert up.high - plain.high == pytest.approx(plain.low - down.low) == pytest.approx(0.1 * 0.5 * 1.447, rel=1e-3)


def test_clipping_leaves_the_estimate() -> None:
    assert intervals.Interval(1.1, 0.9, 1.3).clipped(0.0, 1.0) == (1.1, 0.9, 1.0)


def test_peeking_at_the_asymptotic_sequence_keeps_its_level_where_the_clt_does_not() -> None:
    rng = np.random.default_rng(1)
    rho = intervals.best_tuned_at(1_000)
    missed_sequence = missed_clt = 0
    for _ in range(RUNS):
        n, mean, deviation = _running(rng.binomial(1, 0.3, LENGTH).astype(float))
        # Looked at from the hundredth observation on, at every single one.
        n, mean, deviation = n[99:], mean[99:], deviation[99:]
        low, high = intervals.asymptotic_sequence(n, mean, deviation, rho=rho)
        missed_sequence += _ever_missed(low, high, 0.3)
        half = 1.96 * deviation / np.sqrt(n)
        missed_clt += _ever_missed(mean - half, mean + half, 0.3)
    assert missed_sequence <= MOST_MISSES
    # The negative control: the law of the iterated logarithm has it missed in the end with certainty.
    assert missed_clt > 0.25 * RUNS


def test_the_empirical_bernstein_sequence_keeps_its_level() -> None:
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(RUNS):
        values = rng.beta(0.2, 0.8, LENGTH) * 3.0 - 1.0
        low, high = intervals.empirical_bernstein_sequence(values, -1.0, 2.0)
        missed += _ever_missed(low, high, 3.0 * 0.2 - 1.0)
    assert missed <= MOST_MISSES


def test_both_sequences_narrow_at_about_the_root_of_n() -> None:
    values = np.random.default_rng(3).binomial(1, 0.5, 40_000).astype(float)
    n, mean, deviation = _running(values)
    for low, high in (
        intervals.asymptotic_sequence(n, mean, deviation, rho=intervals.best_tuned_at(4_000)),
        intervals.empirical_bernstein_sequence(values, 0.0, 1.0),
    ):
        width = high - low
        assert width[39_999] < 0.45 * width[3_999]
        assert width[39_999] > 1.96 * 2 * 0.5 / np.sqrt(40_000)


def test_the_sequence_is_narrowest_where_it_was_tuned() -> None:
    at = np.array([1_000.0])
    widths = [
        np.ptp(intervals.asymptotic_sequence(at, np.zeros(1), np.ones(1), rho=scale * intervals.best_tuned_at(1_000)))
        for scale in (0.5, 0.9, 1.0, 1.1, 2.0)
    ]
    assert min(widths) == widths[2]


@pytest.mark.parametrize("values", [[0.5, 1.5], [float("nan")]])
def test_values_out_of_range_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="must lie"):
        intervals.empirical_bernstein_sequence(np.array(values), 0.0, 1.0)
