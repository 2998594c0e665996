"""Worlds made by a rule that is known, so that the best that can be done in them is known too.

Every world has the permanent name it is called by, and is the same whenever it is made. A task is of one of five
categories and in one of three languages; both are features. Arm k resolves it with chance

    logistic(ability[k] + affinity[category, k] + ease[language] - difficulty x theta),  theta ~ N(0, 1) per task.

theta is what no feature tells: in ``correlated`` failures on a task come together, in ``independent`` (difficulty 0)
an arm's failure says nothing about another arm. An attempt's tokens are log-normal with a factor shared by all arms
on the task, and its dollars are tokens times list price.
"""

import itertools
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.special import expit

from bandit.errors import InvalidInput
from bandit.types import Arm, Price
from sim import references
from sim.world import Floats, Table, Task, Terms

DIFFICULTY = {"correlated": 2.5, "independent": 0.0}
"""Name of a world -> spread of the difficulty that no feature tells, in logits."""
NAMES = tuple(DIFFICULTY)

_TASKS = 1000
_SEED = 20_260_101
_CATEGORIES = ("bug", "feature", "refactor", "docs", "tests")
_LANGUAGES = ("python", "rust", "javascript")
_ARMS = ("grand", "solid", "brisk", "small", "feeble")
# Dollars per million tokens, input and output; feeble is both dear and bad, as pools of real arms are.
_PRICES = ((5.0, 25.0), (2.0, 10.0), (0.6, 2.5), (0.1, 0.4), (1.0, 5.0))
_ABILITY = np.array([2.2, 1.6, 0.9, 0.1, -2.5])
_AFFINITY = np.array(
    [
        [0.3, 0.0, -0.2, -0.8, 0.0],
        [0.6, -0.6, -0.9, -1.5, 0.0],
        [-0.3, 0.6, 0.1, -0.3, 0.0],
        [0.0, 0.3, 1.2, 1.6, 0.0],
        [-0.8, 0.2, 0.9, 0.0, 0.0],
    ]
)
"""Shape (n_categories, n_arms), in logits."""
_EASE = np.array([0.5, -0.6, 0.0])
_TOKENS = (120_000.0, 9_000.0)
"""Expected input and output tokens of an attempt."""
_SPREAD_SHARED, _SPREAD_OWN = 0.6, 0.4
"""Standard deviations of the logarithm of tokens: what all arms share on a task, and each arm's own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Optimum:
    """The best that can be done over all tasks the world may ever make, in expectation, not just over those it made."""

    best_single: tuple[int, float]
    """Position of the arm and its utility a session in dollars."""
    best_fixed_ladder: tuple[tuple[int, ...], float]
    """Positions of its arms, in order, and its utility."""
    best_policy: float
    """Utility of the best policy that sees the features: the best ladder for each of them. An alarm is all that a
    policy learns within a session, so no policy is better than a ladder for each value of the features."""


def make(name: str) -> Table:
    """The world of that name. Raises InvalidInput where there is none."""
    if name not in DIFFICULTY:
        raise InvalidInput("--world", f"no world {name!r}; known: {', '.join(NAMES)}")
    return sample(name, n_tasks=_TASKS, seed=_SEED)


def sample(name: str, *, n_tasks: int, seed: int) -> Table:
    """Other tasks from the rule of the world of that name."""
    rng = np.random.default_rng(seed)
    category = rng.integers(len(_CATEGORIES), size=n_tasks)
    language = rng.integers(len(_LANGUAGES), size=n_tasks)
    theta = rng.standard_normal(n_tasks)
    shared = np.exp(_SPREAD_SHARED * rng.standard_normal((n_tasks, 1)) - _SPREAD_SHARED**2 / 2)
    own = np.exp(_SPREAD_OWN * rng.standard_normal((n_tasks, len(_ARMS))) - _SPREAD_OWN**2 / 2)
    tokens = (shared * own)[:, :, None] * np.array([*_TOKENS, 0.0])
    return Table(
        name=name,
        arms=tuple(
            Arm(id=arm, price=Price(input_usd=into, output_usd=out))
            for arm, (into, out) in zip(_ARMS, _PRICES, strict=True)
        ),
        tasks=tuple(
            Task(id=f"{name}-{i:06d}", features={"category": _CATEGORIES[c], "language": _LANGUAGES[k]})
            for i, (c, k) in enumerate(zip(category, language, strict=True))
        ),
        success=_chance(category, language, DIFFICULTY[name] * theta),
        cost_usd=tokens[:, :, 0] * _per_token()[:, 0] + tokens[:, :, 1] * _per_token()[:, 1],
        usage=tokens,
    )


def optimum(name: str, terms: Terms) -> Optimum:
    """What is best in the world of that name, exactly up to quadrature over theta (error below 1e-9)."""
    # The trapezoid rule converges geometrically for a smooth function times the normal density.
    theta = np.linspace(-9.0, 9.0, 361)
    density = np.exp(-(theta**2) / 2)
    density /= density.sum()
    cells = list(itertools.product(range(len(_CATEGORIES)), range(len(_LANGUAGES))))
    expected_usd = np.broadcast_to(_per_token() @ np.array(_TOKENS), (len(theta), len(_ARMS)))
    chance = [_chance(np.full(theta.shape, c), np.full(theta.shape, k), DIFFICULTY[name] * theta) for c, k in cells]
    best = 0.0
    for cell in chance:
        ladder = references.best_ladder(cell, expected_usd, terms, density)
        best += float(density @ ladder.utility(terms)) / len(cells)
    weights = np.tile(density, len(cells)) / len(cells)
    success, cost = np.concatenate(chance), np.tile(expected_usd, (len(cells), 1))
    ladder = references.best_ladder(success, cost, terms, weights)
    single = references.best_ladder(success, cost, msgspec.structs.replace(terms, max_attempts=1), weights)
    return Optimum(
        best_single=(single.ladder[0], float(weights @ single.utility(terms))),
        best_fixed_ladder=(ladder.ladder, float(weights @ ladder.utility(terms))),
        best_policy=best,
    )


def _chance(category: npt.NDArray[np.int64], language: npt.NDArray[np.int64], difficulty: Floats) -> Floats:
    """Chance of success, shape (n_tasks, n_arms); all arguments have shape (n_tasks,), difficulty in logits."""
    return np.asarray(expit(_ABILITY + _AFFINITY[category] + (_EASE[language] - difficulty)[:, None]))


def _per_token() -> Floats:
    """Dollars per input and output token, shape (n_arms, 2)."""
    return np.array(_PRICES) / 1e6
