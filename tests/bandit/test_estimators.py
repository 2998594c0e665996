"""Estimators against enumeration of all that can happen, closed formulas, and the jackknife."""

import itertools

import numpy as np
import pytest

from bandit import estimators
from bandit.estimators import Moments, Trajectories

P_ARM = {"logging": np.array([0.5, 0.3, 0.2]), "target": np.array([0.1, 0.2, 0.7])}
SUCCESS = np.array([0.2, 0.5, 0.9])
COST = np.array([0.1, 0.4, 1.5])


def _q(policy: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two steps at most: a failure leads to a second draw. Values of the arms at both steps, and of the whole."""
    second = np.stack((SUCCESS, COST), axis=1)
    after = P_ARM[policy] @ second
    first = np.stack((SUCCESS, COST), axis=1) + (1.0 - SUCCESS)[:, None] * after
    return first, second, P_ARM[policy] @ first


def _enumerate(
    *, logging: np.ndarray, believed: np.ndarray, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, Trajectories]:
    """Every session that can be, with its probability; `believed` are the propensities that are written down, `first`
    and `second` the model's values of the arms at the two steps."""
    target = P_ARM["target"]
    chances, ratios, rewards, taken, expected = [], [], [], [], []
    for a, good in itertools.product(range(3), (True, False)):
        chance = logging[a] * (SUCCESS[a] if good else 1.0 - SUCCESS[a])
        if good:
            chances.append(chance)
            ratios.append([target[a] / believed[a], 1.0])
            rewards.append([[1.0, COST[a]], [0.0, 0.0]])
            taken.append([first[a], np.zeros(2)])
            expected.append([target @ first, np.zeros(2)])
            continue
        for b, better in itertools.product(range(3), (True, False)):
            chances.append(chance * logging[b] * (SUCCESS[b] if better else 1.0 - SUCCESS[b]))
            ratios.append([target[a] / believed[a], target[b] / believed[b]])
            rewards.append([[0.0, COST[a]], [float(better), COST[b]]])
            taken.append([first[a], second[b]])
            expected.append([target @ first, target @ second])
    shape = np.array(ratios)
    return np.array(chances), Trajectories(
        ratio=shape,
        reward=np.array(rewards),
        taken=np.array(taken),
        expected=np.array(expected),
        settled=np.zeros_like(shape),
        settled_reward=np.zeros((*shape.shape, 2)),
    )


FIRST, SECOND, TRUTH = _q("target")
RIGHT = P_ARM["logging"]
WRONG = np.array([0.2, 0.2, 0.6])
NONSENSE = np.array([[0.9, 3.0], [0.1, 0.0], [0.4, 1.0]])


def test_importance_sampling_is_unbiased() -> None:
    chances, t = _enumerate(logging=RIGHT, believed=RIGHT, first=NONSENSE, second=NONSENSE)
    assert chances.sum() == pytest.approx(1.0, abs=1e-12)
    assert chances @ estimators.inverse_propensity(t) == pytest.approx(TRUTH, abs=1e-12)
    # Of a reward of 1 it is the mean weight, which is 1 at every step.
    assert chances @ t.weights == pytest.approx(np.ones(2), abs=1e-12)


def test_doubly_robust_is_right_where_either_model_or_propensities_are_and_not_where_neither_is() -> None:
    for believed, model, right in (
        (RIGHT, (FIRST, SECOND), True),
        (RIGHT, (NONSENSE, NONSENSE), True),
        (WRONG, (FIRST, SECOND), True),
        (WRONG, (NONSENSE, NONSENSE), False),
    ):
        chances, t = _enumerate(logging=RIGHT, believed=believed, first=model[0], second=model[1])
        off = np.abs(chances @ estimators.doubly_robust(t) - TRUTH)
        assert (off < 1e-12).all() if right else (off > 0.05).all()


def test_the_unrolled_form_is_the_recursion() -> None:
    _, t = _enumerate(logging=RIGHT, believed=RIGHT, first=NONSENSE, second=NONSENSE)
    unrolled = t.expected[:, 0] + np.einsum("it,itm->im", t.weights, t.errors)
    assert unrolled == pytest.approx(estimators.doubly_robust(t), abs=1e-12)
    for same in (estimators.switch(t, np.inf), estimators.shrinkage(t, 1e15)):
        assert same == pytest.approx(estimators.doubly_robust(t), abs=1e-9)
    for model in (estimators.switch(t, 1e-9), estimators.shrinkage(t, 1e-15)):
        assert model == pytest.approx(estimators.direct(t), abs=1e-9)


def test_single_decisions_are_as_in_the_papers() -> None:
    """Formulas of Wang et al. (2017) and Su et al. (2020), as Open Bandit Pipeline documents them, one by one."""
    rng = np.random.default_rng(3)
    n, k = 50, 4
    logging, target = rng.dirichlet(np.ones(k), n), rng.dirichlet(np.ones(k), n)
    model, reward = rng.uniform(size=(n, k)), rng.uniform(size=n)
    action = np.array([rng.choice(k, p=p) for p in logging])
    t = Trajectories(
        ratio=(target / logging)[np.arange(n), action][:, None],
        reward=reward[:, None, None],
        taken=model[np.arange(n), action][:, None, None],
        expected=(target * model).sum(axis=1)[:, None, None],
        settled=np.zeros((n, 1)),
        settled_reward=np.zeros((n, 1, 1)),
    )
    ipw, dm, dr, switched, shrunk = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(n):
        w = target[i, action[i]] / logging[i, action[i]]
        v, error = sum(target[i] * model[i]), reward[i] - model[i, action[i]]
        ipw += w * reward[i] / n
        dm += v / n
        dr += (v + w * error) / n
        switched += (v + (w if w <= 2.0 else 0.0) * error) / n
        shrunk += (v + 3.0 * w / (w * w + 3.0) * error) / n
    assert estimators.inverse_propensity(t).mean() == pytest.approx(ipw, rel=1e-12)
    assert estimators.direct(t).mean() == pytest.approx(dm, rel=1e-12)
    assert estimators.doubly_robust(t).mean() == pytest.approx(dr, rel=1e-12)
    assert estimators.switch(t, 2.0).mean() == pytest.approx(switched, rel=1e-12)
    assert estimators.shrinkage(t, 3.0).mean() == pytest.approx(shrunk, rel=1e-12)
    weights = t.weights[:, 0]
    moments = Moments(2)
    moments.add(np.stack((weights * reward, weights), axis=1))
    assert estimators.ratio(moments.mean, 0, 1).value == pytest.approx((weights @ reward) / weights.sum(), rel=1e-12)


def test_what_is_settled_needs_no_support() -> None:
    """The target gives up half of the failures, which the logging policy never does: known to bring nothing."""
    chances, t = _enumerate(logging=RIGHT, believed=RIGHT, first=NONSENSE, second=NONSENSE)
    failed = t.reward[:, 0, 0] == 0.0
    half = np.zeros_like(t.ratio)
    half[failed, 1] = 0.5
    ratio = t.ratio * (1.0 - half)
    t = Trajectories(
        ratio=ratio,
        reward=t.reward,
        taken=t.taken,
        expected=t.expected * (1.0 - half)[:, :, None],
        settled=half,
        settled_reward=np.zeros_like(t.reward),
    )
    after = 0.5 * (P_ARM["target"] @ SECOND)
    truth = P_ARM["target"] @ (SECOND + (1.0 - SUCCESS)[:, None] * after)
    assert chances @ estimators.inverse_propensity(t) == pytest.approx(truth, abs=1e-12)
    assert chances @ estimators.doubly_robust(t) == pytest.approx(truth, abs=1e-12)
    assert chances @ t.mass == pytest.approx(np.ones(2), abs=1e-12)


def test_errors_of_ratios_are_those_of_the_jackknife() -> None:
    rng = np.random.default_rng(5)
    rows = rng.gamma(2.0, size=(2_000, 4)) @ rng.uniform(size=(4, 4))

    def estimate(of: np.ndarray) -> float:
        mean = of.mean(axis=0)
        return float(estimators.sum_of_ratios(mean, [(0, 1), (2, 3)]).value)

    without_one = np.array([estimate(np.delete(rows, i, axis=0)) for i in range(0, 2_000, 10)])
    jackknife = (2_000 - 1) * np.var(without_one)
    moments = Moments(4)
    moments.add(rows[:700])
    moments.add(rows[700:])
    found = estimators.sum_of_ratios(moments.mean, [(0, 1), (2, 3)])
    assert found.value == pytest.approx(estimate(rows), rel=1e-12)
    # A tenth of the jackknife's terms: its own relative error is sqrt(2 / 200) = .1, and 5 of these are allowed.
    assert moments.variance(found.gradient) == pytest.approx(jackknife, rel=0.5)


def test_nothing_over_nothing_is_nothing() -> None:
    assert estimators.ratio(np.zeros(2), 0, 1).value == 0.0
    moments = Moments(1)
    moments.add(np.ones((1, 1)))
    assert moments.variance(np.ones(1)) == 0.0
