"""References against enumeration in plain Python."""

import itertools

import numpy as np
import pytest

from bandit.errors import InvalidInput
from sim import references
from sim.world import Floats, Terms

TERMS = [
    Terms(value_usd=5.0),
    Terms(value_usd=2.0, detect=0.8, false_alarm=0.1),
    Terms(value_usd=1.0, detect=0.0),
    Terms(value_usd=3.0, detect=0.5, false_alarm=1.0, max_attempts=2),
    Terms(value_usd=3.0, detect=1.0, false_alarm=1.0, max_attempts=4),
    Terms(value_usd=0.5, max_attempts=1),
    Terms(value_usd=10.0, detect=0.9, max_attempts=9),
]


def walk(ladder: tuple[int, ...], s: list[float], c: list[float], terms: Terms) -> tuple[float, float]:
    """Success and cost of a ladder on one task, branch by branch."""
    arm, rest = ladder[0], ladder[1:]
    won, spent = 0.0, c[arm]
    for good, chance in ((True, s[arm]), (False, 1 - s[arm])):
        alarm = terms.false_alarm if good else terms.detect
        quiet_or_last = chance * (1 - alarm) + (0.0 if rest else chance * alarm)
        won += quiet_or_last * good
        if rest:
            then_won, then_spent = walk(rest, s, c, terms)
            won += chance * alarm * then_won
            spent += chance * alarm * then_spent
    return won, spent


def utilities(success: Floats, cost: Floats, terms: Terms) -> dict[tuple[int, ...], list[float]]:
    """Every ladder's utility on every task."""
    n_arms = success.shape[1]
    found = {}
    for length in range(1, min(terms.max_attempts, n_arms) + 1):
        for ladder in itertools.permutations(range(n_arms), length):
            pairs = [walk(ladder, s, c, terms) for s, c in zip(success.tolist(), cost.tolist(), strict=True)]
            found[ladder] = [terms.value_usd * won - spent for won, spent in pairs]
    return found


def matrices(seed: int, *, binary: bool, n_tasks: int = 7, n_arms: int = 4) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    success = rng.random((n_tasks, n_arms))
    if binary:
        success = np.round(success)
    return success, rng.exponential(0.5, (n_tasks, n_arms))


@pytest.mark.parametrize("terms", TERMS, ids=repr)
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_best_ladder_and_oracle_equal_enumeration(terms: Terms, binary: bool, seed: int) -> None:
    success, cost = matrices(seed, binary=binary)
    every = utilities(success, cost, terms)
    found = references.best_ladder(success, cost, terms)
    assert found.utility(terms).mean() == pytest.approx(max(np.mean(u) for u in every.values()), abs=1e-12)
    assert found.utility(terms) == pytest.approx(every[found.ladder], abs=1e-12)
    best_each = np.array(list(every.values())).max(axis=0)
    assert references.oracle(success, cost, terms).utility(terms) == pytest.approx(best_each, abs=1e-12)


@pytest.mark.parametrize("terms", TERMS, ids=repr)
def test_with_known_outcomes_the_oracle_is_the_best_single_arm(terms: Terms) -> None:
    success, cost = matrices(5, binary=True, n_tasks=200, n_arms=6)
    best = (terms.value_usd * success - cost).max(axis=1)
    assert references.oracle(success, cost, terms).utility(terms) == pytest.approx(best, abs=1e-12)


def test_weights_say_how_often_a_task_comes() -> None:
    success, cost = matrices(1, binary=True)
    terms = Terms(value_usd=2.0)
    counts = np.array([3, 1, 0, 2, 5, 1, 1])
    repeated = references.best_ladder(np.repeat(success, counts, axis=0), np.repeat(cost, counts, axis=0), terms)
    assert references.best_ladder(success, cost, terms, counts.astype(float)).ladder == repeated.ladder


