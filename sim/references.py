"""What fixed choices would have come to: every arm alone, the best ladder, and the oracle, in exact expectation.

An attempt that is good with chance s raises an alarm with chance s x false_alarm + (1 - s) x detect. An alarm leads
to the ladder's next arm; after the last one, the last attempt's true outcome counts. A failure that nobody notices
ends the session as a failure. Given the task, attempts of different arms are independent.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandit.errors import InvalidInput
from sim.world import Floats, Terms

_MOST_STEPS = 5_000_000
"""Sets of arms times arms that the search for the best ladder may look at; a few seconds."""
_CHUNK = 4_000_000
"""Numbers in one intermediate array."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Expected:
    """What a fixed choice is expected to come to on each task; arrays have shape (n_tasks,)."""

    ladder: tuple[int, ...]
    """Positions of the arms, in order; empty where it differs from task to task."""
    success: Floats
    cost_usd: Floats

    def utility(self, terms: Terms) -> Floats:
        """value x success - cost, shape (n_tasks,)."""
        return terms.value_usd * self.success - self.cost_usd


@dataclass(frozen=True, kw_only=True, eq=False)
class Hindsight:
    """Everything that policies are compared with."""

    weights: Floats
    """How often each task comes, shape (n_tasks,), sum 1."""
    always: tuple[Expected, ...]
    """Each arm alone, never escalating, in the arms' order; those that are not always there are left out."""
    best_single: Expected
    best_ladder: Expected
    oracle: Expected


def look_back(success: Floats, cost_usd: Floats, terms: Terms, weights: Floats | None = None) -> Hindsight:
    """All references on these tasks; arrays have shape (n_tasks, n_arms), NaN where an arm is not there.

    `weights`, shape (n_tasks,), says how often each task comes; None: equally often. What is fixed in hindsight is
    fixed for all tasks that come, so it is made of arms that are there for each of them.
    Raises InvalidInput where there are too many ladders to search.
    """
    shares = np.full(len(success), 1.0 / len(success)) if weights is None else weights / weights.sum()
    there = ~np.isnan(success)
    comes = shares > 0.0
    steady = np.flatnonzero(there[comes].all(axis=0))
    always = tuple(along((int(arm),), success, cost_usd, terms) for arm in steady)
    # Tasks that do not come may lack an arm of it, and NaN times a share of 0 is NaN.
    best = best_ladder(success[np.ix_(comes, steady)], cost_usd[np.ix_(comes, steady)], terms, shares[comes])
    best_on_each = Expected(ladder=(), success=np.zeros(len(success)), cost_usd=np.zeros(len(success)))
    for arms in np.unique(there, axis=0):
        here = (there == arms).all(axis=1)
        of_these = oracle(success[here][:, arms], cost_usd[here][:, arms], terms)
        best_on_each.success[here], best_on_each.cost_usd[here] = of_these.success, of_these.cost_usd
    return Hindsight(
        weights=shares,
        always=always,
        best_single=max(always, key=lambda expected: float(shares @ np.nan_to_num(expected.utility(terms)))),
        best_ladder=along(steady[list(best.ladder)].tolist(), success, cost_usd, terms),
        oracle=best_on_each,
    )


def along(ladder: Sequence[int], success: Floats, cost_usd: Floats, terms: Terms) -> Expected:
    """A ladder on every task; `success` and `cost_usd` have shape (n_tasks, n_arms)."""
    reached = np.ones(len(success))
    won = np.zeros(len(success))
    spent = np.zeros(len(success))
    for place, arm in enumerate(ladder, start=1):
        s = success[:, arm]
        spent += reached * cost_usd[:, arm]
        won += reached * (s if place == len(ladder) else s * (1.0 - terms.false_alarm))
        reached = reached * _alarm(s, terms)
    return Expected(ladder=tuple(ladder), success=won, cost_usd=spent)


