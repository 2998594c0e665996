"""What a report is made of: curves, shares, flows and frontiers, by hand and on worlds of all kinds."""

import itertools

import numpy as np
import pytest

from bandit.frontier import Point, hull
from bandit.types import Arm
from sim import attempts, compare, flows, frontier, references, runner, series, struggling, study, synthetic
from sim.runner import Run
from sim.study import Study
from sim.world import Table, Task, Terms, World, every_arm, shares


def a_run(ladders: list[list[int]], success: list[float]) -> Run:
    """The arms of each session's attempts, and how it ended."""
    notes = attempts.Notes()
    for session, ladder in enumerate(ladders):
        for number, arm in enumerate(ladder, 1):
            notes.add(
                session=session,
                number=number,
                arm=arm,
                foretold_success=None,
                foretold_usd=None,
                success=success[session] if number == len(ladder) else 0.0,
                cost_usd=1.0,
                left=number < len(ladder),
            )
    return Run(
        task=np.arange(len(ladders)),
        success=np.array(success),
        cost_usd=np.array([float(len(ladder)) for ladder in ladders]),
        attempts=np.array([len(ladder) for ladder in ladders]),
        wall_seconds=1.0,
        tried=notes.all(),
    )


RUN = a_run([[0], [0, 1], [1, 2, 0], [0, 1], [2]], [1.0, 1.0, 0.0, 0.0, 0.0])


def test_curves_are_sums_so_far() -> None:
    curve = series.cumulative([np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, -1.0])])
    assert curve.sessions.tolist() == [1, 2, 3]
    assert curve.mean.tolist() == [2.0, 4.0, 5.0]
    assert curve.stderr is not None
    assert curve.stderr.tolist() == pytest.approx([1.0, 1.0, 1.0])
    long = series.cumulative([np.ones(100_000)])
    assert long.stderr is None
    assert len(long.sessions) < 1000
    assert (long.sessions[0], long.sessions[-1], long.mean[-1]) == (1, 100_000, 100_000)


def test_shares_are_of_first_attempts() -> None:
    found = series.first_choices([RUN], 3)
    assert found.edges.tolist() == [0, 5]
    assert found.of_arm.tolist() == [pytest.approx([3 / 5, 1 / 5, 1 / 5])]
    halves = a_run([[0]] * 100 + [[1, 0]] * 100, [1.0] * 200)
    found = series.first_choices([halves], 2)
    assert found.edges.tolist() == [0, 100, 200]
    assert found.of_arm.tolist() == [[1, 0], [0, 1]]
    assert series.used([halves, halves], 2).tolist() == [400, 200]


def test_flows_follow_sessions_to_their_end() -> None:
    found = flows.follow([RUN], 3)
    resolved, failed = 3, 4
    assert len(found.moves) == 3
    assert found.sessions == 5
    first, second, third = found.moves
    assert first[0].tolist() == [0, 2, 0, 1, 0]
    assert first[1].tolist() == [0, 0, 1, 0, 0]
    assert first[2, failed] == 1
    assert second[1].tolist() == [0, 0, 0, 1, 1]
    assert second[2, 0] == second[resolved, resolved] == second[failed, failed] == 1
    assert third[0, failed] == 1
    assert found.at(3).tolist() == [0, 0, 0, 2, 3]
    joined = found.joined([0, 1, 1], 2)
    assert joined.moves[0].tolist() == [[0, 2, 1, 0], [0, 1, 0, 1], [0] * 4, [0] * 4]


def test_attempts_beyond_those_told_apart_are_part_of_the_end() -> None:
    found = flows.follow([a_run([[0, 1, 2, 3, 4, 5]], [1.0])], 6)
    assert len(found.moves) == 4
    assert found.moves[-1, 3, 6] == 1


