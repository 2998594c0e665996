"""Usage against Bayesian linear regression in its function-space form, and the way from usage to dollars.

Statistical checks compare with bounds at which a correct program would fail with the chance `FALSE_ALARM`, had the
seed been drawn afresh; where an approximation is compared with the exact thing, its allowance is stated.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from bandit import cost
from bandit.cost import CostPosterior, UsageSums
from bandit.prior import Spread, WeightPrior
from bandit.rows import Rows
from bandit.session import AttemptRow
from bandit.types import Decision, Objective, Offer, Price, SelectReason, Situation, Usage

FALSE_ALARM = 1e-6
STANDARD_ERRORS = float(stats.norm.isf(FALSE_ALARM / 2))
ARMS, WIDTH = 3, 4
"""Two columns of context and the attempt's two."""


def rows_of(arm: np.ndarray, usage: np.ndarray, attempt: np.ndarray | None = None) -> Rows:
    n = len(arm)
    return Rows(
        session_ids=tuple(f"s{i}" for i in range(n)),
        lengths=np.ones(n, dtype=np.int64),
        x=np.zeros((n, 2)),
        arm=arm.astype(np.int64),
        attempt=np.ones(n, dtype=np.int64) if attempt is None else attempt.astype(np.int64),
        truth=np.full(n, np.nan),
        signal=np.zeros(n, dtype=np.int64),
        usage=usage.astype(float),
        latency=np.full(n, np.nan),
        foretold=np.full(n, np.nan),
        held=np.full(n, np.nan),
    )


def prior_of(mean: float = 0.0) -> WeightPrior:
    spreads = cost.column_spreads_with_attempt([Spread(shared=2.0, own=0.8), Spread(shared=0.4, own=0.2)])
    centre = np.zeros((ARMS, WIDTH))
    centre[:, 0] = mean
    return WeightPrior.build(centre, spreads, np.ones(ARMS), np.eye(ARMS))


def no_sums() -> UsageSums:
    return UsageSums.of(rows_of(np.zeros(0), np.zeros(0)), np.zeros((0, WIDTH)), ARMS)


def simulated(seed: int, n: int) -> tuple[Rows, np.ndarray]:
    """Attempts of all numbers and arms, some free and some of unknown usage, and their contexts."""
    rng = np.random.default_rng(seed)
    arm, attempt = rng.integers(0, ARMS, n), rng.integers(1, 5, n)
    usage = np.exp(rng.normal(0.3 * arm, 0.8))
    usage[rng.random(n) < 0.1] = np.nan
    usage[rng.random(n) < 0.1] = 0.0
    x = cost.with_attempt(np.column_stack([np.ones(n), rng.standard_normal(n)]), attempt)
    return rows_of(arm, usage, attempt), x