def best_ladder(success: Floats, cost_usd: Floats, terms: Terms, weights: Floats | None = None) -> Expected:
    """The ladder of distinct arms, 1 to max_attempts long, with the largest mean utility over the tasks.

    Exact: the chance that a session is still going depends on the set of arms tried and not on their order, so a
    dynamic programme over sets finds the best of all permutations. `weights`, shape (n_tasks,), says how often each
    task comes; None: equally often. Among equals an earlier arm comes before a later one, and ending before going on.
    Raises InvalidInput where there are too many ladders to search.
    """
    n_tasks, n_arms = success.shape
    longest = min(terms.max_attempts, n_arms)
    steps = n_arms * sum(math.comb(n_arms, size) for size in range(longest))
    if steps > _MOST_STEPS:
        raise InvalidInput(
            "--max-attempts", f"ladders of up to {longest} of {n_arms} arms are too many to search for the best one"
        )
    shares = np.full(n_tasks, 1.0 / n_tasks) if weights is None else weights / weights.sum()
    # An attempt brings `gain`, and `ending` on top where the ladder ends with it although the alarm was false.
    gain = shares[:, None] * (terms.value_usd * success * (1.0 - terms.false_alarm) - cost_usd)
    ending = shares[:, None] * (terms.value_usd * success * terms.false_alarm)
    alarm = _alarm(success, terms)
    binomial = np.array([[math.comb(arm, size) for size in range(longest + 1)] for arm in range(n_arms)])
    onward = np.full(math.comb(n_arms, longest), -np.inf)
    choices: list[npt.NDArray[np.int64]] = []
    ends: list[npt.NDArray[np.bool_]] = []
    for size in reversed(range(longest)):
        n_sets = math.comb(n_arms, size)
        value, choice, end = np.empty(n_sets), np.empty(n_sets, np.int64), np.empty(n_sets, bool)
        for sets in _sets_of(size, n_arms, max(1, _CHUNK // max(n_tasks, n_arms * (size + 1)))):
            at = _ranks(sets, binomial)
            reached = alarm[:, sets].prod(axis=2).T
            then, tried = _with_each(sets, n_arms, binomial)
            last = reached @ ending
            total = reached @ gain + np.maximum(last, onward[then])
            total[tried] = -np.inf
            best = total.argmax(axis=1)
            rows = np.arange(len(sets))
            value[at], choice[at] = total[rows, best], best
            end[at] = last[rows, best] >= onward[then[rows, best]]
        onward = value
        choices.insert(0, choice)
        ends.insert(0, end)
    ladder: list[int] = []
    for choice, end in zip(choices, ends, strict=True):
        here = _ranks(np.array([sorted(ladder)], np.int64).reshape(1, len(ladder)), binomial)[0]
        ladder.append(int(choice[here]))
        if end[here]:
            break
    return along(ladder, success, cost_usd, terms)


def oracle(success: Floats, cost_usd: Floats, terms: Terms) -> Expected:
    """On each task the ladder that is best on it; with outcomes of 0 and 1 that is its best single arm.

    Exact: whichever arm comes last, exchanging two neighbours before it shows that the others are best tried by
    falling gain / (1 - alarm). So per task and last arm it is enough to choose which arms to take, in that order.
    """
    n_tasks, n_arms = success.shape
    tasks = np.arange(n_tasks)
    alarm = _alarm(success, terms)
    won_first = success * (1.0 - terms.false_alarm)
    gain = terms.value_usd * won_first - cost_usd
    index = np.full_like(gain, -np.inf)
    np.divide(gain, 1.0 - alarm, out=index, where=alarm < 1.0)
    order = np.argsort(index, axis=1)
    # Built from the end: by attempts so far, the best (utility, success, cost) for each task and last arm.
    best = [(terms.value_usd * success - cost_usd, success, cost_usd)]
    for arm in order.T:
        a, g = alarm[tasks, arm][:, None], gain[tasks, arm][:, None]
        w, c = won_first[tasks, arm][:, None], cost_usd[tasks, arm][:, None]
        itself = arm[:, None] == np.arange(n_arms)
        with np.errstate(invalid="ignore"):  # 0 x -inf, where there is no such ladder
            longer = [
                (np.where(itself | np.isneginf(utility), -np.inf, g + a * utility), w + a * won, c + a * spent)
                for utility, won, spent in best
            ]
        for length, new in enumerate(longer[: min(terms.max_attempts, n_arms) - 1], start=1):
            if length == len(best):
                best.append(new)
            else:
                better = new[0] > best[length][0]
                old = best[length]
                best[length] = (
                    np.where(better, new[0], old[0]),
                    np.where(better, new[1], old[1]),
                    np.where(better, new[2], old[2]),
                )
    every = [np.concatenate(part, axis=1) for part in zip(*best, strict=True)]
    chosen = every[0].argmax(axis=1)
    return Expected(ladder=(), success=every[1][tasks, chosen], cost_usd=every[2][tasks, chosen])


def _alarm(success: Floats, terms: Terms) -> Floats:
    return np.asarray(success * terms.false_alarm + (1.0 - success) * terms.detect)


def _ranks(sets: npt.NDArray[np.int64], binomial: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Number of each set among those of its size, from 0; sets have shape (…, size), ascending.

    The combinatorial number system: sum over i of C(member_i, i), members counted from 1.
    """
    return np.asarray(binomial[sets, np.arange(1, sets.shape[-1] + 1)].sum(axis=-1))


def _sets_of(size: int, n_arms: int, chunk: int) -> Iterator[npt.NDArray[np.int64]]:
    """All sets of `size` arms, in arrays of shape (up to `chunk`, size), ascending."""
    sets = itertools.combinations(range(n_arms), size)
    while batch := list(itertools.islice(sets, chunk)):
        yield np.array(batch, np.int64).reshape(len(batch), size)


def _with_each(
    sets: npt.NDArray[np.int64], n_arms: int, binomial: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The rank of each set with each arm added, and which arms it holds already (rank 0 there): (n_sets, n_arms)."""
    n_sets, size = sets.shape
    arms = np.arange(n_arms)
    tried = (sets[:, :, None] == arms).any(axis=1)
    joined = np.concatenate(
        (
            np.broadcast_to(sets[:, None, :], (n_sets, n_arms, size)),
            np.broadcast_to(arms[None, :, None], (n_sets, n_arms, 1)),
        ),
        axis=2,
    )
    return np.where(tried, 0, _ranks(np.sort(joined, axis=2), binomial)), tried
