"""What an attempt is priced at beside its dollars: the budget, the re-reading of a session, seconds; and the caps."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from bandit import ladder, success
from bandit.ladder import Stakes
from bandit.policy import Distribution
from bandit.posterior import Posterior
from bandit.thompson import Thompson
from bandit.types import Arm, BarKind, Objective, Price
from tests.bandit.posteriors import (
    ARMS,
    POLICY,
    STANDARD_ERRORS,
    beliefs,
    by_hand,
    change,
    replace_price,
    situation,
    taught,
)

SINGLE = Thompson(single=True)


def assert_same(one: Distribution, other: Distribution) -> None:
    assert np.array_equal(one.propensities, other.propensities)
    assert one.stop_propensity == other.stop_propensity
    assert one.bars == other.bars
    taken = np.flatnonzero(one.propensities).tolist()
    assert [one.plan(k) for k in taken] == [other.plan(k) for k in taken]
    assert np.array_equal(beliefs(one).cost_usd, beliefs(other).cost_usd)


def uncertain(seed: int) -> tuple[Posterior, tuple[Arm, ...]]:
    """Four arms of different strength and price, none known for sure."""
    rng = np.random.default_rng(seed)
    state, arms = by_hand(rng.normal(0.5, 1.0, 4).tolist(), 0.5 * rng.standard_normal((4, 4)), sigma=2.0)
    return state, tuple(replace_price(arm, usd) for arm, usd in zip(arms, (1.0, 3.0, 9.0, 0.3), strict=True))


# --- the budget ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [POLICY, SINGLE])
@pytest.mark.parametrize("tried", [(), ("a1",)])
def test_dollars_that_count_twice_are_a_success_worth_half(policy: Thompson, tried: tuple[str, ...]) -> None:
    """V q - 2 c is twice V/2 q - c, to the last bit: in the plan, in single arms and in giving up."""
    for seed in range(5):
        state, arms = uncertain(seed)
        asked: dict[str, Any] = {"arms": arms, "alarmed": tried, "session_id": f"s{seed}"}
        priced = situation(objective=Objective(value_usd=4.0), budget_price=1.0, **asked)
        halved = situation(objective=Objective(value_usd=2.0), **asked)
        assert_same(policy.distribution(state, priced), policy.distribution(state, halved))


@pytest.mark.parametrize(("false_alarm", "detection"), [(0.0, 1.0), (0.1, 0.9)])
def test_a_dearer_dollar_never_raises_what_the_plan_spends(false_alarm: float, detection: float) -> None:
    rng, changed = np.random.default_rng(7), 0
    for _ in range(20):
        p = expit(rng.normal(0.5, 1.5, (4, 1, 1)) + 2.0 * success.NODES[:, None])
        cost_usd = np.exp(rng.normal(-1.0, 1.2, 4))
        belief = np.exp(success.LOG_WEIGHTS)[:, None]
        spending = []
        for budget_price in np.linspace(0.0, 6.0, 25):
            prices = np.tile(cost_usd[:, None] * (1 + budget_price), (3, 1, 1))
            stakes = Stakes(
                success=p,
                price_usd=prices,
                belief=belief,
                value_usd=5.0,
                detection=detection,
                false_alarm=false_alarm,
            )
            plan = ladder.plan(stakes)
            first = int(plan.first[:, 0].argmax())
            spending.append(_spent((first, *plan.ladder(first, 0)), cost_usd, stakes))
        assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(spending))
        changed += spending[-1] < spending[0]
    assert changed > 10


def _spent(path: Sequence[int], cost_usd: np.ndarray, stakes: Stakes) -> float:
    """Expected dollars of going down a path while alarms are raised."""
    reach, spent = stakes.belief[:, 0], 0.0
    for arm in path:
        spent += float(reach.sum()) * float(cost_usd[arm])
        p = stakes.success[arm, :, 0]
        reach = reach * (p * stakes.false_alarm + (1.0 - p) * stakes.detection)
    return spent


# --- reading the session again ------------------------------------------------------------------------------------


CACHING = Price(input_usd=9.0, output_usd=1.0, cached_usd=0.0)
PLAIN = Price(input_usd=0.9, output_usd=1.0, cached_usd=0.81 / 0.87)
"""Their typical session costs the same; to read a session again costs ten times as much with the first."""


def test_reading_the_session_again_costs_its_tokens_at_the_input_price() -> None:
    state, _ = by_hand([1.0, 1.0, 1.0], 1e-3 * np.eye(3))
    arms = (Arm(id="a0", price=CACHING), Arm(id="a1", price=PLAIN), Arm(id="a2"))
    told = [beliefs(POLICY.distribution(state, situation(arms=arms, reread_tokens=t))).cost_usd for t in (0, 50_000)]
    assert told[1] - told[0] == pytest.approx([0.45, 0.045, 0.0], abs=1e-6)


def test_of_two_arms_alike_the_one_that_reads_cheaper_takes_over() -> None:
    state, _ = by_hand([1.0, 1.0], 1e-3 * np.eye(2))
    arms = (Arm(id="a0", price=CACHING), Arm(id="a1", price=PLAIN))
    for policy in (POLICY, SINGLE):
        fresh, moved = (
            policy.distribution(state, situation(arms=arms, reread_tokens=t, attempts_left=1)) for t in (0, 100_000)
        )
        assert 0.2 < fresh.propensities[0] < 0.8
        assert moved.propensities == pytest.approx([0.01, 0.99])


def test_only_the_step_at_hand_pays_for_it() -> None:
    """Where it makes the first step dear, what would follow that step stays the same."""
    state, arms = by_hand([0.0, 3.0, 1.0], 1e-3 * np.eye(3))
    arms = tuple(replace_price(arm, usd) for arm, usd in zip(arms, (0.1, 10.0, 1.0), strict=True))
    asked = situation(arms=arms, objective=Objective(value_usd=20.0), reread_tokens=500_000)
    assert POLICY.distribution(state, asked).plan(0) == ("a2", "a1")


def test_it_can_be_the_reason_to_give_up() -> None:
    state, arms = by_hand([0.0, 1.0], 1e-3 * np.eye(2), dollars=0.2)
    stops = [
        POLICY.distribution(state, situation(arms=arms, alarmed=("a0",), reread_tokens=t)).stop_propensity
        for t in (0, 10_000_000)
    ]
    assert stops == [0.0, 1.0]


def test_the_budget_counts_it_as_well() -> None:
    state, arms = uncertain(3)
    asked: dict[str, Any] = {"arms": arms, "reread_tokens": 40_000}
    priced = situation(objective=Objective(value_usd=4.0), budget_price=1.0, **asked)
    halved = situation(objective=Objective(value_usd=2.0), **asked)
    assert_same(POLICY.distribution(state, priced), POLICY.distribution(state, halved))


def test_the_cap_counts_it_as_well() -> None:
    state, _ = by_hand([1.0, 1.0], 1e-3 * np.eye(2), dollars=0.2)
    arms = (Arm(id="a0", price=CACHING), Arm(id="a1", price=PLAIN))
    fits = POLICY.distribution(state, situation(arms=arms, cost_cap_usd=0.5))
    assert fits.bars == (None, None)
    moved = POLICY.distribution(state, situation(arms=arms, cost_cap_usd=0.5, reread_tokens=50_000))
    assert moved.bars is not None
    assert moved.bars[0] is not None and moved.bars[0].kind is BarKind.COST
    assert moved.bars[1] is None
    assert moved.propensities.tolist() == [0.0, 1.0]


# --- seconds ------------------------------------------------------------------------------------------------------


PRICED = Objective(value_usd=5.0, latency_usd_per_second=0.002)


def timed(n: int, seconds: dict[str, float], objective: Objective = PRICED, prefix: str = "t") -> Posterior:
    """A posterior that learned from attempts of equal success and cost, whose seconds scatter around a mean."""
    rng = np.random.default_rng(5)
    state = POLICY.start(ARMS)
    for i in range(n):
        arm = list(seconds)[i % len(seconds)]
        row = taught(
            f"{prefix}{i}",
            arm,
            success=float(i // 2 % 10 < 7),
            cost_usd=0.3,
            latency_seconds=float(rng.gamma(4.0, seconds[arm] / 4.0)),
            objective=objective,
        )
        state = POLICY.fold(state, ARMS, [change(row)])
    return state


@pytest.fixture(scope="module")
def slow_and_quick() -> Posterior:
    return timed(90, {"a": 600.0, "b": 60.0})


def test_a_slow_arm_is_left_where_seconds_have_a_price(slow_and_quick: Posterior) -> None:
    priced = POLICY.distribution(slow_and_quick, situation(objective=PRICED, attempts_left=1))
    free = POLICY.distribution(slow_and_quick, situation(attempts_left=1))
    assert priced.propensities[0] < 0.05
    assert free.propensities[0] > 0.1
    # Dollars are told as they are.
    assert np.array_equal(beliefs(priced).cost_usd, beliefs(free).cost_usd)


def test_expected_seconds_are_near_the_mean_and_an_arm_never_timed_stands_between(slow_and_quick: Posterior) -> None:
    latency = slow_and_quick.latency
    assert latency is not None
    mean, covariance = latency.log_usage(np.ones((1, 1)), 1, np.zeros(1, dtype=np.int64))
    seconds = np.exp(mean[0]) * latency.factor(np.ones(3))
    # A gamma of shape 4 has a spread of half its mean; 45 attempts an arm, and a smear that is partly the pool's.
    allowed = 0.05 + STANDARD_ERRORS * 0.5 / np.sqrt(45)
    assert seconds[:2] == pytest.approx([600.0, 60.0], rel=allowed)
    assert seconds[1] < seconds[2] < seconds[0]
    assert covariance[0, 2, 2] > 5 * covariance[0, :2, :2].diagonal().max()


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_two_arms_of_equal_success_and_cost_share_by_their_seconds(alpha: float) -> None:
    """Seconds are drawn as well: the log of their ratio is Gaussian, and the quicker draw is taken."""
    draws = 30_000
    state, arms = by_hand([1.0, 1.0], np.zeros((2, 2)))
    covariance = np.zeros((2, 3, 2, 3))
    covariance[:, 0, :, 0] = [[0.9, 0.3], [0.3, 0.5]]
    mean = np.zeros((2, 3))
    mean[:, 0] = [3.0, 3.4]
    state = replace(state, latency=replace(state.cost, mean=mean, covariance=covariance))
    asked = situation(arms=arms, attempts_left=1, exploration_floor=0.0, draws=draws, alpha=alpha, objective=PRICED)
    expected = float(stats.norm.cdf(0.4 / (alpha * np.sqrt(0.9 + 0.5 - 2 * 0.3))))
    p = POLICY.distribution(state, asked).propensities
    assert p[0] == pytest.approx(expected, abs=STANDARD_ERRORS * np.sqrt(expected * (1 - expected) / draws))


def test_a_second_is_worth_so_many_dollars() -> None:
    """Of two arms, one 100 s quicker and .20 dearer, the quick one is taken where a second costs more than .002."""
    state, arms = by_hand([1.0, 1.0], 1e-4 * np.eye(2), dollars=0.2)
    arms = (arms[0], replace_price(arms[1], 2.0))
    seconds = np.zeros((2, 3))
    seconds[:, 0] = np.log([200.0, 100.0])
    state = replace(state, latency=replace(state.cost, mean=seconds))
    for per_second, taken in ((0.0019, 0), (0.0021, 1)):
        asked = situation(arms=arms, objective=Objective(latency_usd_per_second=per_second), attempts_left=1)
        assert POLICY.distribution(state, asked).propensities[taken] == pytest.approx(0.99)


def test_without_a_price_seconds_change_nothing(slow_and_quick: Posterior) -> None:
    asked = situation()
    assert_same(
        POLICY.distribution(slow_and_quick, asked), POLICY.distribution(replace(slow_and_quick, latency=None), asked)
    )
    untimed = timed(30, {"a": 600.0, "b": 60.0}, Objective())
    assert untimed.latency is None
    silent = POLICY.start(ARMS)
    for i in range(30):
        row = taught(f"t{i}", "ab"[i % 2], success=float(i // 2 % 10 < 7), cost_usd=0.3)
        silent = POLICY.fold(silent, ARMS, [change(row)])
    assert_same(POLICY.distribution(untimed, asked), POLICY.distribution(silent, asked))


def test_with_a_price_but_nothing_timed_seconds_change_nothing() -> None:
    state, arms = uncertain(1)
    free, priced = (
        situation(arms=arms, objective=Objective(latency_usd_per_second=per_second)) for per_second in (0.0, 1.0)
    )
    assert_same(POLICY.distribution(state, free), POLICY.distribution(state, priced))


def test_seconds_told_before_they_had_a_price_count_once_they_have() -> None:
    state = timed(40, {"a": 600.0, "b": 60.0}, Objective())
    news = taught("now", "a", cost_usd=0.3, latency_seconds=500.0, objective=PRICED)
    after = POLICY.fold(state, ARMS, [change(news)])
    asked = situation(objective=PRICED, attempts_left=1)
    assert POLICY.distribution(state, asked).propensities[0] > 0.1
    assert POLICY.distribution(after, asked).propensities[0] < 0.05


def test_seconds_survive_the_epoch_file(slow_and_quick: Posterior) -> None:
    blob = POLICY.dump(slow_and_quick)
    loaded = POLICY.load(blob)
    assert POLICY.dump(loaded) == blob
    asked = situation(objective=PRICED)
    assert_same(POLICY.distribution(slow_and_quick, asked), POLICY.distribution(loaded, asked))


# --- all of them --------------------------------------------------------------------------------------------------


def test_priced_together_or_alone_is_the_same_to_the_last_bit(slow_and_quick: Posterior) -> None:
    offers = situation().offers
    relative = Objective(quality_floor=0.9, quality_floor_relative=True, latency_usd_per_second=0.001)
    asked = [
        situation(
            session_id=f"q{i}",
            offers=offers,
            objective=(PRICED, relative)[i % 2],
            budget_price=(0.0, 0.7, 1.9)[i % 3],
            reread_tokens=(0, 0, 30_000, 90_000)[i % 4],
            cost_cap_usd=0.45 if i % 5 == 0 else None,
        )
        for i in range(60)
    ]
    for one, together in zip(asked, POLICY.distributions(slow_and_quick, asked), strict=True):
        assert_same(POLICY.distribution(slow_and_quick, one), together)
