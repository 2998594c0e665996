"""Thompson sampling over plans: the policy made of the success and cost posteriors, the ladder and one lottery.

Decisions are made in batches. Every step is elementwise, or one BLAS call of a fixed shape for each situation, so
that what a situation gets does not depend, to the last bit, on what it is decided with.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bandit import cost, ladder, objective, sampling
from bandit.cost import CostPosterior
from bandit.errors import NoEligibleArm
from bandit.objective import Ints
from bandit.outlook import Gaussian, Outlook
from bandit.policy import Beliefs, Distribution, no_plan
from bandit.posterior import Posterior
from bandit.session import SessionChange
from bandit.success import LOG_WEIGHTS, NODES
from bandit.types import Arm, Bar, BarKind, Situation

Floats = npt.NDArray[np.float64]
Reals = npt.NDArray[np.floating[Any]]
"""Of either precision."""

_NODE_WEIGHTS = np.exp(LOG_WEIGHTS).astype(np.float32)
_QUANTILE_90 = 1.6448536269514722
_BESIDE = np.concatenate([[0.0, -_QUANTILE_90, _QUANTILE_90], NODES])
"""Beside the draws, each arm's logit is looked at here, in posterior standard deviations: at its mean, at the ends of
its 90 % interval, and at the nodes of the quadrature that gives its mean success."""
_LARGEST_LOG = 12.0
"""Draws of an arm that was never tried are held below exp of this, so that no figure overflows."""
_TOGETHER, _LADDERS_TOGETHER = 32, 16
"""Most situations worked on at once: beyond them, sharing the cost of each step gains less than the cache loses."""
_USUAL_DRAWS = 256
"""With more draws than these, fewer situations are worked on at once."""


class Thompson:
    """`thompson` plans ladders; `thompson-single` values each arm as if it were the only attempt, never escalates."""

    def __init__(self, *, single: bool = False) -> None:
        self.spec = "thompson-single" if single else "thompson"
        self.climbs = not single
        self._together = _TOGETHER if single else _LADDERS_TOGETHER

    def start(self, arms: Sequence[Arm]) -> Posterior:
        """The prior, before any outcome."""
        return Posterior.start(arms)

    def fold(self, state: Posterior, arms: Sequence[Arm], changes: Sequence[SessionChange]) -> Posterior:
        """The posterior after a block."""
        return state.fold(arms, changes)

    def dump(self, state: Posterior) -> bytes:
        """The posterior as bytes."""
        return state.dump()

    def load(self, blob: bytes) -> Posterior:
        """The inverse of `dump`."""
        return Posterior.load(blob)

    def distribution(self, state: Posterior, situation: Situation) -> Distribution:
        """Draws -> the plan's value of each first step -> share of the draws that each arm is best in -> floor."""
        return self.distributions(state, [situation])[0]

    def distributions(self, state: Posterior, situations: Sequence[Situation]) -> list[Distribution]:
        """One for each situation, as `distribution` gives it."""
        found: dict[int, Distribution] = {}
        alike: dict[object, list[int]] = {}
        for i, situation in enumerate(situations):
            alike.setdefault(_likeness(situation), []).append(i)
        for group in alike.values():
            # In equal pieces, for a small remainder would cost nearly as much as a full piece; memory grows with draws.
            together = max(1, self._together * _USUAL_DRAWS // max(_USUAL_DRAWS, situations[group[0]].draws))
            size = math.ceil(len(group) / math.ceil(len(group) / together))
            for start in range(0, len(group), size):
                piece = group[start : start + size]
                answers = self._alike(state, [situations[i] for i in piece])
                found.update(zip(piece, answers, strict=True))
        return [found[i] for i in range(len(situations))]

    def _alike(self, state: Posterior, situations: Sequence[Situation]) -> list[Distribution]:
        """For situations that are alike (see `_likeness`)."""
        like = situations[0]
        n, k, m = len(situations), len(like.offers), like.draws
        outlook = Outlook.at(state, situations)
        shape = (2 * k if outlook.log_seconds is None else 3 * k, m)
        normals = np.stack([sampling.normals(s.seed, s.session_id, s.attempt, shape) for s in situations])
        logits = np.empty((n, k, m + len(_BESIDE)))
        np.matmul(like.alpha * _spread(outlook.logit.covariance), normals[:, :k], out=logits[:, :, :m])
        deviation = np.sqrt(np.diagonal(outlook.logit.covariance, axis1=1, axis2=2))
        logits[:, :, m:] = deviation[:, :, None] * _BESIDE
        logits += outlook.logit.mean[:, :, None]
        # From here on the arms stand first and the draws last, those of one situation after those of the other.
        by_arm = logits.transpose(1, 0, 2).astype(np.float32, order="C")
        p = _success_at_nodes(by_arm, state.success.sigma)
        belief = _belief(state, like, p)
        cost_usd = _amounts(outlook.log_cost, like.alpha, normals[:, k : 2 * k])
        reread_usd = _reread_usd(situations)
        expected_usd = cost_usd[:, :, m] if reread_usd is None else cost_usd[:, :, m] + reread_usd
        bars = [_bars(s, expected_usd[:, i]) for i, s in enumerate(situations)]
        open_arms = np.array([bar is None for bar in bars[0]])
        at = np.flatnonzero(open_arms)
        attempts = like.attempts_left if self.climbs else 1
        price_usd = cost_usd[at] * _growth(state.cost, like.attempt, attempts)
        if reread_usd is not None:
            price_usd[0] += reread_usd[at, :, None]
        if any(s.budget_price for s in situations):
            price_usd *= np.array([1.0 + s.budget_price for s in situations], np.float32)[:, None]
        if outlook.log_seconds is not None and state.latency is not None:
            seconds = _amounts(outlook.log_seconds, like.alpha, normals[:, 2 * k :])[at]
            growth = _growth(state.latency, like.attempt, attempts)
            price_usd += np.float32(like.objective.latency_usd_per_second) * seconds * growth
        plan = ladder.plan(
            ladder.Stakes(
                success=p[at, :, :, : m + 1].reshape(len(at), len(NODES), -1),
                price_usd=price_usd.reshape(attempts, len(at), -1),
                belief=np.ascontiguousarray(belief[:, :, : m + 1]).reshape(len(NODES), -1),
                value_usd=like.objective.value_usd,
                detection=state.success.detection,
                false_alarm=state.success.false_alarm,
            )
        )
        worth = plan.first.reshape(len(at), n, m + 1)[:, :, :m]
        rule = objective.floor_rule(like.objective)
        if rule is None:
            taken = worth.argmax(axis=0)
        else:
            taken = rule(plan.success().reshape(len(at), n, m + 1)[:, :, :m], price_usd[0, :, :, :m])
        shares = np.zeros((n, k))
        shares[:, at] = objective.shares(taken, len(at))
        propensities = sampling.with_floor(shares, open_arms, like.exploration_floor)
        expected = _expected_success(p, belief, m)

        def answer(i: int) -> Distribution:
            mean_draw = i * (m + 1) + m
            stop, worth_usd = _stop(state, like, worth[:, i], taken[i], p[:, :, i, :m], belief[:, i, :m])
            return Distribution(
                propensities=propensities[i],
                beliefs=Beliefs(
                    success_mean=expected[0][:, i],
                    success_low=expected[1][:, i],
                    success_high=expected[2][:, i],
                    cost_usd=expected_usd[:, i],
                ),
                stop_propensity=stop,
                worth_usd=worth_usd,
                plan=(
                    lambda arm: tuple(
                        like.offers[at[j]].arm for j in plan.ladder(int(np.searchsorted(at, arm)), mean_draw, rule)
                    )
                )
                if self.climbs
                else no_plan,
                bars=bars[i],
            )

        return [answer(i) for i in range(n)]


def _likeness(situation: Situation) -> object:
    """Situations of equal likeness can be worked on together: they differ in their features, their random streams, and
    the prices of their budget and of reading their sessions again. Offers and objectives are compared by identity,
    which is quick."""
    # With a cap on cost every situation may bar other arms.
    alone = id(situation) if situation.cost_cap_usd is not None else 0
    return (
        id(situation.offers),
        situation.alarmed,
        situation.attempt,
        situation.attempts_left,
        situation.may_stop,
        situation.draws,
        situation.alpha,
        situation.exploration_floor,
        id(situation.objective),
        alone,
    )


def _amounts(log: Gaussian, alpha: float, normals: Floats) -> npt.NDArray[np.float32]:
    """exp of draws of the logs, the one at the posterior mean last, shape (n_offers, n_situations, n_draws + 1)."""
    n, k, m = normals.shape
    drawn = np.zeros((n, k, m + 1))
    np.matmul(alpha * _spread(log.covariance), normals, out=drawn[:, :, :m])
    drawn += log.mean[:, :, None]
    drawn[:, :, m] += cost.half_variance(np.diagonal(log.covariance, axis1=1, axis2=2))
    by_arm = np.minimum(drawn, _LARGEST_LOG, out=drawn).transpose(1, 0, 2).astype(np.float32, order="C")
    return np.exp(by_arm, out=by_arm)


def _growth(posterior: CostPosterior, attempt: int, count: int) -> npt.NDArray[np.float32]:
    """How many times the next attempt's amount each attempt from it on comes to, shape (count, 1, 1, 1)."""
    return np.exp(posterior.later_attempts(attempt, count)).astype(np.float32)[:, None, None, None]


def _reread_usd(situations: Sequence[Situation]) -> Reals | None:
    """What each offered arm pays for reading the session again, (n_offers, n_situations); None where it is nothing."""
    if not any(situation.reread_tokens for situation in situations):
        return None
    by_situation = [[cost.reread_usd(s, offer.price) for offer in s.offers] for s in situations]
    return np.array(by_situation, np.float32).T


def _spread(covariance: Floats) -> Floats:
    """Square roots of covariances, shape (n, k, k), by Cholesky with a jitter for numerically singular ones."""
    k = covariance.shape[-1]
    jitter = 1e-9 * (1.0 + np.trace(covariance, axis1=1, axis2=2) / k)
    return np.asarray(np.linalg.cholesky(covariance + jitter[:, None, None] * np.eye(k)), dtype=np.float64)


def _success_at_nodes(logits: npt.NDArray[np.float32], sigma: float) -> npt.NDArray[np.float32]:
    """Success at each node of the latent difficulty, shape (n_arms, n_nodes, …), from logits (n_arms, …), overwritten.

    In single precision: only the order of the draws' values matters from here on. The nodes' shifts become factors,
    so that one exponential serves all of them.
    """
    np.clip(logits, -60.0, 60.0, out=logits)
    odds_against = np.exp(np.negative(logits, out=logits), out=logits)
    shifts = np.exp(-sigma * NODES).astype(np.float32)
    p = odds_against[:, None] * shifts.reshape(-1, *[1] * (logits.ndim - 1))
    p += 1.0
    return np.reciprocal(p, out=p)


def _belief(state: Posterior, situation: Situation, p: Reals) -> Reals:
    """The belief over the latent difficulty after this session's alarms, unnormalised: p's shape without the arms."""
    belief: Reals = np.broadcast_to(_NODE_WEIGHTS[:, None, None], p.shape[1:])
    f, r = state.success.false_alarm, state.success.detection
    for i, offer in enumerate(situation.offers):
        if offer.arm in situation.alarmed:
            belief = belief * (p[i] * f + (1.0 - p[i]) * r)
    return belief


def _expected_success(p: Reals, belief: Reals, draws: int) -> tuple[Reals, Reals, Reals]:
    """Success averaged over the posterior and the latent difficulty, and at the ends of the 90 % interval.

    Each has shape (n_offers, n_situations). The belief is the one at the posterior mean.
    """
    at_mean = belief[:, :, draws : draws + 1]
    beside = (p[:, :, :, draws + 1 :] * (at_mean / at_mean.sum(axis=0))).sum(axis=1)
    mean = (beside[:, :, 2:] * _NODE_WEIGHTS).sum(axis=2)
    return np.clip(mean, 0.0, 1.0), np.clip(beside[:, :, 0], 0.0, 1.0), np.clip(beside[:, :, 1], 0.0, 1.0)


def _bars(situation: Situation, cost_usd: Reals) -> tuple[Bar | None, ...]:
    """The offers' bars, and the expected cost where it exceeds the cap. Raises NoEligibleArm where none is left."""
    cap = situation.cost_cap_usd
    if cap is None:
        return tuple(offer.bar for offer in situation.offers)
    bars = tuple(
        Bar(BarKind.COST, f"expected to cost ${c:.4g}, above the cap of ${cap:.4g}")
        if offer.bar is None and c > cap
        else offer.bar
        for offer, c in zip(situation.offers, cost_usd.tolist(), strict=True)
    )
    if all(bar is not None for bar in bars):
        raise NoEligibleArm({o.arm: bar.why for o, bar in zip(situation.offers, bars, strict=True) if bar is not None})
    return bars


def _stop(
    state: Posterior, situation: Situation, worth: Reals, taken: Ints, p: Reals, belief: Reals
) -> tuple[float, float | None]:
    """Probability of giving up, and what going on is worth where it is not given up (None where it cannot be).

    Stopping is worth V x P(the last attempt was good | its alarm).

    `worth` (n_open_arms, n_draws), `taken` (n_draws,), `p` (n_offers, n_nodes, n_draws) and `belief` (n_nodes,
    n_draws) are one situation's.
    """
    if not situation.may_stop:
        return 0.0, None
    last = next((i for i, offer in enumerate(situation.offers) if offer.arm == situation.alarmed[-1]), None)
    mass = belief.sum(axis=0)
    stopping: Reals = np.zeros_like(mass)
    if last is not None:
        f, r = state.success.false_alarm, state.success.detection
        good = p[last] * f / (p[last] * f + (1.0 - p[last]) * r)
        stopping = situation.objective.value_usd * np.sum(belief * good, axis=0) / mass
    going = worth[taken, np.arange(len(taken))] / mass
    stop = objective.stop_propensity(going, stopping, situation.objective.value_usd)
    return stop, (1.0 - stop) * max(0.0, float(np.mean(going)))
