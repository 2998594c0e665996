"""Regret in a synthetic world: what its best policy earns on the very same truths, less what a run earned.

Both see the same draws, so that most of the noise cancels; its mean is that of the regret in expectation.
"""

import itertools

import numpy as np

from bandit import sampling
from sim import references
from sim.rules import CATEGORIES, LANGUAGES, PLANS
from sim.runner import Run
from sim.world import Floats, Table, Terms, every_arm


def regret(world: Table, terms: Terms, run: Run, seed: int) -> Floats:
    """Dollars of each session, shape (n_sessions,), for terms under which every failure and no success is noticed."""
    best = _best(world, terms)
    names = [arm.id for arm in every_arm(world)]
    starts = [first for first, _ in PLANS[world.name].rules]
    gap = np.empty(len(run.task))
    for i, task in enumerate(run.task.tolist()):
        features = world.tasks[task].features
        phase = sum(first <= task for first in starts) - 1
        earned = 0.0
        for arm in best[phase, features["category"], features["language"]]:
            earned -= float(world.cost_usd[task, arm])
            drawn = sampling.uniform(b"sim success", seed, f"{seed}-{i}\0{names[arm]}", 0)
            if drawn < world.success[task, arm]:
                earned += terms.value_usd
                break
        gap[i] = earned - (terms.value_usd * run.success[i] - run.cost_usd[i])
    return gap


def _best(world: Table, terms: Terms) -> dict[tuple[object, ...], tuple[int, ...]]:
    """The best ladder at each time for each value of the features."""
    theta = np.linspace(-9.0, 9.0, 181)
    plan = PLANS[world.name]
    best: dict[tuple[object, ...], tuple[int, ...]] = {}
    for phase, (_, rule) in enumerate(plan.rules):
        usd = np.tile(rule.per_token(plan.arms) @ np.array([120_000.0, 9_000.0]), (len(theta), 1))
        for c, k in itertools.product(range(len(CATEGORIES)), range(len(LANGUAGES))):
            chance = rule.chance(plan.arms, np.full(theta.shape, c), np.full(theta.shape, k), theta)
            found = references.look_back(chance, usd, terms, np.exp(-(theta**2) / 2))
            best[phase, CATEGORIES[c], LANGUAGES[k]] = found.best_ladder.ladder
    return best
