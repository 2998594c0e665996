"""The plan of arms: what each first step is worth when failures may be escalated, per posterior draw.

With B the belief over the latent difficulty times the probability of having come this far, p_k the success of arm k
at each difficulty, c_k its price at this step, f and r the probabilities that a good and a failed attempt raise an
alarm, the value of taking arm k with `left` attempts left is, in the terms of an unnormalised dynamic programme,

    G(B, k) = V (1-f) sum(B p_k) - c_k sum(B) + max{ V f sum(B p_k), max over untried l of G(B (p_k f + (1-p_k) r), l) }

where the first term of the max is stopping after the alarm. B depends only on which arms S were tried, not on their
order, so the programme runs over subsets. All it needs of them is their mass m(S) = sum(B_S), the probability that
every arm of S raises an alarm: since the alarm of k is r + (f-r) p_k, sum(B_S p_k) = (m(S + k) - r m(S)) / (f - r).
Draws stand last in every array, so that each step is one pass over them.
"""

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bandit.objective import Rule

Floats = npt.NDArray[np.floating[Any]]
"""Of single precision where a decision is made, double where a test checks it."""
Ints = npt.NDArray[np.int64]

_LEAST_CONTRAST = 0.01
"""Where an alarm is hardly likelier after a failure than after a success, nothing is planned beyond one attempt."""
_MOST_SUBSETS = 200
"""Above so many subsets of the largest size a step, the continuation is planned greedily by index."""


@dataclass(frozen=True, kw_only=True)
class Stakes:
    """What the plan is made for. All arrays have the draws last."""

    success: Floats
    """p_k at each node of the latent difficulty, shape (n_arms, n_nodes, n_draws)."""
    price_usd: Floats
    """What an attempt by each arm is expected to cost, all that is priced included, as the next attempt, the one after
    it, …: shape (attempts_left, n_arms, n_draws)."""
    belief: Floats
    """Weights of the nodes, shape (n_nodes, n_draws); they need not sum to 1."""
    value_usd: float
    detection: float
    """r: probability that a failed attempt raises an alarm."""
    false_alarm: float
    """f: probability that a good one does."""

    def alarm(self) -> Floats:
        """Probability of an alarm at each node, shape (n_arms, n_nodes, n_draws)."""
        return self.success * (self.false_alarm - self.detection) + self.detection


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The value of each first step, and what it takes to read the best continuation."""

    first: Floats
    """G of each arm, shape (n_arms, n_draws), in dollars times the belief's mass."""
    stakes: Stakes
    masses: tuple[Floats, ...] = ()
    """m(S) of every subset of each size, shapes (n_subsets, n_draws). Empty where nothing was planned exactly."""
    best: tuple[Floats, ...] = ()
    """The value of the best step after every subset of each size from 1 on, same shapes."""

    def success(self) -> Floats:
        """Success of each arm as the next attempt, averaged over the belief, shape (n_arms, n_draws)."""
        stakes = self.stakes
        return np.asarray(np.einsum("qm,kqm->km", stakes.belief, stakes.success) / stakes.belief.sum(axis=0))

    def ladder(self, first: int, draw: int, rule: Rule | None = None) -> tuple[int, ...]:
        """The arms that would follow `first`, in order, in the world of one draw. Empty where the plan is greedy.

        At each step `rule` says which arm is taken (None: the one of greatest worth), and the ladder ends where that
        arm is not worth its price.
        """
        if not self.masses:
            return ()
        n_arms, stakes = len(self.first), self.stakes
        # As Python's own numbers, which are many times quicker to reckon with one by one.
        masses: list[list[float]] = [of_size[:, draw].tolist() for of_size in self.masses]
        best: list[list[float]] = [of_size[:, draw].tolist() for of_size in self.best]
        price_usd: list[list[float]] = stakes.price_usd[:, :, draw].tolist()

        def good(mass: float, with_arm: float) -> float:
            """sum(B p_k) from m(S) and m(S + k)."""
            return (with_arm - stakes.detection * mass) / (stakes.false_alarm - stakes.detection)

        tried, mass = [first], masses[0][0]
        for size in range(1, len(masses) - 1):
            s = _subsets(n_arms, size)
            row = s.position[tuple(sorted(tried))]
            stopping = stakes.value_usd * stakes.false_alarm * good(mass, masses[size][row])
            if best[size - 1][row] <= stopping:
                break
            mass = masses[size][row]
            left = {k: child for k, child in enumerate(s.child[row].tolist()) if k not in tried}
            success = {k: good(mass, masses[size + 1][child]) for k, child in left.items()}
            worth = {}
            for k, child in left.items():
                stop = stakes.value_usd * stakes.false_alarm * success[k]
                onward = max(stop, best[size][child]) if size < len(best) else stop
                gained = stakes.value_usd * (1.0 - stakes.false_alarm) * success[k]
                worth[k] = gained - price_usd[size][k] * mass + onward
            if rule is None:
                taken = max(left, key=worth.__getitem__)
            else:
                prices = np.array([price_usd[size][k] for k in left])
                taken = list(left)[int(rule(np.array(list(success.values())) / mass, prices))]
                if worth[taken] <= stopping:
                    break
            tried.append(taken)
        return tuple(tried[1:])


