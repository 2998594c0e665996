"""The lottery against chi-square, and what keys every stream."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bandit import sampling

FALSE_ALARM = 1e-6
"""Chance with which each statistical check here would fail a correct program, had its seed been drawn afresh."""


def shares(weights: list[float]) -> np.ndarray:
    return np.array(weights) / np.sum(weights)


def test_a_million_draws_follow_the_propensities() -> None:
    propensities = sampling.with_floor(np.array([0.7, 0.25, 0.0, 0.05, 0.0]), np.array([1, 1, 1, 1, 0], bool), 0.02)
    n = 1_000_000
    drawn = Counter(sampling.draw_arm(propensities, seed=7, session_id=f"s{i}", attempt=1) for i in range(n))
    counts = np.array([drawn[arm] for arm in range(5)])
    assert counts[4] == 0
    assert stats.chisquare(counts[:4], n * propensities[:4]).pvalue > FALSE_ALARM


@pytest.mark.parametrize("varied", ["seed", "session_id", "attempt"])
def test_every_part_of_the_key_matters(varied: str) -> None:
    propensities = np.array([0.5, 0.3, 0.2])
    key = {"seed": 1, "session_id": "s", "attempt": 1}
    drawn = Counter(
        sampling.draw_arm(propensities, **{**key, varied: f"s{i}" if varied == "session_id" else i})
        for i in range(20_000)
    )
    assert stats.chisquare([drawn[i] for i in range(3)], 20_000 * propensities).pvalue > FALSE_ALARM


def test_the_key_s_parts_do_not_run_into_each_other() -> None:
    keys = [(1, "11", 1), (11, "1", 1), (1, "1", 11), (1, "1", 1), (111, "", 1), (1, "1\x001", 1)]
    assert len({sampling.uniform(b"lottery", *key) for key in keys}) == len(keys)


@pytest.mark.parametrize("attempts", [(1, 1), (1, 2)])
def test_streams_of_different_purposes_are_independent(attempts: tuple[int, int]) -> None:
    """Sixteen by sixteen cells of two streams' numbers, of one attempt and of neighbouring attempts."""
    n, cells = 50_000, 16
    table = np.zeros((cells, cells))
    for i in range(n):
        u = sampling.uniform(b"lottery", 3, f"s{i}", attempts[0])
        v = sampling.uniform(b"stop", 3, f"s{i}", attempts[1])
        table[int(u * cells), int(v * cells)] += 1
    assert stats.chisquare(table.ravel()).pvalue > FALSE_ALARM


def test_the_lottery_is_independent_of_the_posterior_draws() -> None:
    """Else the propensity would not be the chance of the arm given the draws."""
    n = 20_000
    u = np.array([sampling.uniform(b"lottery", 3, f"s{i}", 1) for i in range(n)])
    z = np.array([sampling.normals(3, f"s{i}", 1, (1, 1))[0, 0] for i in range(n)])
    assert stats.spearmanr(u, z).pvalue > FALSE_ALARM
    assert stats.kstest(z, "norm").pvalue > FALSE_ALARM


def test_normals_are_a_keyed_window_of_a_bank_made_once() -> None:
    shape = (256, 8)
    window = sampling.normals(1, "s", 1, shape)
    assert window.shape == shape
    assert np.array_equal(window, sampling.normals(1, "s", 1, shape))
    others = [
        sampling.normals(2, "s", 1, shape),
        sampling.normals(1, "t", 1, shape),
        sampling.normals(1, "s", 2, shape),
    ]
    for a, b in itertools.combinations([window, *others], 2):
        assert not np.array_equal(a, b)
    # The window's place depends on the key alone, so more draws go on where fewer stopped.
    assert np.array_equal(sampling.normals(1, "s", 1, (10, 8)), sampling.normals(1, "s", 1, (20, 8))[:10])
    assert stats.kstest(sampling.normals(1, "s", 1, (20_000, 1)).ravel(), "norm").pvalue > FALSE_ALARM


