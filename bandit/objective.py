"""Objectives: rules that say, for each posterior draw, which arm to take. Any such rule is Thompson sampling.

With V the value of a success, b the belief over the session's difficulty, q_k(b) the success of arm k under it, G_k
the value of taking it now and going on as well as possible (see `ladder`), and

    price_k = (1 + lambda) (c_k + s_k) + kappa t_k

what its attempt costs all told (c_k its dollars, s_k what it costs to read the session so far again, t_k its seconds,
lambda the price of the budget, kappa that of a second), the rules are, in each draw:

    setting                                 the arm to take                                  going on is worth
    none of the following                   argmax G_k                                       max G_k
    quality_floor tau                       argmin price_k over {k: q_k >= tau}, and         G of that arm
                                            argmax q_k where there is none
    quality_floor tau, relative             the same with tau max q_k for tau                G of that arm

In all of them G_k counts price_k, so that lambda and kappa move the choice under utility, the order of the arms under
a floor, and, under both, whether another attempt is worth its price: after an alarm a session goes on where the arm
it would take is worth more than V P(the last attempt was good | its alarm). A floor is held by each attempt under
what is believed then, so that after a failure, when every arm is believed weaker, it mostly asks for the strongest
arm left. The caps (`cost_cap_usd`) are no objective: they rule arms out by c_k + s_k before any of this.

An arm that reaches a floor in half of the draws is taken in half of them: what a floor promises is held on average
over what is not known, and ever more exactly as more is. A relative floor compares with the best arm of the draw,
which is above the best arm's mean by what the draws scatter, so that it errs to the side of quality; at tau = 1 it is
Thompson sampling of the strongest arm.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bandit.errors import InvalidInput
from bandit.types import Objective

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

Rule: TypeAlias = Callable[[Floats, Floats], Ints]
"""(success, price) of the arms, both of shape (n_arms, …) -> position of the arm to take, shape (…)."""

INDIFFERENCE = 0.02
"""Going on and stopping are as good as equal where they differ by less than this share of a success's value."""


def require_whole(objective: Objective, field: str = "objective") -> None:
    """Raises InvalidInput where the objective has a budget without its period or a period without budget."""
    if (objective.budget_usd is None) != (objective.budget_period_seconds is None):
        missing = "budget_usd" if objective.budget_usd is None else "budget_period_seconds"
        raise InvalidInput(f"{field}.{missing}", "a budget and its period are given together")


def floor_rule(objective: Objective) -> Rule | None:
    """The rule of an objective's quality floor, ties to the first; None where it has none, so that worth decides."""
    floor, relative = objective.quality_floor, objective.quality_floor_relative
    if floor is None:
        return None

    def cheapest_that_reaches(success: Floats, price: Floats) -> Ints:
        reaches = success >= (floor * success.max(axis=0) if relative else floor)
        cheapest = np.argmin(np.where(reaches, price, np.inf), axis=0)
        return np.asarray(np.where(reaches.any(axis=0), cheapest, np.argmax(success, axis=0)))

    return cheapest_that_reaches


def shares(taken: Ints, n_arms: int) -> npt.NDArray[np.float64]:
    """Share of the draws in which each arm is taken: (n_situations, n_draws) gives shape (n_situations, n_arms)."""
    n_situations, n_draws = taken.shape
    cells = taken + n_arms * np.arange(n_situations)[:, None]
    counts = np.bincount(cells.ravel(), minlength=n_arms * n_situations)
    return np.asarray(counts.reshape(n_situations, n_arms) / n_draws)


def stop_propensity(going_usd: Floats, stop_value_usd: Floats, value_usd: float) -> float:
    """Probability of giving up rather than taking the step that the rule says.

    Decided on expected value, with probability 0 or 1, except within a margin of indifference, where the share of
    the draws that would stop is drawn from, so that both answers stay in the log.
    `going_usd` (n_draws,) is what the step taken in each draw is worth, `stop_value_usd` (n_draws,) what stopping is.
    Going on is worth the mean over the draws: deciding by the posterior mean alone would give up on arms of which
    little is known, and so never learn of them.
    """
    advantage = float(np.mean(going_usd) - np.mean(stop_value_usd))
    if abs(advantage) > INDIFFERENCE * value_usd:
        return float(advantage < 0.0)
    return float(np.mean(going_usd <= stop_value_usd))
