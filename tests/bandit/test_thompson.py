"""The policy as a whole: what a decision is made of, what is learned, and what is forgotten.

Posteriors are built by hand where a closed form is compared with, and by folding simulated sessions elsewhere.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from bandit import cost, posterior, success
from bandit.errors import NoEligibleArm
from bandit.posterior import Posterior
from bandit.session import SessionChange
from bandit.thompson import Thompson
from bandit.types import (
    Arm,
    BarKind,
    Features,
    Figure,
    Objective,
    Usage,
)
from tests.bandit.posteriors import (
    ARMS,
    ONE_DOLLAR,
    POLICY,
    STANDARD_ERRORS,
    beliefs,
    by_hand,
    change,
    replace_price,
    situation,
    taught,
)

RATES = {"a": 0.4, "b": 0.6, "c": 0.85}


def single_attempts(seed: int, n: int, prefix: str = "s", cost_usd: float = 0.3) -> list[SessionChange]:
    """Sessions of one attempt each, the arms in turn, resolved at `RATES`."""
    rng = np.random.default_rng(seed)
    return [
        change(taught(f"{prefix}{i}", arm, success=float(rng.random() < RATES[arm]), cost_usd=cost_usd))
        for i, arm in zip(range(n), "abc" * n, strict=False)
    ]


def climbing(seed: int, n: int, sigma: float = 2.0) -> list[SessionChange]:
    """Sessions that climb a, b, c while attempts fail, with a category and a number as features."""
    rng = np.random.default_rng(seed)
    changes = []
    for i in range(n):
        kind, size = ("bug", "feature")[int(rng.integers(2))], float(rng.lognormal(3, 1))
        difficulty, rows = rng.standard_normal(), []
        for attempt, arm in enumerate("abc", 1):
            logit = {"a": -0.5, "b": 0.8, "c": 2.0}[arm] + (0.7 if kind == "bug" else 0.0)
            good = rng.random() < expit(logit + sigma * difficulty)
            rows.append(
                taught(
                    f"s{i}",
                    arm,
                    features={"category": kind, "size": size},
                    attempt=attempt,
                    success=float(good) if good or attempt == 3 else None,
                    alarm=not good,
                    cost_usd=float(np.exp(rng.normal(0.5 * attempt - 1.5, 0.6))),
                )
            )
            if good:
                break
        changes.append(change(*rows))
    return changes


@pytest.fixture(scope="module")
def learned() -> Posterior:
    state = POLICY.start(ARMS)
    changes = climbing(1, 300)
    for i in range(0, 300, 50):
        state = POLICY.fold(state, ARMS, changes[i : i + 50])
    return state


ASKED: Features = {"category": "bug", "size": 30.0}


# --- one decision -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("session", ["s", "t", "u"])
def test_two_arms_of_equal_cost_share_by_phi(alpha: float, session: str) -> None:
    """p = Phi(delta / (alpha sqrt(s1^2 + s2^2 - 2 s12))), within the binomial error of the draws."""
    root, draws = np.array([[0.8, 0.0], [0.5, 1.1]]), 30_000
    state, arms = by_hand([0.9, 0.4], root)
    asked = situation(arms=arms, session_id=session, attempts_left=1, exploration_floor=0.0, draws=draws, alpha=alpha)
    p = POLICY.distribution(state, asked).propensities
    covariance = root @ root.T
    spread = alpha * np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    expected = float(stats.norm.cdf(0.5 / spread))
    assert p.sum() == pytest.approx(1.0)
    assert p[0] == pytest.approx(expected, abs=STANDARD_ERRORS * np.sqrt(expected * (1 - expected) / draws))


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_two_arms_of_equal_success_share_by_their_costs(alpha: float) -> None:
    """Costs are drawn as well: the log of their ratio is Gaussian, and the cheaper draw is taken."""
    draws = 30_000
    state, arms = by_hand([1.0, 1.0], np.zeros((2, 2)))
    covariance = np.zeros((2, 3, 2, 3))
    covariance[:, 0, :, 0] = [[0.9, 0.3], [0.3, 0.5]]
    mean = state.cost.mean.copy()
    mean[1, 0] += 0.4
    state = replace(state, cost=replace(state.cost, mean=mean, covariance=covariance))
    asked = situation(arms=arms, attempts_left=1, exploration_floor=0.0, draws=draws, alpha=alpha)
    expected = float(stats.norm.cdf(0.4 / (alpha * np.sqrt(0.9 + 0.5 - 2 * 0.3))))
    p = POLICY.distribution(state, asked).propensities
    assert p[0] == pytest.approx(expected, abs=STANDARD_ERRORS * np.sqrt(expected * (1 - expected) / draws))


def test_a_decision_is_a_function_of_the_posterior_and_the_situation(learned: Posterior) -> None:
    a, b = (POLICY.distribution(learned, situation(ASKED)) for _ in range(2))
    assert np.array_equal(a.propensities, b.propensities)
    other = POLICY.distribution(learned, situation(ASKED, session_id="another"))
    assert not np.array_equal(a.propensities, other.propensities)
    reloaded = POLICY.distribution(POLICY.load(POLICY.dump(learned)), situation(ASKED))
    assert np.array_equal(a.propensities, reloaded.propensities)
    for name in ("success_mean", "success_low", "success_high", "cost_usd"):
        assert np.array_equal(getattr(beliefs(a), name), getattr(beliefs(reloaded), name))


@pytest.mark.parametrize("floor", [0.0, 0.02, 0.3, 1.0])
def test_the_floor_is_exact(learned: Posterior, floor: float) -> None:
    draws = 64
    p = POLICY.distribution(learned, situation(ASKED, exploration_floor=floor, draws=draws)).propensities
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    if floor < 1:
        counts = (p - floor / 3) / (1 - floor) * draws
        assert counts == pytest.approx(np.round(counts), abs=1e-9)
    assert p.min() >= floor / 3 - 1e-12


def test_barred_arms_have_no_share_of_the_floor(learned: Posterior) -> None:
    p = POLICY.distribution(learned, situation(ASKED, alarmed=("b",))).propensities
    assert p[1] == 0.0
    assert p[[0, 2]].min() >= 0.01 - 1e-12


def test_beliefs_are_ordered_and_probabilities(learned: Posterior) -> None:
    rng = np.random.default_rng(2)
    for i in range(100):
        features: Features = {"category": ("bug", "feature", "new")[i % 3], "size": float(rng.lognormal(3, 3))}
        b = beliefs(POLICY.distribution(learned, situation(features, session_id=f"q{i}", draws=64)))
        assert np.all((b.success_low > 0) & (b.success_low <= b.success_mean))
        assert np.all((b.success_mean <= b.success_high) & (b.success_high < 1))
        assert np.all((b.cost_usd > 0) & np.isfinite(b.cost_usd))


def test_beliefs_are_ordered_after_an_alarm_of_a_little_known_arm() -> None:
    """The weaker the alarmed arm is thought to be, the less its failure says of the others."""
    state, arms = by_hand([0.5, 0.0], np.diag([0.1, 2.0]), sigma=2.0, false_alarm=0.03)
    b = beliefs(POLICY.distribution(state, situation(arms=arms, alarmed=("a1",))))
    assert np.all(b.success_low <= b.success_high)


def test_the_interval_is_the_gaussian_s_through_the_average_over_theta() -> None:
    state, arms = by_hand([0.5, -1.0], np.diag([0.4, 1.3]), sigma=1.2)
    b = beliefs(POLICY.distribution(state, situation(arms=arms)))
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    for k, (mean, sd) in enumerate([(0.5, 0.4), (-1.0, 1.3)]):
        for shift, told in ((-1.6449, b.success_low[k]), (1.6449, b.success_high[k])):
            expected = expit(mean + shift * sd + 1.2 * nodes) @ weights / weights.sum()
            assert told == pytest.approx(expected, abs=1e-3)
        at = mean + sd * nodes[:, None] + 1.2 * nodes
        assert b.success_mean[k] == pytest.approx(weights @ expit(at) @ weights / weights.sum() ** 2, abs=1e-3)


def test_decided_together_or_alone_is_the_same_to_the_last_bit(learned: Posterior) -> None:
    offers = situation().offers
    asked = [
        situation(
            {"category": ("bug", "feature", "new")[i % 3], "size": 2.0**i},
            session_id=f"q{i}",
            offers=offers,
            cost_cap_usd=1.0 if i % 5 == 0 else None,
            alpha=1.0 if i % 7 == 0 else 0.6,
        )
        for i in range(40)
    ]
    for one, together in zip(asked, POLICY.distributions(learned, asked), strict=True):
        alone = POLICY.distribution(learned, one)
        assert np.array_equal(alone.propensities, together.propensities)
        assert alone.bars == together.bars
        takeable = np.flatnonzero(alone.propensities).tolist()
        assert [alone.plan(k) for k in takeable] == [together.plan(k) for k in takeable]
        for name in ("success_mean", "success_low", "success_high", "cost_usd"):
            assert np.array_equal(getattr(beliefs(alone), name), getattr(beliefs(together), name))


def test_a_category_that_was_never_seen_widens_the_intervals(learned: Posterior) -> None:
    known = beliefs(POLICY.distribution(learned, situation(ASKED)))
    novel = beliefs(POLICY.distribution(learned, situation({**ASKED, "category": "migration"})))
    assert np.all(novel.success_high - novel.success_low > known.success_high - known.success_low)


def test_an_alarm_lowers_what_is_expected_of_the_others(learned: Posterior) -> None:
    at_first = beliefs(POLICY.distribution(learned, situation(ASKED, attempts_left=3)))
    once = beliefs(POLICY.distribution(learned, situation(ASKED, alarmed=("a",))))
    twice = beliefs(POLICY.distribution(learned, situation(ASKED, alarmed=("a", "b"))))
    assert once.success_mean[1] < at_first.success_mean[1] - 0.05
    assert once.success_mean[2] < at_first.success_mean[2] - 0.05
    assert twice.success_mean[2] < once.success_mean[2] - 0.02


def test_the_failure_of_a_strong_arm_says_more_than_that_of_a_weak_one() -> None:
    state, arms = by_hand([-2.0, 2.0, 0.5], 1e-3 * np.eye(3), sigma=2.0)
    weak = beliefs(POLICY.distribution(state, situation(arms=arms, alarmed=("a0",)))).success_mean[2]
    strong = beliefs(POLICY.distribution(state, situation(arms=arms, alarmed=("a1",)))).success_mean[2]
    nodes, weights = success.NODES, np.exp(success.LOG_WEIGHTS)
    for told, logit in ((weak, -2.0), (strong, 2.0)):
        belief = weights * expit(-logit - 2.0 * nodes)
        assert told == pytest.approx(belief @ expit(0.5 + 2.0 * nodes) / belief.sum(), abs=1e-3)
    assert strong < weak


def test_an_arm_put_since_the_epoch_stands_at_the_others_mean_with_more_doubt(learned: Posterior) -> None:
    arms = (*ARMS, Arm(id="new", price=ONE_DOLLAR))
    distribution = POLICY.distribution(learned, situation(ASKED, arms))
    b = beliefs(distribution)
    assert b.success_mean[:3].min() < b.success_mean[3] < b.success_mean[:3].max()
    assert b.success_high[3] - b.success_low[3] > (b.success_high - b.success_low)[:3].max()
    assert distribution.propensities[3] > 0.02 / 4
    assert b.cost_usd[:3].min() < b.cost_usd[3] < b.cost_usd[:3].max()


def test_a_price_reroutes_without_relearning() -> None:
    """Of two arms alike the one that becomes ten times as dear is left; its expected dollars are ten times as many."""
    state, arms = by_hand([1.0, 1.0], 0.1 * np.eye(2))
    dear = (replace_price(arms[0], 10.0), arms[1])
    same = POLICY.distribution(state, situation(arms=arms, attempts_left=1))
    rerouted = POLICY.distribution(state, situation(arms=dear, attempts_left=1))
    assert beliefs(rerouted).cost_usd == pytest.approx(beliefs(same).cost_usd * np.array([10.0, 1.0]))
    assert 0.3 < same.propensities[0] < 0.7
    assert rerouted.propensities[0] == pytest.approx(0.01)


def test_a_free_arm_costs_nothing_and_is_taken_among_equals() -> None:
    state, arms = by_hand([1.0, 1.0], 0.1 * np.eye(2), dollars=2.0)
    free = (arms[0], replace_price(arms[1], 0.0))
    distribution = POLICY.distribution(state, situation(arms=free, attempts_left=1))
    assert beliefs(distribution).cost_usd == pytest.approx([2.0, 0.0])
    assert distribution.propensities == pytest.approx([0.01, 0.99])


def test_the_cap_bars_what_is_expected_to_cost_more(learned: Posterior) -> None:
    costs = beliefs(POLICY.distribution(learned, situation(ASKED))).cost_usd
    order = np.argsort(costs)
    cap = float(costs[order[1]])
    capped = POLICY.distribution(learned, situation(ASKED, cost_cap_usd=cap))
    assert capped.bars is not None
    assert [bar is None for bar in capped.bars] == [bool(c <= cap) for c in costs]
    barred = capped.bars[order[2]]
    assert barred is not None
    assert barred.kind is BarKind.COST
    assert capped.propensities[order[2]] == 0.0
    with pytest.raises(NoEligibleArm, match=r"above the cap of \$1e-09"):
        POLICY.distribution(learned, situation(ASKED, cost_cap_usd=1e-9))


def test_going_on_or_giving_up_follows_the_value(learned: Posterior) -> None:
    def stop(value_usd: float, **changes: Any) -> float:
        asked = situation(ASKED, alarmed=("a",), objective=Objective(value_usd=value_usd), **changes)
        return POLICY.distribution(learned, asked).stop_propensity

    assert stop(0.01) == 1.0
    assert stop(1000.0) == 0.0
    assert stop(0.01, may_stop=False) == 0.0
    # It turns from one to the other once, and nearly all values are decided with certainty.
    by_value = [stop(float(v)) for v in np.geomspace(0.05, 50, 60)]
    certain = [p for p in by_value if p in (0.0, 1.0)]
    assert certain == sorted(certain, reverse=True)
    assert len(certain) > 50


def test_a_probable_false_alarm_is_a_reason_to_stop() -> None:
    """An alarm that good attempts raise as often as bad ones says nothing: the work is probably done."""
    root = 1e-3 * np.eye(2)
    trusted, arms = by_hand([2.0, 2.0], root, false_alarm=0.001)
    asked = situation(arms=arms, alarmed=("a0",), objective=Objective(value_usd=1.0))
    doubted, _ = by_hand([2.0, 2.0], root, false_alarm=0.9)
    assert POLICY.distribution(trusted, asked).stop_propensity == 0.0
    assert POLICY.distribution(doubted, asked).stop_propensity == 1.0


def test_the_plan_names_where_the_session_would_go() -> None:
    """Cheap and weak, then dear and strong; the order of the offers does not matter, barred arms are not named."""
    state, arms = by_hand([0.0, 3.0, 1.0], 1e-3 * np.eye(3))
    priced = (replace_price(arms[0], 0.1), replace_price(arms[1], 10.0), replace_price(arms[2], 1.0))
    distribution = POLICY.distribution(state, situation(arms=priced, objective=Objective(value_usd=20.0)))
    assert distribution.plan(0) == ("a2", "a1")
    assert distribution.plan(2)[0] == "a0"
    backwards = POLICY.distribution(state, situation(arms=priced[::-1], objective=Objective(value_usd=20.0)))
    assert backwards.plan(2) == ("a2", "a1")
    tried = POLICY.distribution(state, situation(arms=priced, alarmed=("a0",), objective=Objective(value_usd=20.0)))
    assert tried.plan(2) == ("a1",)


def test_a_single_attempt_is_valued_for_itself() -> None:
    """The weak arm is worth taking first only where its failures may be escalated."""
    state, arms = by_hand([0.0, 3.0], 1e-3 * np.eye(2))
    priced = (replace_price(arms[0], 0.1), replace_price(arms[1], 5.0))
    asked = situation(arms=priced, objective=Objective(value_usd=5.0))
    assert POLICY.distribution(state, asked).propensities[0] == pytest.approx(0.99)
    single = Thompson(single=True)
    assert not single.climbs
    assert single.distribution(state, asked).propensities[1] == pytest.approx(0.99)
    assert single.distribution(state, asked).plan(1) == ()


@pytest.mark.parametrize("n_arms", [1, 2, 30])
def test_any_number_of_arms(n_arms: int) -> None:
    arms = tuple(Arm(id=f"a{k}", price=ONE_DOLLAR) for k in range(n_arms))
    state = POLICY.start(arms)
    p = POLICY.distribution(state, situation({"x": 1.0}, arms)).propensities
    assert p.shape == (n_arms,)
    assert p.sum() == pytest.approx(1.0)
    assert p.min() >= 0.02 / n_arms - 1e-12


def test_a_router_may_start_without_arms_and_get_them_later() -> None:
    state = POLICY.fold(POLICY.start(()), ARMS, single_attempts(3, 30))
    assert POLICY.distribution(state, situation()).propensities.shape == (3,)


# --- priors -------------------------------------------------------------------------------------------------------


def test_a_figure_is_where_an_arm_starts() -> None:
    """Published rates come back within .06: what a wide prior averages is nearer to one half."""
    arms = (
        Arm(id="a", figures=(Figure(success_rate=0.3),)),
        Arm(id="b", figures=(Figure(success_rate=0.85), Figure(category="bug", success_rate=0.5))),
    )
    state = POLICY.fold(POLICY.start(arms), arms, [change(taught("s", "a", features={"category": "bug"}, arms=arms))])
    assert beliefs(POLICY.distribution(state, situation(arms=arms))).success_mean == pytest.approx(
        [0.3, 0.85], abs=0.06
    )
    state = POLICY.fold(state, arms, [change(taught("t", "a", features={"category": "bug"}, cost_usd=1.0, arms=arms))])
    asked = situation({"category": "bug"}, arms)
    assert beliefs(POLICY.distribution(state, asked)).success_mean[1] == pytest.approx(0.5, abs=0.06)


def test_a_cost_figure_is_what_an_arm_is_expected_to_cost() -> None:
    arms = (Arm(id="a", price=ONE_DOLLAR, figures=(Figure(success_rate=0.5, cost_usd=0.7),)),)
    told = beliefs(POLICY.distribution(POLICY.start(arms), situation(arms=arms))).cost_usd
    assert told == pytest.approx([0.7], rel=0.05)


def test_an_arm_without_figures_starts_at_the_mean_of_those_with_figures() -> None:
    arms = (*(Arm(id=name, figures=(Figure(success_rate=0.85),)) for name in "abc"), Arm(id="new"))
    told = beliefs(POLICY.distribution(POLICY.start(arms), situation(arms=arms, alpha=0.01))).success_mean
    assert told[3] == pytest.approx(told[0], abs=0.1)


def test_a_new_arm_starts_near_the_mature_ones(learned: Posterior) -> None:
    arms = (*ARMS, Arm(id="new", price=ONE_DOLLAR))
    state = POLICY.fold(learned, arms, [])
    b = beliefs(POLICY.distribution(state, situation(ASKED, arms)))
    assert b.success_mean[:3].min() < b.success_mean[3] < b.success_mean[:3].max()
    assert b.success_high[3] - b.success_low[3] > (b.success_high - b.success_low)[:3].max()


# --- folding ------------------------------------------------------------------------------------------------------


def test_folding_leaves_the_old_posterior_as_it_was(learned: Posterior) -> None:
    before = POLICY.dump(learned)
    loaded = POLICY.load(before)
    POLICY.fold(learned, ARMS, single_attempts(4, 20, "new"))
    assert POLICY.dump(learned) == before
    assert POLICY.dump(loaded) == before
    # Read-only arrays, as they come from a snapshot, are as good as any.
    a, b = (POLICY.dump(POLICY.fold(state, ARMS, single_attempts(4, 20, "new"))) for state in (learned, loaded))
    assert a == b


def test_rates_are_learned() -> None:
    """Two hundred attempts an arm: the posterior mean is within STANDARD_ERRORS of the rate, and so is its interval."""
    state = POLICY.start(ARMS)
    for i in range(6):
        state = POLICY.fold(state, ARMS, single_attempts(10 + i, 100, f"{i}-"))
    b = beliefs(POLICY.distribution(state, situation()))
    rates = np.array(list(RATES.values()))
    assert np.all(np.abs(b.success_mean - rates) < STANDARD_ERRORS * np.sqrt(rates * (1 - rates) / 200))
    assert np.all(b.success_high - b.success_low < 0.2)
    assert b.cost_usd == pytest.approx([0.3] * 3, rel=0.1)


def predicted(state: Posterior) -> np.ndarray:
    asked: tuple[Features, ...] = ({}, ASKED, {"category": "feature", "size": 3.0})
    return np.array([beliefs(POLICY.distribution(state, situation(f))).success_mean for f in asked])


def folded(changes: Sequence[SessionChange], block: int = 40) -> Posterior:
    state = POLICY.start(ARMS)
    for i in range(0, len(changes), block):
        state = POLICY.fold(state, ARMS, changes[i : i + block])
    return state


def test_summarised_sessions_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a window of 160 sessions for 800, predictions stay within .05 of the exact fit's, and so do costs by 3 %."""
    changes = climbing(5, 800)
    exact = folded(changes)
    monkeypatch.setattr(posterior, "WINDOW_SESSIONS", 160)
    windowed = folded(changes)
    assert len(windowed.rows.lengths) <= 160
    assert predicted(windowed) == pytest.approx(predicted(exact), abs=0.05)
    asked = situation(ASKED)
    assert beliefs(POLICY.distribution(windowed, asked)).cost_usd == pytest.approx(
        beliefs(POLICY.distribution(exact, asked)).cost_usd, rel=0.1
    )
    sd = np.sqrt(np.einsum("kdkd->kd", windowed.success.covariance))
    assert sd == pytest.approx(np.sqrt(np.einsum("kdkd->kd", exact.success.covariance)), rel=0.25)