@given(
    weights=st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1.0)), min_size=1, max_size=12).filter(any),
    floor=st.floats(0.0, 1.0),
    barred=st.integers(0, 4),
)
def test_with_floor_mixes_in_the_uniform_over_the_allowed(weights: list[float], floor: float, barred: int) -> None:
    n = len(weights)
    allowed = np.arange(n + barred) < n
    p = np.concatenate([shares(weights), np.zeros(barred)])
    mixed = sampling.with_floor(p, allowed, floor)
    assert mixed.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.all(mixed[:n] >= floor / n * (1 - 1e-12))
    assert np.all(mixed[n:] == 0.0)
    assert mixed[:n] == pytest.approx((1 - floor) * p[:n] + floor / n, abs=1e-12)
    # Mixing keeps the order of the arms.
    assert np.all(np.diff(mixed[:n][np.argsort(p[:n])]) >= -1e-15)


def test_a_floor_of_zero_changes_nothing_and_of_one_is_uniform() -> None:
    p, allowed = np.array([0.9, 0.1, 0.0]), np.array([True, True, False])
    assert np.array_equal(sampling.with_floor(p, allowed, 0.0), p)
    assert np.array_equal(sampling.with_floor(p, allowed, 1.0), np.array([0.5, 0.5, 0.0]))


@pytest.mark.parametrize(
    "propensities",
    [[0.5, 0.4], [0.6, 0.6], [1.5, -0.5], [np.nan, 1.0], [np.inf, 0.0], [0.0, 0.0], [1.0 + 1e-6, 0.0], []],
)
def test_what_is_no_distribution_is_not_drawn_from(propensities: list[float]) -> None:
    with pytest.raises(ValueError, match="not a distribution"):
        sampling.draw_arm(np.array(propensities), seed=1, session_id="s", attempt=1)


def test_an_arm_without_propensity_is_never_drawn_even_at_the_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    thirds = np.array([0.0, 1 / 3, 0.0, 1 / 3, 1 / 3, 0.0])
    for u, arm in [(0.0, 1), (1 / 3, 3), (1.0 - 2.0**-53, 4)]:
        monkeypatch.setattr(sampling, "uniform", lambda *_key, u=u: u)
        assert sampling.draw_arm(thirds, seed=1, session_id="s", attempt=1) == arm


def test_stopping_follows_its_propensity() -> None:
    n, p = 50_000, 0.3
    stops = sum(sampling.draw_stop(p, seed=1, session_id=f"s{i}", attempt=2) for i in range(n))
    assert stats.binomtest(stops, n, p).pvalue > FALSE_ALARM
    assert not any(sampling.draw_stop(0.0, seed=1, session_id=f"s{i}", attempt=2) for i in range(1000))
    assert all(sampling.draw_stop(1.0, seed=1, session_id=f"s{i}", attempt=2) for i in range(1000))


def test_inverse_propensities_average_to_one() -> None:
    """The inverse-propensity estimate of a reward that is always 1, for a target that differs from the logging one.

    Each term is target / propensity of the drawn arm; over the logged lottery its mean is exactly 1, and its
    variance is known, so the bound is the Gaussian one at `FALSE_ALARM`.
    """
    allowed = np.ones(4, dtype=bool)
    logged = sampling.with_floor(np.array([0.6, 0.4, 0.0, 0.0]), allowed, 0.1)
    target = np.array([0.1, 0.2, 0.3, 0.4])
    n = 200_000
    weight = target / logged
    drawn = [sampling.draw_arm(logged, seed=5, session_id=f"s{i}", attempt=1) for i in range(n)]
    estimate = weight[drawn].mean()
    spread = float(np.sqrt(((weight - 1) ** 2 @ logged) / n))
    assert abs(estimate - 1.0) < stats.norm.isf(FALSE_ALARM / 2) * spread
