"""Rules over draws: the share of the draws an arm is best in, and when to give up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bandit import objective

VALUES = hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(2, 30)), elements=st.integers(-3, 3))


@settings(deadline=None)
@given(VALUES)
def test_shares_count_the_draws_in_which_an_arm_is_first_among_the_best(values: np.ndarray) -> None:
    expected = [0.0] * len(values)
    for draw in values.T.tolist():
        expected[draw.index(max(draw))] += 1 / values.shape[1]
    (shares,) = objective.shares(values[:, None])
    assert shares == pytest.approx(expected)
    assert shares.sum() == pytest.approx(1.0)


def test_an_arm_that_is_out_has_no_share() -> None:
    assert objective.shares(np.array([[[-np.inf, -np.inf]], [[-5.0, -6.0]]])).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(("stopping", "expected"), [(0.0, 0.0), (10.0, 1.0)])
def test_outside_the_margin_the_greater_expected_value_is_certain(stopping: float, expected: float) -> None:
    first = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 4.0]])
    assert objective.stop_propensity(first, np.ones(3), np.full(3, stopping), 5.0) == expected


def test_inside_the_margin_it_is_the_share_of_the_draws_that_would_stop() -> None:
    """Going on is worth .2, 0, 0, -.2 by draw, on average 0; ties stop."""
    first = np.array([[0.2, 0.0, -0.1, -0.2], [-1.0, -1.0, 0.0, -0.3]])
    assert objective.stop_propensity(first, np.ones(4), np.zeros(4), 5.0) == 0.75


def test_the_margin_is_two_per_cent_of_a_success() -> None:
    first = np.array([[0.0, 0.2]])
    assert objective.stop_propensity(first, np.ones(2), np.zeros(2), 5.1) == 0.5
    assert objective.stop_propensity(first, np.ones(2), np.zeros(2), 4.9) == 0.0


@settings(deadline=None)
@given(values=VALUES, stopping=st.floats(-3, 3), seed=st.integers(0, 1000))
def test_the_belief_s_mass_cancels(values: np.ndarray, stopping: float, seed: int) -> None:
    mass = np.exp2(np.random.default_rng(seed).integers(-3, 1, values.shape[1]).astype(np.float64))
    stop = np.full(values.shape[1], stopping)
    p = objective.stop_propensity(values * mass, mass, stop, 50.0)
    assert p == objective.stop_propensity(values, np.ones(values.shape[1]), stop, 50.0)
    assert 0.0 <= p <= 1.0
