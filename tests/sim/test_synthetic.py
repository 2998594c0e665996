"""The known optimum of the synthetic worlds, against plain simulation of other tasks from the same rule."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from bandit.errors import InvalidInput
from sim import references, synthetic
from sim.rules import ARMS, PLANS
from sim.world import Floats, Table, Terms, every_arm, shares

TERMS = [Terms(value_usd=5.0), Terms(value_usd=2.0, detect=0.8, false_alarm=0.1)]


def played(ladder: tuple[int, ...], world: Table, terms: Terms, rng: np.random.Generator) -> Floats:
    """Utility of a ladder on each task, played out: truths and alarms are drawn."""
    n_tasks = len(world.tasks)
    going, won, spent = np.ones(n_tasks, bool), np.zeros(n_tasks, bool), np.zeros(n_tasks)
    for arm in ladder:
        good = rng.random(n_tasks) < world.success[:, arm]
        alarm = rng.random(n_tasks) < np.where(good, terms.false_alarm, terms.detect)
        spent += going * world.cost_usd[:, arm]
        won = np.where(going, good, won)
        going = going & alarm
    return np.asarray(terms.value_usd * won - spent)


@pytest.mark.parametrize("name", synthetic.NAMES)
@pytest.mark.parametrize("terms", TERMS, ids=repr)
def test_optimum_is_what_simulation_finds(name: str, terms: Terms) -> None:
    """Within 5 standard errors: a false failure in 1.7 million for each of some ninety comparisons."""
    best = synthetic.optimum(name, terms)
    world = synthetic.sample(name, n_tasks=50_000, seed=1)
    if best.phases:
        # The last of them lasts; what was before is another world's rule, with an arm less perhaps.
        best = best.phases[-1]
        world = rows(world, best.first_session)
    there = np.flatnonzero(~np.isnan(world.success[0])).tolist()
    rng = np.random.default_rng(2)
    utility = {
        ladder: played(ladder, world, terms, rng)
        for length in (1, 2, 3)
        for ladder in itertools.permutations(there, length)
    }

    def error(values: Floats) -> float:
        return 5 * float(values.std()) / math.sqrt(len(values))

    (arm, of_arm), (ladder, of_ladder) = best.best_single, best.best_fixed_ladder
    assert abs(utility[arm,].mean() - of_arm) < error(utility[arm,])
    assert abs(utility[ladder].mean() - of_ladder) < error(utility[ladder])
    # None is better, but for the noise of the difference.
    for other, values in utility.items():
        if len(other) == 1:
            assert (values - utility[arm,]).mean() <= error(values - utility[arm,])
        assert (values - utility[ladder]).mean() <= error(values - utility[ladder])
    # Given the features: choose each one's ladder on half of the tasks and look at the other half.
    cell = np.array([hash_of(task.features) for task in world.tasks])
    choosing = rng.random(len(cell)) < 0.5
    rest = np.empty(0)
    for features in np.unique(cell):
        here = cell == features
        chosen = max(utility, key=lambda one: float(utility[one][here & choosing].mean()))
        rest = np.append(rest, utility[chosen][here & ~choosing])
    slack = 0.01  # what choosing on a finite half may cost
    assert -slack - error(rest) < rest.mean() - best.best_policy < error(rest)
    # To the last bits: they are sums in another order.
    assert best.best_policy >= of_ladder - 1e-12
    assert of_ladder > of_arm


def rows(world: Table, start: int) -> Table:
    """The world's tasks from a position on, as a world of its own."""
    return replace(
        world, tasks=world.tasks[start:], success=world.success[start:], cost_usd=world.cost_usd[start:], changes=()
    )