@pytest.mark.parametrize("terms", [Terms(), Terms(detect=0.6, false_alarm=0.2, max_attempts=2)], ids=repr)
def test_no_ladder_is_above_the_frontier_and_its_corners_are_ladders(terms: Terms) -> None:
    rng = np.random.default_rng(5)
    success = rng.random((30, 5)) * np.array([0.4, 0.6, 0.75, 0.9, 1.0])
    cost = rng.exponential(0.5, (30, 5)) * np.array([0.1, 0.3, 1.0, 2.0, 5.0])
    world = a_table(success, cost)
    hindsight = references.look_back(success, cost, terms)
    corners = frontier.of_ladders(world, terms, hindsight)
    assert len(corners) > 2
    usd, best = (np.array([getattr(corner, of) for corner in corners]) for of in ("cost_usd", "success"))
    assert (np.diff(usd) > 0).all() and (np.diff(best) > 0).all()
    assert (np.diff(np.diff(best) / np.diff(usd)) < 0).all()
    for length in range(1, terms.max_attempts + 1):
        for ladder in itertools.permutations(range(5), length):
            of = references.along(ladder, success, cost, terms)
            spent, won = of.cost_usd.mean(), of.success.mean()
            assert won <= np.interp(spent, usd, best) + 1e-9 or spent < usd[0]
            if found := [corner for corner in corners if corner.ladder == ladder]:
                assert (found[0].cost_usd, found[0].success) == pytest.approx((spent, won))
    alone = frontier.of_arms(hindsight)
    assert all(corner.success <= np.interp(corner.cost_usd, usd, best) + 1e-12 for corner in alone)


def test_a_hull_drops_what_is_below_it() -> None:
    points = [(1.0, 0.2), (2.0, 0.5), (2.5, 0.52), (3.0, 0.7), (4.0, 0.7), (1.0, 0.1), (2.0, 0.5)]
    made = [Point(ladder=(i,), cost_usd=usd, success=success) for i, (usd, success) in enumerate(points)]
    assert [corner.ladder[0] for corner in hull(made)] == [0, 1, 3]
    free = [Point(ladder=(i,), cost_usd=0.0, success=success) for i, success in enumerate((0.3, 0.6, 0.6))]
    assert [corner.ladder[0] for corner in hull(free)] == [1]


def gathered(world: World, terms: Terms, policies: list[str], seeds: int, sessions: int | None) -> Study:
    hindsight = references.look_back(world.success, world.cost_usd, terms, shares(world, sessions))
    runs = {name: [runner.run(world, terms, name, seed, sessions) for seed in range(seeds)] for name in policies}
    return study.gather(world, terms, hindsight, runs, compare.compare(world, terms, hindsight, runs))


@pytest.mark.parametrize(
    ("name", "sessions"),
    [
        ("new-arm", 1100),
        ("retired-arm", 1100),
        ("retired-arm", 60),
        ("price-cut", 1100),
        ("missing", 90),
        ("struggling", 60),
    ],
)
def test_worlds_of_every_kind_can_be_looked_at(name: str, sessions: int) -> None:
    table = synthetic.make(name)
    world = struggling.running(table) if name == "struggling" else table
    found = gathered(world, Terms(delay=3), ["ladder:brisk>solid", "uniform"], 2, sessions)
    for policy in found.policies:
        assert policy.flows.moves.sum(axis=(1, 2)).tolist() == [2 * sessions] * len(policy.flows.moves)
        resolved = policy.flows.at(len(policy.flows.moves))[-2]
        assert resolved / (2 * sessions) == pytest.approx(policy.figures.success_rate)
        assert policy.shares.of_arm.sum(axis=1) == pytest.approx(1.0)
        assert policy.utility.mean[-1] / sessions == pytest.approx(policy.figures.utility_per_session)
        gap = found.result.paired[policy.figures.name]["best_fixed_ladder"].difference
        assert policy.regret.mean[-1] / sessions == pytest.approx(-gap)
        assert policy.reliability == ()
    assert sorted(found.by_use) == list(range(len(every_arm(world))))
    steady = {found.result.arms.index(arm) for arm in found.result.references.always}
    for corner in (*found.arm_frontier, *found.ladder_frontier):
        assert set(corner.ladder) <= steady
        assert np.isfinite([corner.success, corner.cost_usd]).all()


def test_what_one_arm_or_one_session_comes_to_can_be_looked_at() -> None:
    one = a_table(np.array([[1.0], [0.0]]), np.zeros((2, 1)))
    found = gathered(one, Terms(), ["thompson"], 1, 1)
    (policy,) = found.policies
    assert policy.flows.sessions == policy.utility.sessions[-1] == 1
    assert len(found.ladder_frontier) == 1


def a_table(success: np.ndarray, cost_usd: np.ndarray) -> Table:
    n_tasks, n_arms = success.shape
    return Table(
        name="table",
        arms=tuple(Arm(id=f"a{i}") for i in range(n_arms)),
        tasks=tuple(Task(id=f"t{i}") for i in range(n_tasks)),
        success=success,
        cost_usd=cost_usd,
    )
