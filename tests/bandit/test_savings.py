"""What an arm alone would have come to: coverage on logs of a policy that learns, and the algebra by hand."""

import numpy as np
import pytest

from bandit import savings
from bandit.savings import Errors


def a_log(rng, n, *, off=0.0):
    """Two arms, chances that move as a learner's would. What arm 1 alone comes to: its success on every session.

    Forecasts know the context but are `off` by so much; dollars are a factor off. The sessions come to what the taken
    arm did, success and dollars.
    """
    x = rng.random(n)
    chance = np.stack((0.3 + 0.4 * x, 0.7 - 0.2 * x))
    success = (rng.random((2, n)) < chance).astype(float)
    dollars = np.stack((0.2 + 0.1 * x, 1.0 + x)) * rng.lognormal(-0.125, 0.5, (2, n))
    seen = np.arange(n) / n
    p = np.clip(0.5 - 0.4 * seen + 0.3 * (x - 0.5), 0.05, 0.95)
    taken = (rng.random(n) < p).astype(int)
    whole = success[taken, np.arange(n)], dollars[taken, np.arange(n)]
    foretold = chance[1] + off, (1.0 + x) * (1.0 + off)
    truth = float(0.7 - 0.2 * 0.5), 1.5
    return p, taken, (success[1], dollars[1]), whole, foretold, truth


def estimates(log, figure):
    p, taken, own, whole, foretold, truth = log
    weight = taken / p
    sums = savings.products(foretold[figure], weight, own[figure], whole[figure]).sum(axis=0)
    f, y = foretold[figure][taken == 1], own[figure][taken == 1]
    errors = Errors(len(f), f.sum(), y.sum(), (f * f).sum(), (y * y).sum(), (f * y).sum())
    return savings.alone(sums, errors, dollars=figure == 1), truth[figure]


@pytest.mark.parametrize("figure", [0, 1], ids=["success", "dollars"])
def test_the_intervals_hold_the_truth(figure):
    rng = np.random.default_rng(5)
    inside = {"weighted": 0, "corrected": 0}
    logs = 300
    for _ in range(logs):
        found, truth = estimates(a_log(rng, 600, off=0.1), figure)
        for name in inside:
            value = getattr(found, name).value
            inside[name] += value.low <= truth <= value.high
    # 95 %, but for chance: three standard errors of 300 logs are 3.8 points.
    assert all(0.91 <= n / logs <= 0.99 for n in inside.values()), inside


def test_intervals_that_are_too_narrow_would_be_noticed():
    rng = np.random.default_rng(6)
    inside = 0
    for _ in range(200):
        found, truth = estimates(a_log(rng, 600), 0)
        value = found.weighted.value
        half = (value.high - value.low) / 4
        inside += abs(value.estimate - truth) <= half
    assert inside / 200 < 0.8


def test_the_algebra_is_that_of_the_formulas():
    rng = np.random.default_rng(7)
    log = a_log(rng, 500, off=0.2)
    p, taken, own, whole, foretold, _ = log
    w = taken / p
    success, _ = estimates(log, 0)
    by_hand = foretold[0].mean() + (w * (own[0] - foretold[0])).sum() / w.sum()
    assert success.weighted.value.estimate == pytest.approx(by_hand)
    assert success.effective == pytest.approx(w.sum() ** 2 / (w * w).sum())
    assert success.weighted.less.estimate == pytest.approx(by_hand - whole[0].mean())
    bias = (own[0] - foretold[0])[taken == 1].mean()
    assert success.corrected.value.estimate == pytest.approx(foretold[0].mean() + bias)
    dollars, _ = estimates(log, 1)
    by_hand = foretold[1].mean() * (w * own[1]).sum() / (w * foretold[1]).sum()
    assert dollars.weighted.value.estimate == pytest.approx(by_hand)
    assert dollars.weighted.share.estimate == pytest.approx(1 - whole[1].mean() / by_hand)
    ratio = own[1][taken == 1].sum() / foretold[1][taken == 1].sum()
    assert dollars.corrected.value.estimate == pytest.approx(foretold[1].mean() * ratio)


def test_the_spread_of_the_share_is_that_of_logs_drawn_again():
    rng = np.random.default_rng(8)
    drawn = [estimates(a_log(rng, 800), 1)[0].weighted.share for _ in range(300)]
    spread = np.std([share.estimate for share in drawn])
    said = np.mean([(share.high - share.low) / 2 / 1.97 for share in drawn])
    assert said == pytest.approx(spread, rel=0.15)


def test_little_is_not_taken_for_much():
    nothing = np.zeros(savings.PRODUCTS)
    assert savings.alone(nothing, Errors(0, 0, 0, 0, 0, 0), dollars=False) is None
    never_taken = savings.products(np.full(50, 0.5), np.zeros(50), np.zeros(50), 1.0).sum(axis=0)
    found = savings.alone(never_taken, Errors(3, 1.5, 1, 0.75, 1, 0.5), dollars=False)
    assert found.corrected is None and found.weighted is None
    assert (found.sessions, found.foretold, found.real) == (50, 0.5, 1.0)
