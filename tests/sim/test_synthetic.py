"""The known optimum of the synthetic worlds, against plain simulation of other tasks from the same rule."""

import itertools
import math

import numpy as np
import pytest

from bandit.errors import InvalidInput
from sim import synthetic
from sim.world import Floats, Table, Terms

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
    world = synthetic.sample(name, n_tasks=200_000, seed=1)
    rng = np.random.default_rng(2)
    utility = {
        ladder: played(ladder, world, terms, rng)
        for length in (1, 2, 3)
        for ladder in itertools.permutations(range(5), length)
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
    assert best.best_policy > of_ladder > of_arm


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
    with pytest.raises(InvalidInput, match="--world: no world 'nowhere'; known: correlated, independent"):
        synthetic.make("nowhere")