def test_late_costs_correct_the_sums_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every session's cost is corrected after it has left the window: the regression is that of the corrected rows."""
    monkeypatch.setattr(posterior, "WINDOW_SESSIONS", 40)
    told = [taught(f"s{i}", "abc"[i % 3], success=1.0, cost_usd=0.1 + i % 7) for i in range(60)]
    corrected = [taught(f"s{i}", "abc"[i % 3], success=1.0, cost_usd=0.2 + i % 5) for i in range(60)]
    filler = single_attempts(6, 200, "later")
    changes = [change(row) for row in told]
    state = folded([*changes, *filler], 20)
    assert not {f"s{i}" for i in range(60)} & set(state.rows.session_ids)
    state = POLICY.fold(state, ARMS, [change(b, before=(a,)) for a, b in zip(told, corrected, strict=True)])
    direct = folded([*(change(row) for row in corrected), *filler], 20)
    assert state.cost.mean == pytest.approx(direct.cost.mean, rel=1e-6, abs=1e-9)
    assert state.cost.noise == pytest.approx(direct.cost.noise, rel=1e-6)


def test_a_correction_after_the_window_moves_success_the_right_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posterior, "WINDOW_SESSIONS", 40)
    told = [taught(f"s{i}", "a", success=1.0, cost_usd=0.1) for i in range(40)]
    state = folded([*(change(row) for row in told), *single_attempts(7, 200, "later")], 20)
    corrected = [change(taught(f"s{i}", "a", success=0.0, cost_usd=0.1), before=(told[i],)) for i in range(20)]
    after = POLICY.fold(state, ARMS, corrected)
    before, now = (beliefs(POLICY.distribution(s, situation())).success_mean for s in (state, after))
    assert now[0] < before[0] - 0.05
    assert now[0] > 0.2
    back = [change(*c.before, before=c.after) for c in corrected]
    again = POLICY.fold(after, ARMS, back)
    assert beliefs(POLICY.distribution(again, situation())).success_mean == pytest.approx(before, abs=0.1)