@dataclass(frozen=True)
class _Subsets:
    """The subsets of one size, in lexicographic order."""

    position: dict[tuple[int, ...], int]
    parent: Ints
    """Position of the subset without its last arm among those one smaller, shape (n_subsets,)."""
    last: Ints
    tried: npt.NDArray[np.bool_]
    """Shape (n_subsets, n_arms)."""
    child: Ints
    """Position, one size up, of the subset with an arm added, shape (n_subsets, n_arms); 0 where it is in already."""
    without: tuple[tuple[Ints, Ints], ...]
    """For each arm the subsets without it, and their positions with it one size up."""


@functools.lru_cache(maxsize=256)
def _subsets(n_arms: int, size: int) -> _Subsets:
    combinations = list(itertools.combinations(range(n_arms), size))
    smaller = {c: i for i, c in enumerate(itertools.combinations(range(n_arms), size - 1))} if size else {}
    larger = {c: i for i, c in enumerate(itertools.combinations(range(n_arms), size + 1))}
    tried = np.zeros((len(combinations), n_arms), dtype=bool)
    child = np.zeros((len(combinations), n_arms), dtype=np.int64)
    for i, c in enumerate(combinations):
        tried[i, list(c)] = True
        for arm in set(range(n_arms)) - set(c):
            child[i, arm] = larger[tuple(sorted((*c, arm)))]
    return _Subsets(
        position={c: i for i, c in enumerate(combinations)},
        parent=np.array([smaller[c[:-1]] for c in combinations] if size else [0]),
        last=np.array([c[-1] for c in combinations] if size else [0]),
        tried=tried,
        child=child,
        without=tuple((rows, child[rows, arm]) for arm in range(n_arms) for rows in [np.flatnonzero(~tried[:, arm])]),
    )


def _masses(stakes: Stakes, largest: int) -> list[Floats]:
    """The mass of every subset of arms of each size up to `largest`, shapes (n_subsets, n_draws)."""
    n_arms, alarm = len(stakes.success), stakes.alarm()
    beliefs = stakes.belief[None]
    masses = [beliefs.sum(axis=1)]
    for size in range(1, largest + 1):
        s = _subsets(n_arms, size)
        if size < largest:
            beliefs = beliefs[s.parent] * alarm[s.last]
            masses.append(beliefs.sum(axis=1))
        else:
            # The largest subsets are by far the most, and only their masses are needed.
            total = beliefs[s.parent, 0] * alarm[s.last, 0]
            for q in range(1, alarm.shape[1]):
                total += beliefs[s.parent, q] * alarm[s.last, q]
            masses.append(total)
    return masses


