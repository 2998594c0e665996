"""What was foretold against what came: by hand, and on runs."""

import math

import numpy as np
import pytest

from bandit.types import Arm
from sim import attempts, calibration, runner, struggling, synthetic
from sim.runner import Run
from sim.world import Table, Task, Terms, every_arm


def a_run(task: list[int], tried: list[tuple[int, int, float | None, float | None, float, float]]) -> Run:
    """`tried`: session, arm, foretold success and dollars, success, dollars."""
    notes = attempts.Notes()
    for session, arm, chance, usd, success, cost in tried:
        notes.add(
            session=session,
            number=1,
            arm=arm,
            foretold_success=chance,
            foretold_usd=usd,
            success=success,
            cost_usd=cost,
            left=False,
        )
    n = len(task)
    return Run(
        task=np.array(task),
        success=np.zeros(n),
        cost_usd=np.zeros(n),
        attempts=np.ones(n, np.int64),
        wall_seconds=1.0,
        tried=notes.all(),
    )


RUNS = [
    a_run([5, 7], [(0, 0, 0.8, 1.0, 1.0, 2.0), (1, 1, 0.5, 1.0, 0.0, 0.5)]),
    a_run([7, 5], [(0, 0, 0.6, 2.0, 0.0, 2.0), (1, 0, 0.9, None, 1.0, 9.0), (1, 2, None, None, 1.0, 9.0)]),
]


def test_figures_are_those_of_a_small_case() -> None:
    found = calibration.measure(RUNS, ("a", "b", "c"))
    assert found is not None
    assert found.attempts == 4
    assert found.brier == pytest.approx((0.04 + 0.25 + 0.36 + 0.01) / 4)
    assert found.bias == pytest.approx((-0.2 + 0.5 + 0.6 - 0.1) / 4)
    assert found.cost_ratio == pytest.approx(4.5 / 4.0)
    # Tasks 5 and 7 are two draws: sums of what is off, minus the mean's share.
    task_5, task_7 = -0.3 - 2 * 0.2, 1.1 - 2 * 0.2
    assert found.bias_stderr == pytest.approx(math.sqrt(2 * (task_5**2 + task_7**2)) / 4)
    assert set(found.arms) == {"a", "b"}
    assert found.arms["a"].bias == pytest.approx((-0.2 + 0.6 - 0.1) / 3)
    assert found.arms["a"].cost_ratio == pytest.approx(4.0 / 3.0)
    assert (found.arms["b"].attempts, found.arms["b"].cost_ratio, found.arms["b"].bias_stderr) == (1, 0.5, None)


def test_bins_hold_all_attempts_in_order_and_equal_forecasts_together() -> None:
    rng = np.random.default_rng(3)
    chance = np.round(rng.random(500), 1)
    good = rng.random(500) < chance
    run = a_run(list(range(500)), [(i, 0, float(chance[i]), None, float(good[i]), 0.0) for i in range(500)])
    bins = calibration.reliability([run])
    assert sum(one.attempts for one in bins) == 500
    means = [one.foretold for one in bins]
    assert means == sorted(set(means))
    for one in bins:
        # Within 5 standard errors of what was foretold: a false failure in 1.7 million a bin.
        assert one.stderr is not None
        assert abs(one.success - one.foretold) <= 5 * one.stderr + 1e-12
    same = a_run([0, 1], [(0, 0, 0.5, None, 1.0, 0.0), (1, 0, 0.5, None, 0.0, 0.0)])
    (one,) = calibration.reliability([same])
    assert (one.attempts, one.foretold, one.success) == (2, 0.5, 0.5)


def test_the_error_of_a_bin_takes_equal_tasks_as_one_draw() -> None:
    """Ten seeds that repeat themselves are not ten times as sure."""
    once = a_run(list(range(40)), [(i, 0, 0.5, 1.0, float(i % 2), 1.0 + i) for i in range(40)])
    (one,) = calibration.reliability([once])
    (ten,) = calibration.reliability([once] * 10)
    assert ten.stderr == pytest.approx(one.stderr)
    alone, together = calibration.measure([once], "a"), calibration.measure([once] * 10, "a")
    assert alone is not None and together is not None
    assert together.cost_ratio_stderr == pytest.approx(alone.cost_ratio_stderr)


@pytest.mark.parametrize("policy", ["uniform", "always:b", "vw:squarecb", "linucb"])
def test_a_policy_that_foretells_nothing_has_none(policy: str) -> None:
    run = runner.run(small(), Terms(), policy, 0)
    assert len(run.tried) == run.attempts.sum()
    assert calibration.measure([run], ("a", "b")) is None
    assert calibration.reliability([run]) == ()


@pytest.mark.parametrize("policy", ["thompson", "epsilon", "threshold:0.7"])
def test_attempts_are_noted_as_they_were(policy: str) -> None:
    world = small()
    run = runner.run(world, Terms(detect=0.7, false_alarm=0.2), policy, 0)
    tried = run.tried
    assert np.bincount(tried.session).tolist() == run.attempts.tolist()
    assert np.bincount(tried.session, tried.cost_usd) == pytest.approx(run.cost_usd)
    last = np.append(np.diff(tried.session) > 0, True)
    assert tried.success[last].tolist() == run.success.tolist()
    assert tried.number[last].tolist() == run.attempts.tolist()
    assert tried.left[~last].all()
    assert tried.success.tolist() == world.success[run.task[tried.session], tried.arm].tolist()
    assert ((tried.foretold_success > 0) & (tried.foretold_success < 1)).all()
    found = calibration.measure([run], ("a", "b"))
    assert found is not None and found.attempts == len(tried)


def test_what_is_left_as_it_runs_counts_as_what_it_would_have_been() -> None:
    """Of those left many would have been good; their sessions count what came after."""
    world = struggling.running(synthetic.make("struggling"))
    run = runner.run(world, Terms(), "thompson", 0, 200)
    tried = run.tried
    ended = np.append(np.diff(tried.session) > 0, True)
    assert (tried.success[tried.left] > 0).any()
    assert run.success.sum() <= tried.success[ended].sum()
    assert len(every_arm(world)) > tried.arm.max()


def small() -> Table:
    rng = np.random.default_rng(0)
    return Table(
        name="small",
        arms=(Arm(id="a"), Arm(id="b")),
        tasks=tuple(Task(id=f"t{i}", features={"size": float(i % 5)}) for i in range(60)),
        success=np.round(rng.random((60, 2))),
        cost_usd=rng.exponential(0.5, (60, 2)),
    )
