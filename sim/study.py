"""All that a report shows of a simulation, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bandit.frontier import Point
from sim import calibration, flows, frontier, series
from sim.calibration import Bin
from sim.flows import Flows
from sim.references import Hindsight
from sim.result import PolicyResult, Result
from sim.runner import Run
from sim.series import Curve, Shares
from sim.world import Terms, World


@dataclass(frozen=True, kw_only=True, eq=False)
class PolicyStudy:
    """One policy, over all its seeds."""

    figures: PolicyResult
    utility: Curve
    """Dollars so far."""
    regret: Curve
    """What the best fixed ladder in hindsight would have earned so far on these sessions, less what was earned."""
    shares: Shares
    reliability: tuple[Bin, ...]
    """Empty where it foretells no success."""
    flows: Flows


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """The whole; arms are known by their positions in `result.arms`."""

    world: str
    terms: Terms
    result: Result
    policies: tuple[PolicyStudy, ...]
    """In the order of `result.policies`."""
    arm_frontier: tuple[Point, ...]
    ladder_frontier: tuple[Point, ...]
    by_use: tuple[int, ...]
    """All arms, those with the most attempts first."""


def gather(
    world: World, terms: Terms, hindsight: Hindsight, runs: Mapping[str, Sequence[Run]], result: Result
) -> Study:
    """From what `compare` takes and gives."""
    n_arms = len(result.arms)
    ladder = hindsight.best_ladder.utility(terms)
    policies = []
    for figures in result.policies:
        of_seeds = runs[figures.name]
        earned = [terms.value_usd * run.success - run.cost_usd for run in of_seeds]
        lost = [ladder[run.task] - own for run, own in zip(of_seeds, earned, strict=True)]
        policies.append(
            PolicyStudy(
                figures=figures,
                utility=series.cumulative(earned),
                regret=series.cumulative(lost),
                shares=series.first_choices(of_seeds, n_arms),
                reliability=calibration.reliability(of_seeds),
                flows=flows.follow(of_seeds, n_arms),
            )
        )
    used = sum((series.used(of_seeds, n_arms) for of_seeds in runs.values()), np.zeros(n_arms, np.int64))
    return Study(
        world=world.name,
        terms=terms,
        result=result,
        policies=tuple(policies),
        arm_frontier=frontier.of_arms(hindsight),
        ladder_frontier=frontier.of_ladders(world, terms, hindsight),
        by_use=tuple(np.argsort(-used, kind="stable").tolist()),
    )
