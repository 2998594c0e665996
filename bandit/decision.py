"""One decision: the session's rules and the policy's distribution become an arm, a propensity and a record of why.

Pure: the engine and the simulator call the same functions, and `confirm` calls them again from the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bandit import sampling
from bandit.errors import NoEligibleArm
from bandit.policy import AnyPolicy, Distribution
from bandit.session import Session, without_tried
from bandit.types import (
    ArmScore,
    Decision,
    EscalationReason,
    Features,
    Offer,
    RouterSettings,
    SelectReason,
    Situation,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Vintage:
    """Which learned state a decision is taken under."""

    policy: AnyPolicy
    policy_version: str
    epoch: int
    epoch_hash: str
    state: object


def situate(
    settings: RouterSettings,
    session: Session | None,
    *,
    session_id: str,
    features: Features,
    offers: tuple[Offer, ...],
    leaving: EscalationReason | None = None,
    cost_cap_usd: float | None = None,
) -> Situation:
    """The situation in which a new attempt of `session` is to be begun.

    `offers` are the arms under the request's rules; arms the session has already left are ruled out here.
    `leaving` is why the running attempt ends with this one's beginning; an alarm allows giving up.
    """
    alarmed = session.alarmed() if session is not None else ()
    alarm = leaving is not None and leaving.is_alarm
    if session is not None and alarm:
        alarmed = (*alarmed, session.attempts[-1].decision.arm)
    return Situation(
        router=settings.id,
        seed=settings.seed,
        session_id=session_id,
        attempt=len(session.attempts) + 1 if session is not None else 1,
        attempts_left=max(0 if alarm else 1, settings.max_attempts - len(alarmed)),
        features=features,
        offers=without_tried(session, offers),
        alarmed=alarmed,
        may_stop=alarm,
        cost_cap_usd=cost_cap_usd,
        objective=settings.objective,
        exploration_floor=settings.exploration_floor,
        draws=settings.draws,
        alpha=settings.alpha,
    )


@dataclass(frozen=True, kw_only=True)
class Question:
    """An attempt to be begun, before its arm is drawn."""

    situation: Situation
    decision_id: str
    """The id of the decision, if one is made."""
    reason: SelectReason
    pinned_arm: str = ""
    """An arm to take with propensity 1, whatever the policy thinks of it."""
    may_end: bool = False
    """Whether the session is exhausted where the policy finds no arm eligible, by its expected cost say."""


def decide(vintage: Vintage, questions: Sequence[Question]) -> list[tuple[Decision | None, float]]:
    """Draws each attempt's arm, or gives up.

    Returns for each the decision (None: the session is exhausted) and the probability with which giving up was drawn.
    What one gets does not depend on what it is decided with. At least one offer of each must be eligible, except
    where giving up is an answer or an arm is pinned.
    """
    open_questions = [q for q in questions if not q.pinned_arm and not _must_stop(vintage, q.situation)]
    try:
        answers = iter(vintage.policy.distributions(vintage.state, [q.situation for q in open_questions]))
    except NoEligibleArm:
        if len(questions) > 1:
            # Some of them are to end for it, and it says not which.
            return [decided for question in questions for decided in decide(vintage, [question])]
        if not questions[0].may_end:
            raise
        return [(None, 1.0)]
    decided: list[tuple[Decision | None, float]] = []
    for question in questions:
        if question.pinned_arm:
            decided.append(_draw(vintage, question, _pinned(question)))
        elif _must_stop(vintage, question.situation):
            decided.append((None, 1.0))
        else:
            decided.append(_draw(vintage, question, next(answers)))
    return decided


def _must_stop(vintage: Vintage, situation: Situation) -> bool:
    return situation.may_stop and (
        situation.attempts_left == 0
        or not vintage.policy.climbs
        or all(offer.bar is not None for offer in situation.offers)
    )


def _draw(vintage: Vintage, question: Question, distribution: Distribution) -> tuple[Decision | None, float]:
    situation, stop = question.situation, distribution.stop_propensity
    seed, session_id, attempt = situation.seed, situation.session_id, situation.attempt
    if situation.may_stop and sampling.draw_stop(stop, seed=seed, session_id=session_id, attempt=attempt):
        return None, stop
    scores = _scores(situation, distribution)
    chosen = sampling.draw_arm(distribution.propensities, seed=seed, session_id=session_id, attempt=attempt)
    reason = question.reason
    if reason is SelectReason.SAMPLED and sum(score.bar is None for score in scores) == 1:
        reason = SelectReason.ONLY_ELIGIBLE
    return Decision(
        decision_id=question.decision_id,
        situation=situation,
        arm=scores[chosen].arm,
        propensity=scores[chosen].propensity,
        reason=reason,
        scores=scores,
        ladder=distribution.plan(chosen),
        policy=vintage.policy.spec,
        policy_version=vintage.policy_version,
        epoch=vintage.epoch,
        epoch_hash=vintage.epoch_hash,
    ), stop


def confirm(vintage: Vintage, decision: Decision) -> str:
    """Decides again from the logged situation and compares: empty where everything is equal, else what differs."""
    if (vintage.epoch, vintage.epoch_hash) != (decision.epoch, decision.epoch_hash):
        return f"epoch {decision.epoch} cannot be recomputed to the logged hash {decision.epoch_hash}"
    # A sole eligible arm was found to be that by the decision itself.
    reason = SelectReason.SAMPLED if decision.reason is SelectReason.ONLY_ELIGIBLE else decision.reason
    question = Question(
        situation=decision.situation,
        decision_id=decision.decision_id,
        reason=reason,
        pinned_arm=decision.arm if reason is SelectReason.PINNED else "",
    )
    ((again, _),) = decide(vintage, [question])
    if again is None:
        return "recomputed, the session gives up"
    if again != decision:
        return f"recomputed, it is {again.arm} with propensity {again.propensity!r}"
    return ""


def _pinned(question: Question) -> Distribution:
    offers = question.situation.offers
    return Distribution(propensities=np.array([float(offer.arm == question.pinned_arm) for offer in offers]))


def _scores(situation: Situation, distribution: Distribution) -> tuple[ArmScore, ...]:
    bars = distribution.bars or tuple(offer.bar for offer in situation.offers)
    propensities = distribution.propensities.tolist()
    if (beliefs := distribution.beliefs) is None:
        return tuple(
            ArmScore(arm=offer.arm, propensity=p, bar=bar)
            for offer, p, bar in zip(situation.offers, propensities, bars, strict=True)
        )
    return tuple(
        ArmScore(
            arm=offer.arm,
            propensity=p,
            success_mean=mean,
            success_low=low,
            success_high=high,
            cost_usd=cost,
            bar=bar,
        )
        for offer, p, bar, mean, low, high, cost in zip(
            situation.offers,
            propensities,
            bars,
            beliefs.success_mean.tolist(),
            beliefs.success_low.tolist(),
            beliefs.success_high.tolist(),
            beliefs.cost_usd.tolist(),
            strict=True,
        )
    )