def function_space(
    rows: Rows, x: np.ndarray, prior: WeightPrior, noise: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, covariance and residuals by conditioning the joint Gaussian of weights and log usages (Kalman's form)."""
    paid = np.nan_to_num(rows.usage) > 0.0
    design = np.zeros((int(paid.sum()), ARMS * WIDTH))
    for row, (context, arm) in enumerate(zip(x[paid], rows.arm[paid], strict=True)):
        design[row, arm * WIDTH : (arm + 1) * WIDTH] = context
    before = np.linalg.inv(prior.full_precision().reshape(ARMS * WIDTH, -1))
    y = np.log(rows.usage[paid])
    gain = np.linalg.solve(design @ before @ design.T + noise**2 * np.eye(len(y)), design @ before).T
    mean = prior.mean.ravel() + gain @ (y - design @ prior.mean.ravel())
    return mean, before - gain @ design @ before, y - design @ mean


def log_usage(fitted: CostPosterior, x: list[float], attempt: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the arms' log usage at one context."""
    mean, covariance = fitted.log_usage(np.array([x]), attempt, np.array([0]))
    return mean[0], covariance[0]


# --- the regression -----------------------------------------------------------------------------------------------


def test_the_posterior_is_the_closed_form_s() -> None:
    """The noise is estimated twice over: 0.9 at first, then from the residuals under it."""
    (rows, x), prior = simulated(1, 120), prior_of(0.5)
    fitted = cost.fit(rows, x, prior, no_sums())

    paid = np.nan_to_num(rows.usage) > 0.0
    used = [x[paid & (rows.arm == k)] for k in range(ARMS)]

    def shrunk(noise: float) -> float:
        """Less the degrees of freedom that the weights took up: the trace of the hat matrix."""
        _, covariance, residual = function_space(rows, x, prior, noise)
        own = [covariance[k * WIDTH : (k + 1) * WIDTH, k * WIDTH : (k + 1) * WIDTH] for k in range(ARMS)]
        hat = sum(float(np.trace(z @ s @ z.T)) for z, s in zip(used, own, strict=True)) / noise**2
        return float(np.sqrt((10 * 0.9**2 + residual @ residual) / (10 + len(residual) - hat)))

    noise = shrunk(0.9)
    mean, covariance, _ = function_space(rows, x, prior, noise)
    assert fitted.mean.ravel() == pytest.approx(mean, rel=1e-5, abs=1e-7)
    assert fitted.covariance.reshape(ARMS * WIDTH, -1) == pytest.approx(covariance, rel=1e-4, abs=1e-6)
    assert fitted.noise == pytest.approx(shrunk(noise), rel=1e-6)
    score_mean, score_covariance = log_usage(fitted, [1.0, -0.5], attempt=3)
    lift = np.kron(np.eye(ARMS), [1.0, -0.5, 1.0, 1.0])
    assert score_mean == pytest.approx(lift @ mean, rel=1e-5)
    assert score_covariance == pytest.approx(lift @ covariance @ lift.T, rel=1e-4)


def test_rows_and_their_sums_are_worth_the_same() -> None:
    rows, x = simulated(2, 200)
    first = np.arange(200) < 80
    whole = cost.fit(rows, x, prior_of(), no_sums())
    left = rows.select(~first)
    parts = cost.fit(left, x[~first], prior_of(), UsageSums.of(rows.select(first), x[first], ARMS))
    assert parts.mean == pytest.approx(whole.mean, rel=1e-9)
    assert parts.covariance == pytest.approx(whole.covariance, rel=1e-9)
    assert parts.noise == pytest.approx(whole.noise)
    assert parts.paid == pytest.approx(whole.paid)


def test_sums_add_up_and_are_padded_with_the_attempt_s_columns_last() -> None:
    rows, x = simulated(3, 90)
    whole = UsageSums.of(rows, x, ARMS)
    thirds = [UsageSums.of(rows.select(np.arange(90) % 3 == i), x[np.arange(90) % 3 == i], ARMS) for i in range(3)]
    added = thirds[0] + thirds[1] + thirds[2]
    for name in ("square", "cross", "total"):
        assert getattr(added, name) == pytest.approx(getattr(whole, name))
    wider = np.hstack([x[:, :2], np.zeros((90, 3)), x[:, 2:]])
    padded, direct = whole.pad(ARMS + 1, WIDTH + 3), UsageSums.of(rows, wider, ARMS + 1)
    for name in ("square", "cross", "total"):
        assert getattr(padded, name) == pytest.approx(getattr(direct, name))
    assert whole.pad(ARMS, WIDTH) is whole


def test_unknown_usage_teaches_nothing_and_is_not_zero() -> None:
    rows, x = simulated(4, 60)
    known = ~np.isnan(rows.usage)
    with_unknown = UsageSums.of(rows, x, ARMS)
    without = UsageSums.of(rows.select(known), x[known], ARMS)
    assert np.array_equal(with_unknown.total, without.total)
    assert with_unknown.cross == pytest.approx(without.cross)
    a, b = cost.fit(rows, x, prior_of(), no_sums()), cost.fit(rows.select(known), x[known], prior_of(), no_sums())
    assert a.mean == pytest.approx(b.mean)
    assert a.smear == pytest.approx(b.smear)


def test_an_arm_s_rows_teach_of_the_others() -> None:
    """What only arm 0 was seen to use, the pooled prior expects of arm 2 too, held back by the arms' own spread."""
    n = 400
    rows = rows_of(np.zeros(n), np.exp(np.full(n, 3.0)))
    x = cost.with_attempt(np.column_stack([np.ones(n), np.zeros(n)]), np.ones(n, dtype=np.int64))
    mean, covariance = log_usage(cost.fit(rows, x, prior_of(), no_sums()), [1.0, 0.0])
    assert mean[0] == pytest.approx(3.0, abs=0.01)
    assert mean[2] == pytest.approx(3.0 * 4 / 4.64, abs=0.01)
    assert covariance[2, 2] == pytest.approx(4.64 - 16 / 4.64, rel=0.01)


def test_later_attempts_cost_more_by_what_was_seen() -> None:
    rng = np.random.default_rng(5)
    n = 6000
    arm, attempt = rng.integers(0, ARMS, n), rng.integers(1, 5, n)
    usage = np.exp(0.6 * (attempt >= 2) + 0.3 * (attempt >= 3) + rng.normal(0.0, 0.5, n))
    x = cost.with_attempt(np.column_stack([np.ones(n), np.zeros(n)]), attempt)
    fitted = cost.fit(rows_of(arm, usage, attempt), x, prior_of(), no_sums())
    # The standard error of each step is about .5 sqrt(2 / 1,500) = .02.
    assert fitted.later_attempts(1, 5) == pytest.approx([0.0, 0.6, 0.9, 0.9, 0.9], abs=0.02 * STANDARD_ERRORS)
    assert fitted.later_attempts(2, 2) == pytest.approx([0.0, 0.3], abs=0.02 * STANDARD_ERRORS)
    assert fitted.later_attempts(7, 2).tolist() == [0.0, 0.0]


# --- dollars ------------------------------------------------------------------------------------------------------


def log_normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(0.0, 0.9, n)


def two_kinds(rng: np.random.Generator, n: int) -> np.ndarray:
    """One session in ten of another kind: a heavier tail than a log-normal's."""
    return np.where(rng.random(n) < 0.1, rng.normal(0.0, 1.5, n), rng.normal(0.0, 0.6, n))


@pytest.mark.parametrize(
    ("residuals", "true_mean", "allowed"),
    [
        (log_normal, np.exp(0.9**2 / 2), 0.02),
        (two_kinds, 0.9 * np.exp(0.6**2 / 2) + 0.1 * np.exp(1.5**2 / 2), 0.06),
    ],
    ids=["log-normal", "heavier tail"],
)
def test_smearing_gives_expected_dollars(
    residuals: Callable[[np.random.Generator, int], np.ndarray], true_mean: float, allowed: float
) -> None:
    """Within `allowed` (the cap's and the pool's bias) plus `STANDARD_ERRORS` of the mean of the usages."""
    n = 60_000
    rng = np.random.default_rng(6)
    arm = rng.integers(0, ARMS, n)
    usage = np.exp(0.5 * arm + residuals(rng, n))
    x = cost.with_attempt(np.column_stack([np.ones(n), np.zeros(n)]), np.ones(n, dtype=np.int64))
    fitted = cost.fit(rows_of(arm, usage), x, prior_of(), no_sums())
    expected = np.exp(log_usage(fitted, [1.0, 0.0])[0]) * fitted.factor(np.ones(ARMS))
    for k in range(ARMS):
        mine = usage[arm == k]
        error = STANDARD_ERRORS * mine.std() / mine.mean() / np.sqrt(len(mine))
        assert expected[k] == pytest.approx(np.exp(0.5 * k) * true_mean, rel=allowed + error)


def test_expected_dollars_of_few_rows_come_out_right_on_sessions_to_come() -> None:
    """Over 300 pools of 90 attempts, what was expected of the next ones sums to what they cost on average.

    There are a dozen columns, and dear sessions are the more uncertain ones. The means are those of the worlds, so
    chance enters by the pools alone: their mean is held within 4 % of 1 and `STANDARD_ERRORS` of it. It comes to 0.97;
    without the posterior's variance, and with the mean of single ratios over fitted rows as the smear, to 0.84.
    """
    rng = np.random.default_rng(61)
    pools, n, columns = 300, 90, 12
    spreads = [Spread(shared=2.0, own=0.8), *[Spread(shared=0.4, own=0.2)] * columns]
    prior = WeightPrior.build(
        np.zeros((ARMS, 1 + columns + cost.ATTEMPT_COLUMNS)),
        cost.column_spreads_with_attempt(spreads),
        np.ones(ARMS),
        np.eye(ARMS),
    )
    expected, true = np.zeros(pools), np.zeros(pools)
    for pool in range(pools):
        arm, level, slope = rng.integers(0, ARMS, n), rng.normal(0.0, 0.5, ARMS), rng.normal(0.0, 0.3, columns)
        z, z_next = rng.standard_normal((n, columns)), rng.standard_normal((20, columns))
        usage = np.exp(level[arm] + z @ slope + rng.standard_normal(n) * np.where(z @ slope > 0, 1.0, 0.5))
        x = cost.with_attempt(np.hstack([np.ones((n, 1)), z]), np.ones(n, dtype=np.int64))
        fitted = cost.fit(rows_of(arm, usage), x, prior, UsageSums.none(ARMS, 1 + columns + cost.ATTEMPT_COLUMNS))
        mean, covariance = fitted.log_usage(np.hstack([np.ones((20, 1)), z_next]), 1, np.zeros(20, dtype=np.int64))
        log_expected = mean + cost.half_variance(np.diagonal(covariance, axis1=1, axis2=2))
        expected[pool] = (np.exp(log_expected) * fitted.factor(np.ones(ARMS))).sum()
        spread = np.where(z_next @ slope > 0, 1.0, 0.5)
        true[pool] = np.exp(level + (z_next @ slope + spread**2 / 2)[:, None]).sum()
    ratio = expected.sum() / true.sum()
    error = (expected - ratio * true).std() / true.mean() / np.sqrt(pools)
    assert ratio == pytest.approx(1.0, abs=0.04 + STANDARD_ERRORS * error)


def test_one_monster_session_moves_an_arm_s_price_little() -> None:
    rng = np.random.default_rng(7)
    usage = np.exp(rng.normal(0.0, 0.5, 300))
    x = cost.with_attempt(np.column_stack([np.ones(300), np.zeros(300)]), np.ones(300, dtype=np.int64))
    arm = np.arange(300) % ARMS
    calm = cost.fit(rows_of(arm, usage), x, prior_of(), no_sums())
    usage[0] = 1e6
    monster = cost.fit(rows_of(arm, usage), x, prior_of(), no_sums())
    assert monster.smear[0] < 1.6 * calm.smear[0]


def test_without_rows_the_smear_is_the_log_normal_s() -> None:
    fitted = cost.fit(rows_of(np.zeros(0), np.zeros(0)), np.zeros((0, WIDTH)), prior_of(), no_sums())
    assert fitted.smear == pytest.approx(np.exp(fitted.noise**2 / 2))
    assert fitted.noise == pytest.approx(0.9)
    assert fitted.paid.tolist() == [1.0] * ARMS


def test_a_small_sample_s_smear_is_shrunk_to_the_pool_s() -> None:
    rows, x = simulated(8, 3000)
    few = replace(rows, usage=np.where((rows.arm == 2) & (np.arange(3000) > 60), np.nan, rows.usage))
    fitted = cost.fit(few, x, prior_of(), no_sums())
    pooled = fitted.smear[:2].mean()
    assert abs(fitted.smear[2] - pooled) < 0.5 * pooled


def test_expected_dollars_follow_the_price_at_once() -> None:
    rows, x = simulated(9, 100)
    fitted = cost.fit(rows, x, prior_of(), no_sums())
    assert fitted.factor(np.array([3.0, 0.0, 2.0])) == pytest.approx(
        fitted.factor(np.ones(ARMS)) * np.array([3.0, 0.0, 2.0])
    )


def test_arms_that_cost_nothing_are_a_point_mass() -> None:
    """Half of arm 1's attempts are free, all of arm 2's: their expected dollars are as many times smaller."""
    n = 900
    arm = np.arange(n) % ARMS
    usage = np.where((arm == 2) | ((arm == 1) & (np.arange(n) % 2 == 0)), 0.0, 1.0)
    x = cost.with_attempt(np.column_stack([np.ones(n), np.zeros(n)]), np.ones(n, dtype=np.int64))
    fitted = cost.fit(rows_of(arm, usage), x, prior_of(), no_sums())
    assert fitted.paid == pytest.approx([1.0, 1 - 150.05 / 305, 4.95 / 305])
    expected = np.exp(log_usage(fitted, [1.0, 0.0])[0]) * fitted.factor(np.ones(ARMS))
    assert expected[1] / expected[0] == pytest.approx(0.5, abs=0.05)
    assert expected[2] / expected[0] < 0.1


def test_a_price_index_is_the_mean_price_of_a_typical_token() -> None:
    assert cost.price_index(None) == 1.0
    assert cost.price_index(Price(input_usd=2.0, output_usd=10.0, cached_usd=0.5)) == pytest.approx(0.2 + 0.3 + 0.435)
    assert cost.price_index(Price(input_usd=2.0, output_usd=2.0)) == pytest.approx(2.0)
    assert cost.price_index(Price()) == 0.0


def row_of(
    price: Price | None, *, cost_usd: float | None = None, usage: Usage | None = None, reread_tokens: int = 0
) -> AttemptRow:
    situation = Situation(
        router="r",
        seed=1,
        session_id="s",
        attempt=1,
        attempts_left=1,
        features={},
        offers=(Offer(arm="other", price=Price(input_usd=99.0)), Offer(arm="a", price=price)),
        objective=Objective(),
        exploration_floor=0.02,
        draws=8,
        alpha=1.0,
        reread_tokens=reread_tokens,
    )
    decision = Decision(
        decision_id="d",
        situation=situation,
        arm="other",
        propensity=1.0,
        reason=SelectReason.SAMPLED,
        scores=(),
        policy="thompson",
        policy_version="1",
        epoch=0,
        epoch_hash="",
    )
    return AttemptRow(decision=decision, arm="a", alarm=False, success=None, cost_usd=cost_usd, usage=usage)


PRICE = Price(input_usd=2.0, output_usd=10.0, cached_usd=0.5)
TOKENS = Usage(input_tokens=100_000, output_tokens=30_000, cached_tokens=870_000)


def test_tokens_and_the_dollars_they_cost_are_the_same_usage() -> None:
    by_tokens = cost.usage_of(row_of(PRICE, usage=TOKENS))
    dollars = cost.dollars(row_of(PRICE, usage=TOKENS), PRICE)
    assert dollars == pytest.approx(0.2 + 0.3 + 0.435)
    assert cost.usage_of(row_of(PRICE, cost_usd=dollars)) == pytest.approx(by_tokens)
    # A million tokens in typical shares are one million.
    assert by_tokens == pytest.approx(1.0)
    # Reported dollars are nearer to the truth than list prices.
    assert cost.dollars(row_of(PRICE, cost_usd=7.0, usage=TOKENS), PRICE) == 7.0


def test_cached_tokens_without_a_discount_cost_as_input() -> None:
    price = Price(input_usd=2.0, output_usd=10.0)
    assert cost.dollars(row_of(price, usage=TOKENS), price) == pytest.approx(0.2 + 0.3 + 1.74)


@pytest.mark.parametrize(
    ("price", "cost_usd", "usage", "expected"),
    [
        (None, 0.7, None, 0.7),
        (None, 0.0, None, 0.0),
        (None, None, None, float("nan")),
        (PRICE, None, None, float("nan")),
        (PRICE, 0.0, TOKENS, 0.0),
        (Price(), None, TOKENS, 1.0),
        (Price(), 0.0, None, 0.0),
        (Price(), 0.5, None, float("nan")),
    ],
)
def test_usage_of_what_was_reported(
    price: Price | None, cost_usd: float | None, usage: Usage | None, expected: float
) -> None:
    assert cost.usage_of(row_of(price, cost_usd=cost_usd, usage=usage)) == pytest.approx(expected, nan_ok=True)


def test_reading_a_session_again_is_no_part_of_an_attempt_s_usage() -> None:
    """What it added to the dollars, at the price of the arm that served, is taken off again, down to 0 at most."""
    alone = cost.usage_of(row_of(PRICE, cost_usd=0.935))
    assert cost.usage_of(row_of(PRICE, cost_usd=0.935 + 0.4, reread_tokens=200_000)) == pytest.approx(alone)
    more = Usage(input_tokens=300_000, output_tokens=30_000, cached_tokens=870_000)
    assert cost.usage_of(row_of(PRICE, usage=more, reread_tokens=200_000)) == pytest.approx(alone)
    assert cost.usage_of(row_of(PRICE, cost_usd=0.3, reread_tokens=200_000)) == 0.0
    assert cost.usage_of(row_of(None, cost_usd=0.3, reread_tokens=200_000)) == 0.3


def test_seconds_are_regressed_as_usage_is() -> None:
    rows, x = simulated(11, 200)
    in_seconds = replace(rows, usage=np.full(200, np.nan), latency=rows.usage)
    expected, fitted = cost.fit(rows, x, prior_of(), no_sums()), cost.fit_latency(in_seconds, x, prior_of())
    for name, value in vars(fitted).items():
        assert np.array_equal(value, getattr(expected, name)), name


def test_a_posterior_is_made_of_what_it_says() -> None:
    fitted = cost.fit(*simulated(10, 50), prior_of(), no_sums())
    assert isinstance(fitted, CostPosterior)
    assert np.all(np.linalg.eigvalsh(fitted.covariance.reshape(ARMS * WIDTH, -1)) > 0)
    assert fitted.noise > 0
    assert np.all(fitted.smear >= 1.0)
    assert np.all((fitted.paid > 0) & (fitted.paid <= 1))
