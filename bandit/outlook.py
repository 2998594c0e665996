"""What the posterior says of the offered arms at a decision, before anything is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bandit import cost, success
from bandit.cost import CostPosterior
from bandit.posterior import Posterior
from bandit.types import Situation

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Gaussian(NamedTuple):
    """One number of each offered arm at some situations; arms stand in the order of the offers."""

    mean: Floats
    """Shape (n_situations, n_offers)."""
    covariance: Floats
    """Shape (n_situations, n_offers, n_offers)."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is believed of the offered arms."""

    logit: Gaussian
    """Of success given theta = 0."""
    log_cost: Gaussian
    """Log of expected dollars, -inf where an arm is free."""
    log_seconds: Gaussian | None
    """Log of expected seconds; None where they have no price or none were told."""

    @classmethod
    def at(cls, state: Posterior, situations: Sequence[Situation]) -> "Outlook":
        """For situations with the same offers and objective at the same attempt."""
        like = situations[0]
        encoded = [state.encoder.encode(situation.features) for situation in situations]
        x = state.scaling.apply(np.array([row for row, _ in encoded]))
        novel = np.array([unseen for _, unseen in encoded])
        lift, fresh = _lift(state, like)
        mean, covariance = state.success.scores(x, success.SPREADS["c"], novel)
        indices = np.array([cost.price_index(offer.price) for offer in like.offers])

        def log_amount(posterior: CostPosterior, prices: Floats) -> Gaussian:
            mean, covariance = posterior.log_usage(x, like.attempt, novel)
            factor = lift @ posterior.factor(np.ones(len(state.arms))) * prices
            with np.errstate(divide="ignore"):
                log_factor = np.log(factor)
            return Gaussian(
                mean=_lifted(lift, mean) + log_factor,
                covariance=lift @ covariance @ lift.T + np.diag(fresh * cost.SPREADS["1"].own ** 2),
            )

        latency = state.latency if like.objective.latency_usd_per_second > 0.0 else None
        return cls(
            logit=Gaussian(
                mean=_lifted(lift, mean),
                covariance=lift @ covariance @ lift.T + np.diag(fresh * success.SPREADS["1"].own ** 2),
            ),
            log_cost=log_amount(state.cost, indices),
            log_seconds=log_amount(latency, np.ones(len(indices))) if latency is not None else None,
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
