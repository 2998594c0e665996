"""What no fixed choice does better, in hindsight: frontiers (`bandit.frontier`) of arms alone and of ladders."""

import math
from collections import deque

import msgspec
import numpy as np

from bandit.frontier import Point, hull
from sim import references
from sim.references import Expected, Hindsight
from sim.world import Floats, Terms, World

_MOST_SEARCHES = 24
_MOST_WORK = 4e9
"""Sets of arms times arms times tasks that all searches may look at: some seconds."""


def of_arms(hindsight: Hindsight) -> tuple[Point, ...]:
    """The corners for arms alone, the cheapest first."""
    return hull([_point(always, hindsight.weights) for always in hindsight.always])


def of_ladders(world: World, terms: Terms, hindsight: Hindsight) -> tuple[Point, ...]:
    """The corners for ladders of the arms that are there all the time, the cheapest first.

    Each search finds the best ladder for one value of a success: first for next to nothing and for very much, then
    for what makes two neighbours equal. Where ladders are very many, searches are few and corners may be missing.
    """
    comes = hindsight.weights > 0.0
    steady = np.array([always.ladder[0] for always in hindsight.always])
    success, cost = (of[np.ix_(comes, steady)] for of in (world.success, world.cost_usd))
    weights = hindsight.weights[comes]

    def best(value_usd: float) -> Point:
        found = references.best_ladder(success, cost, msgspec.structs.replace(terms, value_usd=value_usd), weights)
        point = _point(found, weights)
        return Point(ladder=tuple(steady[list(found.ladder)].tolist()), success=point.success, cost_usd=point.cost_usd)

    n_arms, longest = len(steady), min(terms.max_attempts, len(steady))
    work = len(success) * n_arms * sum(math.comb(n_arms, size) for size in range(longest))
    left = max(2, min(_MOST_SEARCHES, int(_MOST_WORK / work)))
    usd = float(cost.mean()) or 1.0
    ends = best(1e-6 * usd), best(1e6 * usd)
    left -= 2
    found = list(ends)
    between = deque([ends])
    while between and left > 0:
        cheap, dear = between.popleft()
        if dear.success <= cheap.success or dear.cost_usd <= cheap.cost_usd:
            continue
        value = (dear.cost_usd - cheap.cost_usd) / (dear.success - cheap.success)
        new = best(value)
        left -= 1
        if _above(new, value) > _above(cheap, value) + 1e-9 * usd:
            found.append(new)
            between += [(cheap, new), (new, dear)]
    singles = [_point(always, hindsight.weights) for always in hindsight.always]
    return hull([*found, *singles])


def _above(point: Point, value_usd: float) -> float:
    return value_usd * point.success - point.cost_usd


def _point(expected: Expected, weights: Floats) -> Point:
    success, cost = (float(weights @ np.nan_to_num(of)) for of in (expected.success, expected.cost_usd))
    return Point(ladder=expected.ladder, success=success, cost_usd=cost)