def test_rewards_that_come_after_the_window_teach_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs are told at once, the truth two windows later: predictions are still near the rates."""
    monkeypatch.setattr(posterior, "WINDOW_SESSIONS", 100)
    blocks = [single_attempts(20 + b, 30, f"{b}-") for b in range(24)]
    state = POLICY.start(ARMS)
    for b, block in enumerate(blocks):
        changes = [change(taught(c.session_id, c.after[0].arm, cost_usd=0.3)) for c in block]
        if b >= 8:
            changes += [
                change(*c.after, before=(taught(c.session_id, c.after[0].arm, cost_usd=0.3),)) for c in blocks[b - 8]
            ]
        state = POLICY.fold(state, ARMS, changes)
    told = beliefs(POLICY.distribution(state, situation())).success_mean
    assert told == pytest.approx(list(RATES.values()), abs=0.2)


@pytest.mark.parametrize("grown", ["column", "arm"])
def test_a_column_or_an_arm_may_come_as_sessions_leave_the_window(grown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posterior, "WINDOW_SESSIONS", 40)
    state = folded(single_attempts(8, 40), 20)
    features: Features = {"category": "bug"} if grown == "column" else {}
    arms = (*ARMS, Arm(id="new")) if grown == "arm" else ARMS
    after = POLICY.fold(state, arms, [change(taught("n", "a", features=features, success=1.0))])
    assert len(after.rows.lengths) == 31
    assert after.success.mean.shape == (len(arms), 2 if grown == "column" else 1)


def test_many_sessions_folded_at_once_are_as_good_as_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that takes over is folded over the whole log at once: its window must be kept, its summary be right."""
    changes = climbing(8, 800)
    exact = folded(changes, 800)
    monkeypatch.setattr(posterior, "WINDOW_SESSIONS", 160)
    at_once = folded(changes, 800)
    assert predicted(at_once) == pytest.approx(predicted(exact), abs=0.05)
    assert len(at_once.rows.lengths) <= 160


