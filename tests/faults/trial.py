"""What every fault's test is given, and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Figures: TypeAlias = Mapping[str, float | str]
"""What was counted and measured, by name. Names end in their unit, where they have one."""


class Broken(Exception):
    """What is promised does not hold; the text says where."""


def require(holds: bool, what: str) -> None:
    """Raises Broken unless it holds."""
    if not holds:
        raise Broken(what)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a fault's test.

    A module of this package has an `AIM` in words and `run(trial)`, which returns its figures or raises Broken, or
    NoShim where this machine cannot do it. One that goes on for a time instead of counting has `MINUTES`.
    """

    folder: Path
    """Empty, and deleted afterwards."""
    seed: int
    quick: bool = False
    """A sample of the aim, for the default tests."""
    share: float = 1.0
    """How much of the aim is to be tried, where time is short."""
    pictures: Path | None = None
    """Where to draw what is measured over time; None: nothing is drawn."""
    tell: Callable[[float, float], None] = lambda done, of: None
    """To be called now and then with how much is done, and of how much."""

    def size(self, *, full: int, quick: int) -> int:
        """How much of something, by whether this is the aim, a share of it, or a sample."""
        return quick if self.quick else min(full, max(quick, round(full * self.share)))
