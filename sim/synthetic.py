"""Worlds made by a rule that is known, so that the best that can be done in them is known too.

Every world has the permanent name it is called by, and is the same whenever it is made. A task is of one of five
categories and in one of three languages; both are features. What an arm's chance on it is, and what changes in
mid-stream, `rules` says. An attempt's tokens are log-normal with a factor shared by all arms on the task, and its
dollars are tokens times list price.

In ``correlated`` failures on a task come together; in ``independent`` an arm's failure says nothing about another arm.
The others are ``correlated`` but for one thing: an arm degrades, is cut in price, is added or retired at a stated
session; verdicts go missing, of all sessions alike or of failures more often (their dollars are still told); or
features interact in a way that no linear model can tell. In ``struggling`` failing attempts use twice as much, and
attempts show how they go while they run (see `struggling`).
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np

from bandit.errors import InvalidInput
from bandit.types import Arm, Price
from sim import references
from sim.rules import CATEGORIES, LANGUAGES, PLANS, Plan, Rule
from sim.world import Change, Floats, Table, Task, Terms, phases

NAMES = tuple(PLANS)

_SEED = 20_260_101
_TOKENS = (120_000.0, 9_000.0)
"""Expected input and output tokens of an attempt."""
_SPREAD_SHARED, _SPREAD_OWN = 0.6, 0.4
"""Standard deviations of the logarithm of tokens: what all arms share on a task, and each arm's own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Optimum:
    """The best that can be done over all tasks the world may ever make, in expectation, not just over those it made."""

    first_session: int = 0
    """Where what it is about begins."""
    best_single: tuple[int, float]
    """Position of the arm and its utility a session in dollars."""
    best_fixed_ladder: tuple[tuple[int, ...], float]
    """Positions of its arms, in order, and its utility. Like the best arm, of arms that are there all the time."""
    best_policy: float
    """Utility of the best policy that sees the features: the best ladder for each of them. An alarm is all that a
    policy learns within a session, so no policy is better than a ladder for each value of the features. Where the
    world changes it is the best at each time."""
    phases: tuple["Optimum", ...] = ()
    """Where the world changes: the best between changes."""


def make(name: str) -> Table:
    """The world of that name. Raises InvalidInput where there is none."""
    if name not in PLANS:
        raise InvalidInput("--world", f"no world {name!r}; known: {', '.join(NAMES)}")
    return sample(name, n_tasks=PLANS[name].n_tasks, seed=_SEED)


def sample(name: str, *, n_tasks: int, seed: int) -> Table:
    """Other tasks from the rules of the world of that name, with its changes as far as so many tasks come to them."""
    plan = PLANS[name]
    rng = np.random.default_rng(seed)
    category = rng.integers(len(CATEGORIES), size=n_tasks)
    language = rng.integers(len(LANGUAGES), size=n_tasks)
    theta = rng.standard_normal(n_tasks)
    shared = np.exp(_SPREAD_SHARED * rng.standard_normal((n_tasks, 1)) - _SPREAD_SHARED**2 / 2)
    own = np.exp(_SPREAD_OWN * rng.standard_normal((n_tasks, len(plan.arms))) - _SPREAD_OWN**2 / 2)
    success, cost_usd = np.empty((2, n_tasks, len(plan.arms)))
    for first, rule in plan.rules:
        success[first:] = rule.chance(plan.arms, category[first:], language[first:], theta[first:])
    tokens = (shared * own * plan.growth(success))[:, :, None] * np.array([*_TOKENS, 0.0])
    for first, rule in plan.rules:
        per_token = rule.per_token(plan.arms)
        cost_usd[first:] = tokens[first:, :, 0] * per_token[:, 0] + tokens[first:, :, 1] * per_token[:, 1]
    return Table(
        name=name,
        arms=_put(None, plan.rules[0][1], plan.arms),
        tasks=tuple(
            Task(id=f"{name}-{i:06d}", features={"category": CATEGORIES[c], "language": LANGUAGES[k]})
            for i, (c, k) in enumerate(zip(category, language, strict=True))
        ),
        success=success,
        cost_usd=cost_usd,
        usage=tokens,
        changes=tuple(
            Change(at=first, put=_put(before, after, plan.arms))
            for (_, before), (first, after) in itertools.pairwise(plan.rules)
            if first < n_tasks
        ),
        verdicts=plan.verdicts,
    )


def _put(before: Rule | None, after: Rule, arms: tuple[str, ...]) -> tuple[Arm, ...]:
    """What a router is told of arms where one rule gives way to another; None: where it is told of all of them."""
    told = []
    for arm in arms:
        if (
            before is not None
            and (arm in before.absent) == (arm in after.absent)
            and before.price(arm) == after.price(arm)
        ):
            continue
        if before is None and arm in after.absent:
            continue
        into, out = after.price(arm)
        told.append(Arm(id=arm, price=Price(input_usd=into, output_usd=out), retired=arm in after.absent))
    return tuple(told)


def optimum(name: str, terms: Terms, sessions: int | None = None) -> Optimum:
    """What is best in the world of that name, exactly up to quadrature over theta (error below 1e-9).

    Where it changes: over a run of so many sessions, or of each task once. It is the best without leaving an attempt
    that runs, which pays in ``struggling`` alone.
    """
    plan = PLANS[name]
    # The trapezoid rule converges geometrically for a smooth function times the normal density.
    theta = np.linspace(-9.0, 9.0, 361)
    density = np.exp(-(theta**2) / 2)
    density /= density.sum()
    lasting = {run.start: len(run) for run, _ in phases(make(name), sessions)}
    parts = [(first, lasting[first], _expected(plan, rule, theta)) for first, rule in plan.rules if first in lasting]
    within = tuple(_best(first, [(1, cells)], density, terms) for first, _, cells in parts)
    if len(within) == 1:
        return within[0]
    whole = _best(0, [(n, cells) for _, n, cells in parts], density, terms)
    mean = sum(n * best.best_policy for (_, n, _), best in zip(parts, within, strict=True))
    return replace(whole, best_policy=mean / sum(n for _, n, _ in parts), phases=within)


_Cells = list[tuple[Floats, Floats]]
"""For each value of the features the chance of success and expected dollars, shape (n_theta, n_arms)."""


def _expected(plan: Plan, rule: Rule, theta: Floats) -> _Cells:
    usd = rule.per_token(plan.arms) @ np.array(_TOKENS)
    cells = itertools.product(range(len(CATEGORIES)), range(len(LANGUAGES)))
    chances = [rule.chance(plan.arms, np.full(theta.shape, c), np.full(theta.shape, k), theta) for c, k in cells]
    return [(chance, usd * plan.growth(chance)) for chance in chances]


def _best(first: int, parts: list[tuple[int, _Cells]], density: Floats, terms: Terms) -> Optimum:
    """The best over parts of so many sessions each."""
    success, cost = (np.concatenate([cell[i] for _, cells in parts for cell in cells]) for i in (0, 1))
    weights = np.concatenate([n * density for n, cells in parts for _ in cells])
    found = references.look_back(success, cost, terms, weights)
    by_cell = 0.0
    for i in range(0, len(success), len(density)):
        here = slice(i, i + len(density))
        ladder = references.look_back(success[here], cost[here], terms, density).best_ladder
        by_cell += float(found.weights[here] @ ladder.utility(terms))
    return Optimum(
        first_session=first,
        best_single=(found.best_single.ladder[0], float(found.weights @ found.best_single.utility(terms))),
        best_fixed_ladder=(found.best_ladder.ladder, float(found.weights @ found.best_ladder.utility(terms))),
        best_policy=by_cell,
    )
