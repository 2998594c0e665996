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
    (shares,) = objective.shares(values.argmax(axis=0)[None], len(values))
    assert shares == pytest.approx(expected)
    assert shares.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(("stopping", "expected"), [(0.0, 0.0), (10.0, 1.0)])
def test_outside_the_margin_the_greater_expected_value_is_certain(stopping: float, expected: float) -> None:
    first = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 4.0]])
    assert objective.stop_propensity(first.max(axis=0), np.full(3, stopping), 5.0) == expected


def test_inside_the_margin_it_is_the_share_of_the_draws_that_would_stop() -> None:
    """Going on is worth .2, 0, 0, -.2 by draw, on average 0; ties stop."""
    first = np.array([[0.2, 0.0, -0.1, -0.2], [-1.0, -1.0, 0.0, -0.3]])
    assert objective.stop_propensity(first.max(axis=0), np.zeros(4), 5.0) == 0.75


def test_the_margin_is_two_per_cent_of_a_success() -> None:
    going = np.array([0.0, 0.2])
    assert objective.stop_propensity(going, np.zeros(2), 5.1) == 0.5
    assert objective.stop_propensity(going, np.zeros(2), 4.9) == 0.0
