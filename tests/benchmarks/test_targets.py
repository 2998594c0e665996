"""The arithmetic of `make targets`, on a pool small enough to know; halves, and the figures one gives the other."""

import math

import numpy as np
import pytest
from rich.console import Console

from bandit.types import Arm
from sim.world import Table, Task, Terms
from tests.benchmarks import cases, measured, sheets, targets
from tests.benchmarks.cases import Case, Place

N_TASKS = 13
RNG = np.random.default_rng(3)
TINY = Table(
    name="tiny",
    arms=(Arm(id="cheap"), Arm(id="dear")),
    tasks=tuple(Task(id=f"t{i}", features={"category": "ab"[i % 2]}) for i in range(N_TASKS)),
    success=(RNG.random((N_TASKS, 2)) < [0.5, 0.9]).astype(float),
    cost_usd=np.tile([0.1, 1.0], (N_TASKS, 1)),
)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setattr(measured, "pool", lambda data, name: TINY)
    monkeypatch.setattr(targets, "AIMS", {("tiny", 5.0): (0.5, 9.0)})
    # The caches know the real pools by folder, and this folder is nobody else's.
    return targets.Runs(tmp_path, 1, Console(quiet=True))


def best_ladder() -> float:
    """Utility of the best of the four ladders of two arms at value 5, by hand."""
    s, c = TINY.success, TINY.cost_usd
    found = [(5 * s[:, k] - c[:, k]).mean() for k in (0, 1)]
    for a, b in ((0, 1), (1, 0)):
        found.append((5 * np.maximum(s[:, a], s[:, b]) - c[:, a] - (1 - s[:, a]) * c[:, b]).mean())
    return max(found)


def test_shares_are_of_the_best_ladder_and_their_errors_between_seeds(runs) -> None:
    (row,) = targets.whole_pools(runs, 3).rows
    means = [targets.utility(run, Terms()).mean() for run in runs.of(Place(pool="tiny"), Terms(), "thompson", 3)]
    assert row["ladder"] == pytest.approx(best_ladder())
    assert row["share"] == pytest.approx(np.mean(means) / best_ladder())
    assert row["share_stderr"] == pytest.approx(np.std(means, ddof=1) / math.sqrt(3) / best_ladder())
    assert row["met"] == (row["share"] + 2 * row["share_stderr"] >= 0.5)
    assert row["minus_ladder"].difference == pytest.approx(np.mean(means) - best_ladder())


def test_halves_are_held_to_their_own_ladders(runs) -> None:
    (row,) = targets.on_halves(runs, 2, figures=True).rows
    shares = []
    for split in (0, 1):
        mine = theirs = 0.0
        for side in (0, 1):
            place = Place(pool="tiny", half=(split, side), figures=True)
            run = runs.one(Case(place=place, terms=Terms(), policy="thompson", seed=2 * split + side))
            mine += targets.utility(run, Terms()).mean()
            hindsight = cases.hindsight(runs.data, place, Terms())
            theirs += hindsight.best_ladder.utility(Terms()).mean()
        shares.append(mine / theirs)
    assert row["share"] == pytest.approx(np.mean(shares))
    assert row["aim"] == 9.0
    assert not row["met"]


def test_halves_share_no_task_and_leave_none_out() -> None:
    first, second = measured.halves(TINY, 5)
    ids = [task.id for task in (*first.tasks, *second.tasks)]
    assert sorted(ids) == sorted(task.id for task in TINY.tasks)
    assert [task.id for task in measured.halves(TINY, 6)[0].tasks] != [task.id for task in first.tasks]


def test_figures_are_those_of_the_other_half(runs) -> None:
    first, second = measured.halves(TINY, 0)
    world = cases.world(runs.data, Place(pool="tiny", half=(0, 1), figures=True))
    assert world.tasks == second.tasks
    of_a = [i for i, task in enumerate(first.tasks) if task.features["category"] == "a"]
    figure = next(figure for figure in world.arms[1].figures if figure.category == "a")
    assert figure.success_rate == pytest.approx(first.success[of_a, 1].mean())
    assert figure.cost_usd == pytest.approx(first.cost_usd[of_a, 1].mean())


def test_a_ratio_over_streams_is_of_their_sums() -> None:
    ladder = np.array([1.0, 2.0, 4.0])
    streams = [(np.array([0, 1]), np.array([1.0, 1.0])), (np.array([1, 2]), np.array([2.0, 5.0]))]
    share, stderr = targets._of_ladder(streams, ladder)
    assert share == pytest.approx(9.0 / 9.0)
    # Residuals 1 - 1.5 and 3.5 - 3 over a mean of 2.25.
    assert stderr == pytest.approx(np.std([-0.5, 0.5], ddof=1) / math.sqrt(2) / 2.25)


@pytest.mark.parametrize(("stderr", "met"), [(0.004, False), (0.005, True), (math.nan, False)])
def test_an_aim_is_reached_by_the_mean_and_two_standard_errors(stderr: float, met: bool) -> None:
    assert sheets.reached(0.99, stderr, 1.0) is met


def test_a_sheet_reads_the_same_in_markdown(runs) -> None:
    sheet = targets.whole_pools(runs, 2)
    heading, _, row = sheet.markdown().splitlines()[2:5]
    assert heading.startswith("| pool, value | ladder | of it | aim | met |")
    assert f"| tiny, 5 | {best_ladder():.3f} |" in row
    assert "| ≥ 50.0 % | yes |" in row