def test_a_number_that_appears_late_is_scaled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its asinh lies between 9 and 14: unscaled, every value would be held at 6 and say nothing."""
    monkeypatch.setattr(posterior, "WINDOW_SESSIONS", 40)
    state = folded(single_attempts(9, 100), 20)
    assert state.old_usage.total.any()
    numbers = np.random.default_rng(10).lognormal(11, 1, 30).tolist()
    news = [change(taught(f"n{i}", "a", features={"bytes": x}, success=1.0)) for i, x in enumerate(numbers)]
    state = POLICY.fold(state, ARMS, news)
    x = state.scaling.apply(state.rows.x)[:, state.encoder.index["n:bytes"]]
    assert len(set(x[x != 0].tolist())) > 20


def test_features_may_appear_and_vanish() -> None:
    """A category, a text and an embedding that come later leave what was learned without them nearly as it was."""
    state = folded(single_attempts(11, 300))
    before = beliefs(POLICY.distribution(state, situation())).success_mean
    rows: list[Features] = [{"category": "bug"}, {"vector": (0.1, 0.2)}, {"size": 3.0}]
    news = [change(taught(f"f{i}", "abc"[i % 3], features=f, success=1.0)) for i, f in enumerate(rows)]
    after = beliefs(POLICY.distribution(POLICY.fold(state, ARMS, news), situation())).success_mean
    assert after == pytest.approx(before, abs=0.05)


def test_rows_of_unknown_arms_teach_nothing() -> None:
    state = folded(single_attempts(12, 30))
    again = POLICY.fold(state, ARMS, [change(taught("x", "stranger", success=1.0))])
    assert again.rows.session_ids == state.rows.session_ids


def test_tokens_teach_what_their_dollars_would() -> None:
    def state(**told: Any) -> Posterior:
        return folded([change(taught(f"s{i}", "a", success=1.0, **told)) for i in range(20)])

    by_dollars = state(cost_usd=0.5)
    by_tokens = state(usage=Usage(input_tokens=400_000, output_tokens=100_000))
    assert by_tokens.cost.mean == pytest.approx(by_dollars.cost.mean)
    assert cost.price_index(ONE_DOLLAR) == pytest.approx(1.0)
