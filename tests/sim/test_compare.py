"""Means, standard errors and the bootstrap, on numbers small enough to know."""

import math

import numpy as np
import pytest

from bandit.types import Arm
from sim import compare, references, tables
from sim.runner import Run
from sim.world import Table, Task, Terms

TERMS = Terms(value_usd=4.0)
WORLD = Table(
    name="two",
    arms=(Arm(id="a"), Arm(id="b")),
    tasks=tuple(Task(id=f"t{i}") for i in range(4)),
    success=np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]),
    cost_usd=np.array([[0.5, 1.0]] * 4),
)


def a_run(task: list[int], success: list[float], cost: list[float], attempts: list[int]) -> Run:
    return Run(
        task=np.array(task),
        success=np.array(success),
        cost_usd=np.array(cost),
        attempts=np.array(attempts),
        wall_seconds=0.5,
    )


RUNS = {
    "mine": [
        a_run([0, 1, 2, 3], [1, 1, 0, 1], [0.5, 1.5, 1.0, 1.0], [1, 2, 1, 1]),
        a_run([3, 2, 1, 0], [1, 1, 1, 1], [1.0, 1.0, 1.0, 0.5], [1, 1, 1, 1]),
    ],
    "always:b": [
        a_run([0, 1, 2, 3], [0, 1, 1, 1], [1.0] * 4, [1] * 4),
        a_run([3, 2, 1, 0], [1, 1, 1, 0], [1.0] * 4, [1] * 4),
    ],
}


def test_means_errors_and_halves() -> None:
    hindsight = references.look_back(WORLD.success, WORLD.cost_usd, TERMS)
    result = compare.compare(WORLD, TERMS, hindsight, RUNS)
    mine = result.policies[0]
    assert (mine.name, mine.seeds, mine.sessions) == ("mine", 2, 4)
    assert mine.success_rate == 7 / 8
    assert mine.cost_usd_per_session == pytest.approx(7.5 / 8)
    assert mine.utility_per_session == pytest.approx(4 * 7 / 8 - 7.5 / 8)
    assert mine.escalation_rate == 1 / 8
    assert mine.stderr.success_rate == pytest.approx(abs(1.0 - 0.75) / 2)
    assert mine.second_half.success_rate == 3 / 4
    assert mine.second_half.escalation_rate == 0
    assert mine.events_per_second == 9.0
    assert result.references.best_single.arm == "b"
    assert result.references.best_fixed_ladder.ladder == "b>a"
    assert set(result.paired["mine"]) == {
        "best_single", "best_fixed_ladder", "oracle", "always:a", "always:b",
    }  # fmt: skip
    gap = result.paired["mine"]["always:b"]
    assert gap.difference == pytest.approx(mine.utility_per_session - 2.0)
    assert gap.low <= gap.difference <= gap.high
    itself = result.paired["always:b"]["always:b"]
    assert (itself.difference, itself.low, itself.high) == (0.0, 0.0, 0.0)
    assert gap.low <= 0.0
    said = tables.sentence(result)
    assert said.startswith("mine reached a utility of $2.562 a session, ")
    assert said.endswith(", which may be chance: no clear winner.")


def test_what_is_ahead_by_more_than_chance_has_won() -> None:
    hindsight = references.look_back(WORLD.success, WORLD.cost_usd, TERMS)
    worse = [a_run([0, 1, 2, 3], [0] * 4, [2.0] * 4, [1] * 4), a_run([3, 2, 1, 0], [0] * 4, [2.0] * 4, [1] * 4)]
    result = compare.compare(WORLD, TERMS, hindsight, {"worse": worse, "mine": RUNS["mine"]})
    assert result.paired["mine"]["worse"].low > 0
    said = tables.sentence(result)
    assert said.startswith("mine won with a utility of $2.562 a session, ")
    assert "chance" not in said


def test_one_seed_takes_its_error_from_its_sessions() -> None:
    hindsight = references.look_back(WORLD.success, WORLD.cost_usd, TERMS)
    result = compare.compare(WORLD, TERMS, hindsight, {"mine": RUNS["mine"][:1]})
    assert result.policies[0].stderr.success_rate == pytest.approx(np.std([1, 1, 0, 1], ddof=1) / 2)


def test_a_reference_is_taken_on_the_tasks_that_were_drawn() -> None:
    """Every session had task 0, on which the best arm alone fails."""
    run = a_run([0, 0], [1, 1], [0.5, 0.5], [1, 1])
    hindsight = references.look_back(WORLD.success, WORLD.cost_usd, TERMS)
    paired = compare.compare(WORLD, TERMS, hindsight, {"mine": [run]}).paired["mine"]
    assert paired["best_single"].difference == 3.5 - (-1.0)


def test_intervals_cover_about_as_often_as_they_say() -> None:
    """Tasks and seeds both vary. Were coverage only .92, 200 trials would show less than .85 with chance .0007."""
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(200):
        gaps = rng.normal(0, 1, (1, 40)) + rng.normal(0, 0.1, (12, 1)) + rng.normal(0, 0.5, (12, 40))
        mine, theirs = compare.replicates([gaps, np.zeros_like(gaps)], np.ones_like(gaps))
        interval = compare.difference(mine, theirs)
        covered += interval.low <= 0.0 <= interval.high
    assert covered / 200 > 0.85
    assert math.isclose(interval.difference, gaps.mean(), abs_tol=1e-12)


def test_replicates_without_any_session_are_left_out() -> None:
    sessions = np.eye(3)
    means = compare.replicates([2.0 * sessions], sessions)
    assert means.tolist() == [[2.0] * means.shape[1]]
    assert 1 < means.shape[1] < 2001
