"""The quality floor: the cheapest arm whose predicted success reaches it, else the strongest."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from scipy.special import expit, logit

from bandit import objective, success
from bandit.types import Objective
from tests.bandit.posteriors import POLICY, STANDARD_ERRORS, by_hand, replace_price, situation

FLOORS = st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0])
SHAPE = (4, 25)


def floored(floor: float, relative: bool = False, value_usd: float = 5.0) -> Objective:
    return Objective(quality_floor=floor, quality_floor_relative=relative, value_usd=value_usd)


def by_brute_force(success: Sequence[float], price: Sequence[float], floor: float, relative: bool) -> int:
    least = floor * max(success) if relative else floor
    enough = [k for k, q in enumerate(success) if q >= least]
    return min(enough, key=lambda k: price[k]) if enough else max(range(len(success)), key=lambda k: success[k])


@settings(deadline=None)
@given(
    hnp.arrays(np.float64, SHAPE, elements=st.sampled_from([0.0, 0.2, 0.45, 0.5, 0.9, 1.0])),
    hnp.arrays(np.float64, SHAPE, elements=st.integers(0, 4)),
    FLOORS,
    st.booleans(),
)
def test_the_rule_is_what_it_says(success: np.ndarray, price: np.ndarray, floor: float, relative: bool) -> None:
    rule = objective.floor_rule(floored(floor, relative))
    assert rule is not None
    taken = rule(success, price)
    assert taken.tolist() == [
        by_brute_force(q, c, floor, relative) for q, c in zip(success.T.tolist(), price.T.tolist(), strict=True)
    ]
    if floor == 0.0:
        assert np.array_equal(price[taken, np.arange(SHAPE[1])], price.min(axis=0))
    if floor == 1.0:
        assert np.array_equal(success[taken, np.arange(SHAPE[1])], success.max(axis=0))


@settings(deadline=None)
@given(
    hnp.arrays(np.float64, SHAPE, elements=st.floats(0, 1)),
    hnp.arrays(np.float64, SHAPE, elements=st.floats(0, 5)),
    st.booleans(),
)
def test_a_higher_floor_never_takes_a_cheaper_arm(success: np.ndarray, price: np.ndarray, relative: bool) -> None:
    before = np.zeros(SHAPE[1])
    for floor in np.linspace(0.0, 1.0, 11):
        rule = objective.floor_rule(floored(float(floor), relative))
        assert rule is not None
        paid = price[rule(success, price), np.arange(SHAPE[1])]
        assert np.all(paid >= before)
        before = paid


def test_without_a_floor_there_is_no_rule() -> None:
    assert objective.floor_rule(Objective(quality_floor_relative=True)) is None


KNOWN = by_hand([0.0, 3.0, 1.0], 1e-3 * np.eye(3), sigma=1.5)
ARMS = tuple(replace_price(arm, usd) for arm, usd in zip(KNOWN[1], (0.1, 10.0, 1.0), strict=True))
"""Cheap and weak, dear and strong, and one between."""
NODES, WEIGHTS = success.NODES, np.exp(success.LOG_WEIGHTS)


@pytest.mark.parametrize(
    ("floor", "relative", "taken"),
    [
        (0.0, False, 0),
        (0.6, False, 2),
        (0.8, False, 1),
        (1.0, False, 1),
        (0.0, True, 0),
        (0.7, True, 2),
        (1.0, True, 1),
    ],
)
def test_the_arm_of_the_rule_is_taken(floor: float, relative: bool, taken: int) -> None:
    """Their successes are .5, .90 and .67; V plays no part."""
    for value_usd in (0.1, 100.0):
        asked = situation(arms=ARMS, objective=floored(floor, relative, value_usd))
        assert POLICY.distribution(KNOWN[0], asked).propensities[taken] == pytest.approx(1 - 0.02 * 2 / 3)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_the_cheap_arm_s_share_is_the_chance_that_it_reaches_the_floor(alpha: float) -> None:
    """P(q >= tau) = Phi((mean - logit tau) / (alpha sd)): the rule is applied draw by draw."""
    draws = 30_000
    state, arms = by_hand([0.4, 3.0], np.diag([0.7, 0.2]))
    arms = (arms[0], replace_price(arms[1], 10.0))
    asked = situation(arms=arms, exploration_floor=0.0, draws=draws, alpha=alpha, objective=floored(0.7))
    expected = float(stats.norm.cdf((0.4 - logit(0.7)) / (alpha * 0.7)))
    p = POLICY.distribution(state, asked).propensities
    assert p[0] == pytest.approx(expected, abs=STANDARD_ERRORS * np.sqrt(expected * (1 - expected) / draws))


def test_a_failure_counts_against_the_others() -> None:
    """The middle arm reaches .45 at first; once the strong one has failed none does, and it is the strongest left."""
    state, _ = KNOWN
    assert POLICY.distribution(state, situation(arms=ARMS, objective=floored(0.6))).propensities[2] > 0.98
    after = situation(arms=ARMS, alarmed=("a1",), objective=floored(0.45))
    belief = WEIGHTS * expit(-3.0 - 1.5 * NODES)
    now = [float(belief @ expit(mean + 1.5 * NODES) / belief.sum()) for mean in (0.0, 1.0)]
    assert now[0] < now[1] < 0.45
    assert POLICY.distribution(state, after).propensities[2] == pytest.approx(0.99)


def expected_ladder(first: int, floor: float, value_usd: float) -> tuple[str, ...]:
    """The rule at each step under the belief after the failures so far, while the step is worth its price."""
    means, prices, belief = (0.0, 3.0, 1.0), (0.02, 2.0, 0.2), WEIGHTS.copy()
    path = [first]
    while len(path) < 3:
        belief = belief * expit(-means[path[-1]] - 1.5 * NODES)
        left = [k for k in range(3) if k not in path]
        q = [float(belief @ expit(means[k] + 1.5 * NODES) / belief.sum()) for k in left]
        taken = by_brute_force(q, [prices[k] for k in left], floor, False)
        if value_usd * q[taken] <= prices[left[taken]]:
            break
        path.append(left[taken])
    return tuple(f"a{k}" for k in path[1:])


@pytest.mark.parametrize("floor", [0.0, 0.2, 0.35, 0.5, 0.9])
@pytest.mark.parametrize("value_usd", [3.9, 50.0])
def test_the_plan_follows_the_rule(floor: float, value_usd: float) -> None:
    distribution = POLICY.distribution(KNOWN[0], situation(arms=ARMS, objective=floored(floor, value_usd=value_usd)))
    for first in range(3):
        assert distribution.plan(first) == expected_ladder(first, floor, value_usd)


def test_whether_to_go_on_is_a_matter_of_value() -> None:
    """The step in question is the one that the floor asks for, not the one of greatest worth."""

    def stop(floor: float | None, value_usd: float) -> float:
        goal = Objective(value_usd=value_usd) if floor is None else floored(floor, value_usd=value_usd)
        return POLICY.distribution(KNOWN[0], situation(arms=ARMS, alarmed=("a0",), objective=goal)).stop_propensity

    assert stop(None, 2.0) == 0.0
    assert stop(0.9, 2.0) == 1.0
    assert stop(0.9, 20.0) == 0.0