def plan(stakes: Stakes) -> Plan:
    """The value of taking each arm now and going on as well as possible, exactly where the pool is small."""
    f, r, value = stakes.false_alarm, stakes.detection, stakes.value_usd
    n_arms, attempts = len(stakes.success), min(len(stakes.price_usd), len(stakes.success))
    if r - f < _LEAST_CONTRAST:
        attempts = 1
    if math.comb(n_arms, attempts - 1) > _MOST_SUBSETS:
        return _greedy(stakes)
    if attempts == 1:
        mass = stakes.belief.sum(axis=0)
        first = value * np.einsum("qm,kqm->km", stakes.belief, stakes.success) - stakes.price_usd[0] * mass
        return Plan(first=first, stakes=stakes)
    masses = _masses(stakes, attempts)
    best = [_best_last_step(stakes, masses)]
    total = best[0]
    for size in reversed(range(attempts - 1)):
        s = _subsets(n_arms, size)
        mass = masses[size][:, None]
        good = _good(stakes, masses[size + 1][s.child], mass)
        total = (value * (1.0 - f)) * good - stakes.price_usd[size] * mass
        total += np.maximum((value * f) * good, best[0][s.child])
        total[s.tried] = -np.inf
        if size:
            best.insert(0, total.max(axis=1))
    return Plan(first=total[0], stakes=stakes, masses=tuple(masses), best=tuple(best))


def _good(stakes: Stakes, with_arm: Floats, mass: Floats) -> Floats:
    """sum(B p_k) from m(S + k) and m(S)."""
    return np.asarray((with_arm - stakes.detection * mass) / (stakes.false_alarm - stakes.detection))


def _best_last_step(stakes: Stakes, masses: list[Floats]) -> Floats:
    """The value of the best step after every subset that leaves one attempt, shape (n_subsets, n_draws).

    After the last attempt an alarm changes nothing, so a step is worth V sum(B p_k) - c_k m(S). There are more of
    these steps than of all others together; arm by arm they stay in the cache.
    """
    size = len(masses) - 2
    s = _subsets(len(stakes.success), size)
    scale = stakes.value_usd / (stakes.false_alarm - stakes.detection)
    gained = scale * masses[-1]
    price = scale * stakes.detection + stakes.price_usd[size]
    best = np.full_like(masses[size], -np.inf)
    for k, (rows, child) in enumerate(s.without):
        worth = gained.take(child, axis=0)
        worth -= price[k] * masses[size].take(rows, axis=0)
        best[rows] = np.maximum(best.take(rows, axis=0), worth, out=worth)
    return best


def _greedy(stakes: Stakes) -> Plan:
    """For large pools: every first step is followed by the untried arm of the best success per dollar, and so on.

    Trying in the order of probability over cost is optimal where attempts are independent and their number is not
    limited (Weitzman 1979); only steps that are worth their price are taken.
    """
    n_arms, _, n_draws = stakes.success.shape
    alarm = stakes.alarm()
    belief = np.broadcast_to(stakes.belief, (n_arms, *stakes.belief.shape))
    taken = np.arange(n_arms)[:, None].repeat(n_draws, axis=1)
    tried = np.zeros((n_arms, n_arms, n_draws), dtype=bool)
    going = np.ones((n_arms, n_draws))
    first = np.zeros((n_arms, n_draws))
    rows, draws = np.arange(n_arms)[:, None], np.arange(n_draws)[None, :]
    value, f = stakes.value_usd, stakes.false_alarm
    for step, price in enumerate(stakes.price_usd):
        good = np.einsum("aqm,kqm->akm", belief, stakes.success)
        mass = belief.sum(axis=1)[:, None]
        cost = price * mass
        if step:
            worth = np.where(tried | (value * good <= cost), -np.inf, good / np.maximum(cost, 1e-12))
            taken = worth.argmax(axis=1)
            going = going * np.isfinite(worth.max(axis=1))
        here = good[rows, taken, draws]
        last = step == len(stakes.price_usd) - 1
        first += going * (value * (1.0 if last else 1.0 - f) * here - cost[rows, taken, draws])
        tried[rows, taken, draws] = True
        belief = belief * alarm[taken, :, draws].transpose(0, 2, 1)
    return Plan(first=first, stakes=stakes)
