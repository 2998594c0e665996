"""LinUCB against ridge regression on the list of rows, and the loss that single-number policies learn."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from bandit.linucb import ALPHA, LinUCB, Model
from bandit.loss import loss
from bandit.session import AttemptRow
from bandit.types import Arm, Bar, BarKind, Features, Objective, Offer, Usage
from tests.bandit.posteriors import ARMS, change, situation, taught

POLICY = LinUCB()


def contexts(n: int) -> list[Features]:
    return [{"kind": ("bug", "docs")[i % 2], "files": float(3**i), "urgent": i % 3 == 0} for i in range(n)]


def history(n: int, seed: int = 0) -> list[AttemptRow]:
    rng = np.random.default_rng(seed)
    return [
        taught(
            f"s{i}",
            "ab"[int(rng.integers(2))],
            features=about,
            success=float(rng.random() < 0.6),
            cost_usd=float(rng.exponential()),
        )
        for i, about in enumerate(contexts(n))
    ]


def folded(rows: Sequence[AttemptRow], block: int = 7) -> Model:
    state = POLICY.start(ARMS)
    for i in range(0, len(rows), block):
        state = POLICY.fold(state, ARMS, [change(row) for row in rows[i : i + block]])
    return state


def assert_alike(one: Model, other: Model) -> None:
    assert one.encoder.columns == other.encoder.columns
    assert one.square == pytest.approx(other.square, abs=1e-9)
    assert one.cross == pytest.approx(other.cross, abs=1e-9)


def test_the_bounds_are_those_of_ridge_regression() -> None:
    """theta minimises the squared residuals plus |theta|^2; its bound is alpha times sqrt(x' (I + X'X)^-1 x)."""
    rows = history(40)
    state = folded(rows)
    at = situation({"kind": "docs", "files": 20.0, "urgent": True})
    x, _ = state.context(at.features)
    expected = {"1": 1.0, "c:kind=docs": 1.0, "n:files": np.arcsinh(20.0) / 10, "f:urgent": 1.0}
    assert x == pytest.approx([expected.get(column, 0.0) for column in state.encoder.columns])
    for k, arm in enumerate("abc"):
        mine = [row for row in rows if row.arm == arm]
        xs = np.array([state.context(row.decision.situation.features)[0] for row in mine]).reshape(len(mine), len(x))
        rewards = [max(-1.0, (row.success or 0.0) - (row.cost_usd or 0.0) / 5.0) for row in mine]
        theta = np.linalg.lstsq(
            np.vstack([xs, np.eye(len(x))]), np.concatenate([rewards, np.zeros(len(x))]), rcond=None
        )[0]
        width = np.sqrt(x @ np.linalg.solve(np.eye(len(x)) + xs.T @ xs, x))
        assert state.bounds(at)[k] == pytest.approx(x @ theta + ALPHA * width)


def test_the_greatest_bound_is_taken_ties_to_the_first_and_the_floor_explores() -> None:
    assert POLICY.distribution(POLICY.start(ARMS), situation()).propensities == pytest.approx(
        [0.98 + 0.02 / 3, 0.02 / 3, 0.02 / 3]
    )
    state = folded([taught(f"s{i}", "ab"[i % 2], success=float(i % 2), cost_usd=0.1) for i in range(20)])
    assert POLICY.distribution(state, situation()).propensities.argmax() == 1
    without = tuple(Offer(arm=x, bar=Bar(BarKind.POLICY, "so") if x == "b" else None) for x in "abc")
    assert POLICY.distribution(state, situation(offers=without)).propensities == pytest.approx([0.01, 0.0, 0.99])


def test_what_was_never_seen_has_the_widest_bound() -> None:
    state = folded(history(40))
    new = (*ARMS, Arm(id="new"))
    known, novel = (state.bounds(situation({"kind": kind}, new)) for kind in ("docs", "migration"))
    assert known[3] == pytest.approx(ALPHA * np.sqrt(2.0))
    assert novel[3] == pytest.approx(ALPHA * np.sqrt(2.0))
    assert novel[0] - state.bounds(situation(arms=new))[0] > 0.0
    assert known[2] == known[3], "an arm without rows is as good as new"


def test_a_corrected_outcome_counts_once_as_it_is_now() -> None:
    rows = history(20)
    corrected = [msgspec.structs.replace(row, success=0.5, cost_usd=2.0) for row in rows[:9]]
    state = POLICY.fold(folded(rows), ARMS, [change(b, before=(a,)) for a, b in zip(rows, corrected, strict=False)])
    assert_alike(state, folded([*corrected, *rows[9:]]))


def test_blocks_and_new_arms_change_nothing() -> None:
    rows = history(30)
    assert_alike(folded(rows, 1), folded(rows, 30))
    more = (*ARMS, Arm(id="new"))
    grown = POLICY.fold(folded(rows), more, [])
    assert grown.square.shape[0] == 4
    assert grown.bounds(situation(arms=ARMS)) == pytest.approx(folded(rows).bounds(situation(arms=ARMS)))


def test_rewards_are_held_within_one_of_nought() -> None:
    state = folded([taught("s", "a", success=0.0, cost_usd=1e9)])
    assert state.cross[0].tolist() == [-1.0]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"success": 1.0, "cost_usd": 0.5}, 0.1),
        ({"success": 0.0, "cost_usd": 0.5}, 1.1),
        ({"alarm": True, "cost_usd": 0.5}, 1.1),
        ({"alarm": True, "success": 1.0}, 0.0),
        ({"success": 1.0, "usage": Usage(input_tokens=2e6)}, 0.4),
        ({"success": 0.5, "latency_seconds": 100.0}, 0.7),
        ({"cost_usd": 0.5}, None),
    ],
    ids=str,
)
def test_the_loss_of_an_attempt(told: dict[str, object], expected: float | None) -> None:
    """A success is worth five dollars and a second one cent."""
    objective = Objective(value_usd=5.0, latency_usd_per_second=0.01)
    row = taught("s", "a", objective=objective, budget_price=3.0, **told)  # type: ignore[arg-type]
    assert loss(row) == (None if expected is None else pytest.approx(expected))


def test_seconds_without_a_price_are_no_loss() -> None:
    assert loss(taught("s", "a", success=1.0, latency_seconds=1e6)) == 0.0
