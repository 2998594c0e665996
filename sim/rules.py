"""What the synthetic worlds are, by name: the rules that hold in each, one after the other.

A rule gives every arm's chance on a task and its list price. Arm k resolves a task with chance

    logistic(ability[k] + affinity[category, k] + ease[language] + interaction x twist[category, language, k]
             - difficulty x theta),   theta ~ N(0, 1) per task.

theta is what no feature tells. The twist sums to zero over the languages of each category and over the categories of
each language, so that no sum of a part for the category and one for the language comes nearer to it than 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from sim.world import Floats

Ints = npt.NDArray[np.int64]

CATEGORIES = ("bug", "feature", "refactor", "docs", "tests")
LANGUAGES = ("python", "rust", "javascript")
ARMS = ("grand", "solid", "brisk", "small", "feeble")
NOVEL = "novel"
"""One more arm, in worlds to which one is added."""

# Dollars per million tokens, input and output; feeble is both dear and bad, as pools of real arms are.
_PRICES = {
    "grand": (5.0, 25.0),
    "solid": (2.0, 10.0),
    "brisk": (0.6, 2.5),
    "small": (0.1, 0.4),
    "feeble": (1.0, 5.0),
    NOVEL: (0.6, 2.5),
}
_ABILITY = {"grand": 2.2, "solid": 1.6, "brisk": 0.9, "small": 0.1, "feeble": -2.5, NOVEL: 2.2}
_AFFINITY = {
    "grand": (0.3, 0.6, -0.3, 0.0, -0.8),
    "solid": (0.0, -0.6, 0.6, 0.3, 0.2),
    "brisk": (-0.2, -0.9, 0.1, 1.2, 0.9),
    "small": (-0.8, -1.5, -0.3, 1.6, 0.0),
}
"""By category, in logits; 0 for arms that are not named."""
_EASE = np.array([0.5, -0.6, 0.0])
_TWIST = np.outer((1.0, -1.0, 1.0, -1.0, 0.0), (1.0, -1.0, 0.0))
_TWISTED = {"grand": 0.0, "solid": 1.0, "brisk": -1.0, "small": 1.0}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What holds for a while."""

    difficulty: float = 2.5
    """Spread of what no feature tells, in logits."""
    interaction: float = 0.0
    """Size of the twist, in logits."""
    risen: Mapping[str, float] = field(default_factory=dict)
    """Logits by which an arm is better than usual."""
    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """List prices where they are not the usual ones."""
    absent: frozenset[str] = frozenset()
    """Arms that are not there."""

    def chance(self, arms: tuple[str, ...], category: Ints, language: Ints, theta: Floats) -> Floats:
        """Chance of success, shape (n_tasks, n_arms), NaN where the arm is not there; the rest has (n_tasks,)."""
        own = np.array([_ABILITY[arm] + self.risen.get(arm, 0.0) for arm in arms])
        affinity = np.array([_AFFINITY.get(arm, (0.0,) * len(CATEGORIES)) for arm in arms]).T
        twisted = np.array([_TWISTED.get(arm, 0.0) for arm in arms])
        logit = own + affinity[category] + (_EASE[language] - self.difficulty * theta)[:, None]
        logit += self.interaction * _TWIST[category, language][:, None] * twisted
        return np.where([arm in self.absent for arm in arms], np.nan, expit(logit))

    def price(self, arm: str) -> tuple[float, float]:
        """Dollars per million input and output tokens."""
        return self.prices.get(arm, _PRICES[arm])

    def per_token(self, arms: tuple[str, ...]) -> Floats:
        """Dollars per input and output token, shape (n_arms, 2), NaN where the arm is not there."""
        return np.array([(np.nan,) * 2 if arm in self.absent else self.price(arm) for arm in arms]) / 1e6


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A world: which rules hold from which session on."""

    rules: tuple[tuple[int, Rule], ...] = ((0, Rule()),)
    arms: tuple[str, ...] = ARMS
    n_tasks: int = 1000
    verdicts: tuple[float, float] = (1.0, 1.0)
    """Chance that a session's final success is told: where it failed, and where it succeeded."""
    failing_usage: float = 1.0
    """How many times as much as a good attempt a failing one uses."""

    def growth(self, success: Floats) -> Floats:
        """How many times as much as a good attempt one of that chance of success is expected to use; NaN is 0."""
        return np.asarray(1.0 + (self.failing_usage - 1.0) * (1.0 - np.nan_to_num(success)))


def _changing(before: Rule, after: Rule, *, at: int = 1000, arms: tuple[str, ...] = ARMS) -> Plan:
    return Plan(rules=((0, before), (at, after)), arms=arms, n_tasks=2 * at)


PLANS: Mapping[str, Plan] = {
    "correlated": Plan(),
    "independent": Plan(rules=((0, Rule(difficulty=0.0)),)),
    "degrading": _changing(Rule(), Rule(risen={"brisk": -2.5}), at=2000),
    "price-cut": _changing(Rule(), Rule(prices={"grand": (0.5, 2.5)})),
    "new-arm": _changing(Rule(absent=frozenset((NOVEL,))), Rule(), arms=(*ARMS, NOVEL)),
    "retired-arm": _changing(Rule(), Rule(absent=frozenset(("brisk",)))),
    "missing": Plan(verdicts=(0.6, 0.6)),
    "missing-failures": Plan(verdicts=(0.4, 0.9)),
    "misspecified": Plan(rules=((0, Rule(interaction=1.5)),)),
    "struggling": Plan(failing_usage=2.0),
}
"""Every world by its permanent name."""