@pytest.mark.parametrize("sessions", [None, 1200, 9000])
@pytest.mark.parametrize("name", ["degrading", "price-cut", "new-arm", "retired-arm"])
def test_a_changing_world_is_one_and_then_the_other(name: str, sessions: int | None) -> None:
    """The optimum over the run lies between what its phases' own best come to and what one ladder does in both."""
    terms = Terms()
    best, world = synthetic.optimum(name, terms, sessions), synthetic.make(name)
    at, whole = world.changes[0].at, sessions or len(world.tasks)
    if whole <= at:
        assert best.phases == ()
        assert best.best_policy == pytest.approx(synthetic.optimum("correlated", terms).best_policy, abs=1e-9)
        return
    before, after = best.phases
    assert (before.first_session, after.first_session) == (0, at)
    share = at / whole

    def mixed(one: float, other: float) -> float:
        return share * one + (1 - share) * other

    assert best.best_policy == pytest.approx(mixed(before.best_policy, after.best_policy))
    assert best.best_fixed_ladder[1] <= mixed(before.best_fixed_ladder[1], after.best_fixed_ladder[1]) + 1e-9
    assert best.best_single[1] <= mixed(before.best_single[1], after.best_single[1]) + 1e-9
    changed = {arm.id for arm in world.changes[0].put}
    assert changed == {"degrading": set(), "price-cut": {"grand"}, "new-arm": {"novel"}, "retired-arm": {"brisk"}}[name]
    # An arm that is not always there is in no fixed ladder.
    names = [arm.id for arm in every_arm(world)]
    if name in ("new-arm", "retired-arm"):
        assert not changed & {names[k] for k in best.best_fixed_ladder[0]}
    hindsight = references.look_back(world.success, world.cost_usd, terms, shares(world, sessions))
    assert len(hindsight.always) == 5 - (name == "retired-arm")
    # Tasks of one draw are not all tasks: only near, by the spread of a mean over 1000 tasks.
    found = float(hindsight.weights @ np.nan_to_num(hindsight.best_ladder.utility(terms)))
    assert found == pytest.approx(best.best_fixed_ladder[1], abs=0.35)


def test_no_linear_model_tells_the_interaction() -> None:
    """In logits, what the features' own parts leave of an arm that is twisted is the twist itself, up to its size."""
    world = synthetic.make("misspecified")
    rule = PLANS["misspecified"].rules[0][1]
    category, language = (grid.ravel() for grid in np.meshgrid(np.arange(5), np.arange(3), indexing="ij"))
    chance = rule.chance(ARMS, category, language, np.zeros(15))
    logit = np.log(chance / (1 - chance)).reshape(5, 3, 5)
    rest = logit - logit.mean(axis=0) - logit.mean(axis=1, keepdims=True) + logit.mean(axis=(0, 1))
    assert np.abs(rest).max(axis=(0, 1)) == pytest.approx([0.0, 1.5, 1.5, 1.5, 0.0], abs=1e-9)
    assert world.changes == ()


def hash_of(features: dict[str, object]) -> str:
    return f"{features['category']}/{features['language']}"


def test_worlds_are_permanent() -> None:
    for name in synthetic.NAMES:
        one, two = synthetic.make(name), synthetic.make(name)
        assert one.tasks == two.tasks
        assert one.success.tobytes() == two.success.tobytes()
        assert one.cost_usd.tobytes() == two.cost_usd.tobytes()


def test_dollars_are_tokens_times_price() -> None:
    world = synthetic.make("correlated")
    price, outcome = world.arms[1].price, world.outcome(7, 1, 1)
    assert price is not None
    assert outcome.usage is not None
    paid = (outcome.usage.input_tokens * price.input_usd + outcome.usage.output_tokens * price.output_usd) / 1e6
    assert outcome.cost_usd == pytest.approx(paid)


def test_failures_come_together_in_one_world_only() -> None:
    """Correlation across tasks of one cell of features, of two arms' chances."""
    for name, together in (("correlated", True), ("independent", False)):
        world = synthetic.make(name)
        cell = [i for i, task in enumerate(world.tasks) if hash_of(task.features) == "bug/python"]
        spread = world.success[cell].std(axis=0)
        assert (spread > 0.1).all() if together else (spread < 1e-12).all()


def test_an_unknown_world_is_refused() -> None:
    with pytest.raises(InvalidInput, match="--world: no world 'nowhere'; known: correlated, independent, "):
        synthetic.make("nowhere")
