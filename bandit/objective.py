"""Objectives: rules that say, for each posterior draw, which arm is best. Any such rule is Thompson sampling."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bandit.errors import InvalidInput
from bandit.types import Objective

Floats = npt.NDArray[np.floating[Any]]

_INDIFFERENCE = 0.02
"""Going on and stopping are as good as equal where they differ by less than this share of a success's value."""


def require_whole(objective: Objective, field: str = "objective") -> None:
    """Raises InvalidInput where the objective has a budget without its period or a period without budget."""
    if (objective.budget_usd is None) != (objective.budget_period_seconds is None):
        missing = "budget_usd" if objective.budget_usd is None else "budget_period_seconds"
        raise InvalidInput(f"{field}.{missing}", "a budget and its period are given together")


def shares(values: Floats) -> Floats:
    """Share of the draws in which each arm is best, ties to the first.

    `values` (n_arms, n_situations, n_draws) gives shape (n_situations, n_arms).
    """
    n_arms, n_situations, n_draws = values.shape
    best = np.argmax(values, axis=0) + n_arms * np.arange(n_situations)[:, None]
    counts = np.bincount(best.ravel(), minlength=n_arms * n_situations)
    return np.asarray(counts.reshape(n_situations, n_arms) / n_draws)


def stop_propensity(values: Floats, belief_mass: Floats, stop_value_usd: Floats, value_usd: float) -> float:
    """Probability of giving up rather than taking the best step.

    Decided on expected value, with probability 0 or 1, except within a margin of indifference, where the share of
    the draws that would stop is drawn from, so that both answers stay in the log.
    `values` (n_arms, n_draws) are scaled by `belief_mass` (n_draws,); `stop_value_usd` (n_draws,) is what stopping
    is worth. Going on is worth the mean over the draws of the best step in each: deciding by the posterior mean
    alone would give up on arms of which little is known, and so never learn of them.
    """
    going = values.max(axis=0) / belief_mass
    advantage = float(np.mean(going) - np.mean(stop_value_usd))
    if abs(advantage) > _INDIFFERENCE * value_usd:
        return float(advantage < 0.0)
    return float(np.mean(going <= stop_value_usd))
