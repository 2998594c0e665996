"""The demo's world: work for a fleet of agents, made from a catalogue's benchmark figures.

A session's category is drawn at random; features are its category, a repository and the number of files it touches.
Arm k resolves it with chance

    logistic(a logit(figure[category, k]) + surprise[category, k] + ease[repository] - sigma theta)

where theta ~ N(0, 1) is how hard the session is beyond its features, a makes up for averaging over it, and the
surprise is what real work always adds to a benchmark table. Dollars are log-normal around the figure's mean, with a
factor that all arms share on a session.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit

from bandit.errors import InvalidInput
from bandit.success import attenuation
from bandit.types import Arm
from sim.world import Table, Task

_SIGMA = 2.2
_SURPRISE = 0.4
"""Spread of what the figures do not tell, in logits."""
_EASE = (0.8, 0.3, -0.2, -0.9)
"""Of the repositories, in logits."""
_SHARED, _OWN = 0.6, 0.5
"""Standard deviations of the log of dollars: what arms share on a session, and what is each one's own."""
_LONGER_WHEN_HARD = 0.25


def world(arms: Sequence[Arm], *, n_tasks: int, seed: int) -> Table:
    """Work for `n_tasks` sessions, its verdicts already drawn.

    Raises InvalidInput where an arm lacks a success rate or cost figure for one of the categories.
    """
    rng = np.random.default_rng(seed)
    categories = sorted({figure.category for arm in arms for figure in arm.figures if figure.category is not None})
    if not categories:
        raise InvalidInput("arms", "no arm has figures by category to make a world from")
    rate, mean_usd = np.zeros((len(categories), len(arms))), np.zeros((len(categories), len(arms)))
    for (c, name), (k, arm) in itertools.product(enumerate(categories), enumerate(arms)):
        figure = next((f for f in arm.figures if f.category == name), None)
        if figure is None or figure.cost_usd is None:
            raise InvalidInput(f"arms.{arm.id}.figures", f"no success rate and cost for the category {name!r}")
        rate[c, k], mean_usd[c, k] = np.clip(figure.success_rate, 0.02, 0.98), figure.cost_usd
    category = rng.integers(len(categories), size=n_tasks)
    repository = rng.integers(len(_EASE), size=n_tasks)
    files = rng.geometric(0.3, size=n_tasks)
    theta = rng.standard_normal(n_tasks)
    ability = attenuation(_SIGMA) * logit(rate) + _SURPRISE * rng.standard_normal(rate.shape)
    chance = expit(ability[category] + (np.array(_EASE)[repository] - _SIGMA * theta)[:, None])
    spread = _SHARED * rng.standard_normal((n_tasks, 1)) + _OWN * rng.standard_normal((n_tasks, len(arms)))
    longer = _LONGER_WHEN_HARD * theta[:, None]
    variance = _SHARED**2 + _OWN**2 + _LONGER_WHEN_HARD**2
    return Table(
        name="fleet",
        arms=tuple(arms),
        tasks=tuple(
            Task(
                id=f"session-{i:05d}",
                features={
                    "category": categories[category[i]],
                    "repository": f"repository-{repository[i]}",
                    "files": float(files[i]),
                },
            )
            for i in range(n_tasks)
        ),
        success=(rng.random((n_tasks, len(arms))) < chance).astype(np.float64),
        cost_usd=mean_usd[category] * np.exp(spread + longer - variance / 2.0),
    )
