"""What no fixed choice does better: the most success for its dollars.

A coin between two fixed choices comes to any point between them, so a frontier is the upper hull of the points. Its
corners are what is best for some value of a success.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Point:
    """A fixed choice: means over sessions."""

    ladder: tuple[int, ...]
    """Positions of its arms."""
    success: float
    cost_usd: float


def hull(points: Sequence[Point]) -> tuple[Point, ...]:
    """The corners of the upper hull, from the cheapest to the most successful, each dearer and better than the last."""
    corners: list[Point] = []
    for point in sorted(points, key=lambda one: (one.cost_usd, -one.success)):
        if corners and point.success <= corners[-1].success:
            continue
        while len(corners) > 1 and _slope(corners[-2], corners[-1]) <= _slope(corners[-2], point):
            corners.pop()
        corners.append(point)
    return tuple(corners)


def _slope(cheap: Point, dear: Point) -> float:
    spent = dear.cost_usd - cheap.cost_usd
    return (dear.success - cheap.success) / spent if spent > 0.0 else math.inf
