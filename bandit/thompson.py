"""Thompson sampling over plans: the policy made of the success and cost posteriors, the ladder and one lottery.

Decisions are made in batches. Every step is elementwise, or one BLAS call of a fixed shape for each situation, so
that what a situation gets does not depend, to the last bit, on what it is decided with.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bandit import cost, ladder, objective, sampling, success
from bandit.errors import NoEligibleArm
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
_LARGEST_LOG_USAGE = 12.0
"""Draws of an arm that was never tried are held below exp of this, so that no dollar figure overflows."""
_TOGETHER, _LADDERS_TOGETHER = 32, 16
"""Most situations worked on at once: beyond them, sharing the cost of each step gains less than the cache loses."""


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
            # In equal pieces, for a small remainder would cost nearly as much as a full piece.
            size = math.ceil(len(group) / math.ceil(len(group) / self._together))
            for start in range(0, len(group), size):
                piece = group[start : start + size]
                answers = self._alike(state, [situations[i] for i in piece])
                found.update(zip(piece, answers, strict=True))
        return [found[i] for i in range(len(situations))]

    def _alike(self, state: Posterior, situations: Sequence[Situation]) -> list[Distribution]:
        """For situations that differ in their features and random streams only."""
        like = situations[0]
        n, k, m = len(situations), len(like.offers), like.draws
        outlook = _Outlook.at(state, situations)
        normals = np.stack([sampling.normals(s.seed, s.session_id, s.attempt, (2 * k, m)) for s in situations])
        logits = np.empty((n, k, m + len(_BESIDE)))
        np.matmul(like.alpha * _spread(outlook.logit_covariance), normals[:, :k], out=logits[:, :, :m])
        deviation = np.sqrt(np.diagonal(outlook.logit_covariance, axis1=1, axis2=2))
        logits[:, :, m:] = deviation[:, :, None] * _BESIDE
        logits += outlook.logit_mean[:, :, None]
        # From here on the arms stand first and the draws last, those of one situation after those of the other.
        by_arm = logits.transpose(1, 0, 2).astype(np.float32, order="C")
        p = _success_at_nodes(by_arm, state.success.sigma)
        belief = _belief(state, like, p)
        log_cost = np.zeros((n, k, m + 1))
        np.matmul(like.alpha * _spread(outlook.log_cost_covariance), normals[:, k:], out=log_cost[:, :, :m])
        log_cost += outlook.log_cost_mean[:, :, None]
        cost_usd = np.exp(np.minimum(log_cost, _LARGEST_LOG_USAGE).astype(np.float32)).transpose(1, 0, 2)
        bars = [_bars(s, cost_usd[:, i, m]) for i, s in enumerate(situations)]
        open_arms = np.array([bar is None for bar in bars[0]])
        at = np.flatnonzero(open_arms)
        attempts = like.attempts_left if self.climbs else 1
        plan = ladder.plan(
            ladder.Stakes(
                success=p[at, :, :, : m + 1].reshape(len(at), len(NODES), -1),
                cost_usd=cost_usd[at].reshape(len(at), -1),
                belief=np.ascontiguousarray(belief[:, :, : m + 1]).reshape(len(NODES), -1),
                growth=np.exp(state.cost.later_attempts(like.attempt, attempts)).astype(np.float32),
                value_usd=like.objective.value_usd,
                detection=state.success.detection,
                false_alarm=state.success.false_alarm,
            )
        )
        values = plan.first.reshape(len(at), n, m + 1)[:, :, :m]
        expected = _expected_success(p, belief, m)
        shares = np.zeros((n, k))
        shares[:, at] = objective.shares(values)
        propensities = sampling.with_floor(shares, open_arms, like.exploration_floor)

        def answer(i: int) -> Distribution:
            mean_draw = i * (m + 1) + m
            return Distribution(
                propensities=propensities[i],
                beliefs=Beliefs(
                    success_mean=expected[0][:, i],
                    success_low=expected[1][:, i],
                    success_high=expected[2][:, i],
                    cost_usd=cost_usd[:, i, m],
                ),
                stop_propensity=_stop(state, like, values[:, i], p[:, :, i, :m], belief[:, i, :m]),
                plan=(
                    lambda arm: tuple(
                        like.offers[at[j]].arm for j in plan.ladder(int(np.searchsorted(at, arm)), mean_draw)
                    )
                )
                if self.climbs
                else no_plan,
                bars=bars[i],
            )

        return [answer(i) for i in range(n)]


def _likeness(situation: Situation) -> object:
    """Situations of equal likeness can be worked on together. Offers are compared by identity, which is quick."""
    # With a cap on cost every situation may bar other arms.
    alone = situation.session_id if situation.cost_cap_usd is not None else ""
    return (
        id(situation.offers),
        situation.alarmed,
        situation.attempt,
        situation.attempts_left,
        situation.may_stop,
        situation.draws,
        situation.alpha,
        situation.exploration_floor,
        situation.objective.value_usd,
        alone,
    )


@dataclass(frozen=True, kw_only=True)
class _Outlook:
    """What the posterior says of the offered arms at some situations; arms stand in the order of the offers."""

    logit_mean: Floats
    """Shape (n_situations, n_offers)."""
    logit_covariance: Floats
    """Shape (n_situations, n_offers, n_offers)."""
    log_cost_mean: Floats
    """Log of expected dollars, -inf where an arm is free."""
    log_cost_covariance: Floats

    @classmethod
    def at(cls, state: Posterior, situations: Sequence[Situation]) -> "_Outlook":
        """For situations with the same offers at the same attempt."""
        like = situations[0]
        encoded = [state.encoder.encode(situation.features) for situation in situations]
        x = state.scaling.apply(np.array([row for row, _ in encoded]))
        novel = np.array([unseen for _, unseen in encoded])
        lift, fresh = _lift(state, like)
        logit_mean, logit_covariance = state.success.scores(x, success.SPREADS["c"], novel)
        usage_mean, usage_covariance = state.cost.log_usage(x, like.attempt, novel)
        indices = np.array([cost.price_index(offer.price) for offer in like.offers])
        factor = lift @ state.cost.factor(np.ones(len(state.arms))) * indices
        with np.errstate(divide="ignore"):
            log_factor = np.log(factor)
        own_success, own_cost = success.SPREADS["1"].own, cost.SPREADS["1"].own
        return cls(
            logit_mean=_lifted(lift, logit_mean),
            logit_covariance=lift @ logit_covariance @ lift.T + np.diag(fresh * own_success**2),
            log_cost_mean=_lifted(lift, usage_mean) + log_factor,
            log_cost_covariance=lift @ usage_covariance @ lift.T + np.diag(fresh * own_cost**2),
        )


def _lift(state: Posterior, situation: Situation) -> tuple[Floats, Floats]:
    """Known arms -> offers, shape (n_offers, n_arms), and which offers are not known yet, shape (n_offers,).

    An arm put since the epoch stands at the known arms' mean, with an own spread on top.
    """
    index = {arm.id: k for k, arm in enumerate(state.arms)}
    lift = np.zeros((len(situation.offers), len(state.arms)))
    fresh = np.zeros(len(situation.offers))
    for i, offer in enumerate(situation.offers):
        if offer.arm in index:
            lift[i, index[offer.arm]] = 1.0
        else:
            lift[i] = 1.0 / max(1, len(state.arms))
            fresh[i] = 1.0
    return lift, fresh


def _lifted(lift: Floats, means: Floats) -> Floats:
    """The offers' means from the arms', shapes (n_situations, n_offers) and (n_situations, n_arms)."""
    return np.asarray((lift @ means[:, :, None])[:, :, 0])


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


def _stop(state: Posterior, situation: Situation, values: Reals, p: Reals, belief: Reals) -> float:
    """Probability of giving up; stopping is worth V x P(the last attempt was good | its alarm).

    `values` (n_open_arms, n_draws), `p` (n_offers, n_nodes, n_draws) and `belief` (n_nodes, n_draws) are one
    situation's.
    """
    if not situation.may_stop:
        return 0.0
    last = next((i for i, offer in enumerate(situation.offers) if offer.arm == situation.alarmed[-1]), None)
    mass = belief.sum(axis=0)
    worth: Reals = np.zeros_like(mass)
    if last is not None:
        f, r = state.success.false_alarm, state.success.detection
        good = p[last] * f / (p[last] * f + (1.0 - p[last]) * r)
        worth = situation.objective.value_usd * np.sum(belief * good, axis=0) / mass
    return objective.stop_propensity(values, mass, worth, situation.objective.value_usd)