def test_hindsight_names_the_best_arm() -> None:
    success, cost = matrices(2, binary=False)
    terms = Terms(value_usd=4.0)
    hindsight = references.look_back(success, cost, terms)
    alone = (4.0 * success - cost).mean(axis=0)
    assert [e.utility(terms).mean() for e in hindsight.always] == pytest.approx(alone.tolist())
    assert hindsight.best_single.ladder == (int(alone.argmax()),)


def test_free_hopeless_arms_and_ties_are_no_trouble() -> None:
    success = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    cost = np.zeros((2, 3))
    terms = Terms(value_usd=1.0)
    assert references.best_ladder(success, cost, terms).utility(terms).tolist() == [1.0, 1.0]
    assert references.oracle(success, cost, terms).utility(terms).tolist() == [1.0, 1.0]


def test_many_arms_and_three_attempts() -> None:
    """34 arms are 39,304 ladders; the same arms in another order give the same ladder."""
    success, cost = matrices(3, binary=True, n_tasks=60, n_arms=34)
    terms = Terms(value_usd=5.0)
    order = np.random.default_rng(0).permutation(34)
    ladder = references.best_ladder(success, cost, terms)
    shuffled = references.best_ladder(success[:, order], cost[:, order], terms)
    assert ladder.utility(terms).mean() == pytest.approx(shuffled.utility(terms).mean(), abs=1e-12)
    assert [int(order[k]) for k in shuffled.ladder] == list(ladder.ladder)


def test_too_many_ladders_are_refused() -> None:
    success, cost = matrices(3, binary=True, n_arms=40)
    with pytest.raises(InvalidInput, match="--max-attempts"):
        references.best_ladder(success, cost, Terms(max_attempts=20))


def test_arms_that_are_not_always_there_are_in_no_fixed_ladder_but_in_the_oracle() -> None:
    """Against brute force by time: 40 tasks with arms 0 to 2, then 20 with arms 1 to 3, weighed three to one."""
    rng = np.random.default_rng(5)
    success, cost = rng.random((60, 4)), rng.exponential(0.3, (60, 4))
    success[:40, 3] = cost[:40, 3] = success[40:, 0] = cost[40:, 0] = np.nan
    weights = np.repeat([3.0 / 40, 1.0 / 20], [40, 20])
    terms = Terms(value_usd=2.0, detect=0.8, false_alarm=0.1)
    hindsight = references.look_back(success, cost, terms, weights)
    assert [expected.ladder for expected in hindsight.always] == [(1,), (2,)]
    utility = {
        ladder: float(weights @ references.along(ladder, success, cost, terms).utility(terms)) / 4.0
        for ladder in ((1,), (2,), (1, 2), (2, 1))
    }
    assert utility[hindsight.best_ladder.ladder] == max(utility.values())
    assert utility[hindsight.best_single.ladder] == max(utility[1,], utility[2,])
    for here, arms in ((slice(40), [0, 1, 2]), (slice(40, None), [1, 2, 3])):
        alone = references.oracle(success[here][:, arms], cost[here][:, arms], terms)
        assert hindsight.oracle.success[here].tolist() == alone.success.tolist()
        assert hindsight.oracle.cost_usd[here].tolist() == alone.cost_usd.tolist()


def test_tasks_that_do_not_come_do_not_count_though_they_lack_an_arm() -> None:
    terms = Terms(value_usd=2.0, max_attempts=2)
    success = np.array([[0.5, 0.9], [0.7, 0.6], [np.nan, 0.5]])
    cost = np.array([[0.4, 0.2], [0.1, 0.1], [np.nan, 0.1]])
    without = references.look_back(success[:2], cost[:2], terms)
    found = references.look_back(success, cost, terms, np.array([1.0, 1.0, 0.0]))
    assert found.best_ladder.ladder == without.best_ladder.ladder == (1, 0)
    assert found.best_ladder.success[:2].tolist() == without.best_ladder.success.tolist()
    assert [always.ladder for always in found.always] == [(0,), (1,)]
