"""Runs and references become figures: means, standard errors, and paired differences with their intervals."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sim import calibration
from sim.references import Expected, Hindsight
from sim.result import (
    Difference,
    Four,
    LadderReference,
    PolicyResult,
    References,
    Result,
    SingleReference,
    Three,
)
from sim.runner import Run
from sim.world import Floats, Terms, World, every_arm

_REPLICATES = 2000
_CHUNK = 4_000_000
"""Numbers in one intermediate array."""


def compare(world: World, terms: Terms, hindsight: Hindsight, runs: Mapping[str, Sequence[Run]]) -> Result:
    """The whole result. `runs` has for each policy, by name, one run a seed; all policies ran the same seeds."""
    names = tuple(arm.id for arm in every_arm(world))
    single, ladder, oracle = hindsight.best_single, hindsight.best_ladder, hindsight.oracle
    always = {names[expected.ladder[0]]: expected for expected in hindsight.always}
    weights = hindsight.weights
    fixed = {"best_single": single, "best_fixed_ladder": ladder, "oracle": oracle}
    fixed |= {f"always:{name}": expected for name, expected in always.items()}
    return Result(
        tasks=len(world.tasks),
        arms=names,
        value=terms.value_usd,
        policies=tuple(_policy(name, of_seeds, terms, names) for name, of_seeds in runs.items()),
        references=References(
            always={name: Three(**_means(expected, weights, terms)) for name, expected in always.items()},
            best_single=SingleReference(arm=names[single.ladder[0]], **_means(single, weights, terms)),
            best_fixed_ladder=LadderReference(
                ladder=">".join(names[k] for k in ladder.ladder), **_means(ladder, weights, terms)
            ),
            oracle=Three(**_means(oracle, weights, terms)),
        ),
        paired=_paired(
            runs, {name: expected.utility(terms) for name, expected in fixed.items()}, len(world.tasks), terms
        ),
    )


def _means(expected: Expected, weights: Floats, terms: Terms) -> dict[str, float]:
    # Tasks that do not come may lack the arm.
    success, cost = (float(weights @ np.nan_to_num(of)) for of in (expected.success, expected.cost_usd))
    return {
        "success_rate": success,
        "cost_usd_per_session": cost,
        "utility_per_session": terms.value_usd * success - cost,
    }


def _policy(name: str, runs: Sequence[Run], terms: Terms, arms: Sequence[str]) -> PolicyResult:
    sessions = len(runs[0].task)
    # Shape (n_seeds, n_sessions, 4).
    figures = np.stack([np.stack(_four(run, terms), axis=1) for run in runs])
    means = figures.mean(axis=(0, 1))
    units = figures.mean(axis=1) if len(runs) > 1 else figures[0]
    spread = units.std(axis=0, ddof=1) / np.sqrt(len(units)) if len(units) > 1 else np.zeros(4)
    return PolicyResult(
        name=name,
        seeds=len(runs),
        sessions=sessions,
        stderr=Four(**_named(spread)),
        second_half=Four(**_named(figures[:, sessions // 2 :].mean(axis=(0, 1)))),
        events_per_second=sum(int(run.attempts.sum()) for run in runs) / sum(run.wall_seconds for run in runs),
        calibration=calibration.measure(runs, arms),
        **_named(means),
    )


def _four(run: Run, terms: Terms) -> tuple[Floats, Floats, Floats, Floats]:
    return run.success, run.cost_usd, _utility(run, terms), (run.attempts > 1).astype(float)


def _named(four: Floats) -> dict[str, float]:
    fields = ("success_rate", "cost_usd_per_session", "utility_per_session", "escalation_rate")
    return dict(zip(fields, four.tolist(), strict=True))


def _utility(run: Run, terms: Terms) -> Floats:
    return terms.value_usd * run.success - run.cost_usd


def _paired(
    runs: Mapping[str, Sequence[Run]], fixed: Mapping[str, Floats], n_tasks: int, terms: Terms
) -> dict[str, dict[str, Difference]]:
    """Every policy against every reference and every other policy.

    `fixed` has for each reference the utility of each task, shape (n_tasks,): it is taken on the tasks that the
    sessions had. An arm alone that also ran as a policy is compared with as the exact reference.
    """
    sessions = _by_task([(run.task, np.ones(len(run.task))) for run in next(iter(runs.values()))], n_tasks)
    ran = {
        name: _by_task([(run.task, _utility(run, terms)) for run in of_seeds], n_tasks)
        for name, of_seeds in runs.items()
    }
    sums = [*ran.values(), *(sessions * np.nan_to_num(utility) for utility in fixed.values())]
    means = replicates(sums, sessions)
    mine = dict(zip(ran, means[: len(ran)], strict=True))
    theirs = mine | dict(zip(fixed, means[len(ran) :], strict=True))
    return {
        policy: {
            other: difference(own, against) for other, against in theirs.items() if other != policy or other in fixed
        }
        for policy, own in mine.items()
    }


def _by_task(of_seeds: Sequence[tuple[npt.NDArray[np.int64], Floats]], n_tasks: int) -> Floats:
    """Sums of the sessions' numbers by seed and task, shape (n_seeds, n_tasks)."""
    return np.stack([np.bincount(task, numbers, minlength=n_tasks) for task, numbers in of_seeds])


def replicates(sums: Sequence[Floats], sessions: Floats) -> Floats:
    """Means a session, shape (n_sums, 1 + n_replicates): the plain one first, then those of the bootstrap.

    `sums` are sums over sessions, and `sessions` their numbers, by seed and task: shape (n_seeds, n_tasks). Seeds and
    tasks are each drawn with replacement, independently, and a cell counts as often as its seed times its task was
    drawn. Every row has the same replicates. It is conservative: the noise of single cells is counted thrice (Owen,
    The pigeonhole bootstrap, Annals of Applied Statistics 2007, doi:10.1214/07-AOAS122). With one seed only the
    tasks are drawn.
    """
    drawn = sessions.sum(axis=0) > 0
    weighed = [array[:, drawn] for array in (sessions, *sums)]
    n_seeds, n_tasks = weighed[0].shape
    rng = np.random.default_rng(0)
    parts = [np.array([[array.sum()] for array in weighed])]
    left = _REPLICATES
    while left > 0:
        size = min(left, max(1, _CHUNK // n_tasks))
        of_seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1.0 / n_seeds), size=size).astype(float)
        of_tasks = rng.multinomial(n_tasks, np.full(n_tasks, 1.0 / n_tasks), size=size).astype(float)
        parts.append(np.stack([np.einsum("rt,rt->r", of_seeds @ array, of_tasks) for array in weighed]))
        left -= size
    totals = np.concatenate(parts, axis=1)
    # With few sessions a replicate may have drawn none of them.
    totals = totals[:, totals[0] > 0]
    return np.asarray(totals[1:] / totals[0])


def difference(mine: Floats, theirs: Floats) -> Difference:
    """Two rows of `replicates` compared: their plain difference and the middle 95 % of the others."""
    gap = mine - theirs
    low, high = np.percentile(gap[1:], (2.5, 97.5))
    return Difference(difference=float(gap[0]), low=float(low), high=float(high))
