"""One decision: the session's rules and the policy's distribution become an arm, a propensity and a record of why.

Pure: the engine and the simulator call the same functions, and `confirm` calls them again from the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bandit import sampling
from bandit.errors import NoEligibleArm
from bandit.policy import AnyPolicy, Distribution, no_plan
from bandit.session import Session, without_tried
from bandit.types import (
    NO_REQUIREMENTS,
    ArmScore,
    Assignment,
    Decision,
    Features,
    Mode,
    Offer,
    Requirements,
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
    requirements: Requirements = NO_REQUIREMENTS,
    may_stop: bool = False,
    budget_price: float = 0.0,
) -> Situation:
    """The situation in which a new attempt of `session` is to be begun.

    `offers` are the arms under `requirements` and the router's rules; arms the session has already tried are ruled
    out here. `may_stop`: the attempt before was left with an alarm, so that giving up is an answer.
    `budget_price` is what a dollar costs beyond itself under the budget.
    """
    attempt = len(session.attempts) + 1 if session is not None else 1
    alarmed = session.alarmed() if session is not None else ()
    return Situation(
        router=settings.id,
        seed=settings.seed,
        session_id=session_id,
        attempt=attempt,
        attempts_left=max(0 if may_stop else 1, settings.max_attempts - len(alarmed)),
        features=features,
        offers=without_tried(session, offers),
        alarmed=alarmed,
        may_stop=may_stop,
        mode=settings.mode,
        baseline_arm=(settings.baseline_arm or "") if settings.mode is Mode.APPRENTICE else "",
        requirements=requirements,
        cost_cap_usd=_cost_cap(settings, session, requirements),
        reread_tokens=requirements.context_tokens if attempt > 1 else 0,
        budget_price=budget_price,
        objective=settings.objective,
        exploration_floor=settings.exploration_floor,
        draws=settings.draws,
        alpha=settings.alpha,
    )


def _cost_cap(settings: RouterSettings, session: Session | None, requirements: Requirements) -> float | None:
    """The least of the request's cap and what the session's cap leaves, never below 0."""
    of_session = settings.objective.session_cap_usd
    if of_session is None:
        return requirements.max_cost_usd
    left = max(0.0, of_session - (session.spending() if session is not None else 0.0))
    return left if requirements.max_cost_usd is None else min(left, requirements.max_cost_usd)


@dataclass(frozen=True, kw_only=True)
class Question:
    """An attempt to be begun, before its arm is drawn."""

    situation: Situation
    decision_id: str
    """The id of the decision, if one is made."""
    reason: SelectReason
    pinned_arm: str = ""
    """An arm to take with propensity 1, whatever the policy thinks of it."""
    assignment: Assignment | None = None
    """The lottery by which the policy that is asked is the one to decide, if there was one."""
    may_end: bool = False
    """Whether the session is exhausted where the policy finds no arm eligible, by its expected cost say."""


def decide(vintage: Vintage, questions: Sequence[Question]) -> list[tuple[Decision | None, float]]:
    """Draws each attempt's arm, or gives up.

    Returns for each the decision (None: the session is exhausted) and the probability with which giving up was drawn.
    What one gets does not depend on what it is decided with. At least one offer of each must be eligible, except
    where giving up is an answer or an arm is pinned.
    """
    open_questions = [q for q in questions if not q.pinned_arm and not must_stop(vintage.policy, q.situation)]
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
        elif must_stop(vintage.policy, question.situation):
            decided.append((None, 1.0))
        else:
            decided.append(_draw(vintage, question, _under_mode(question.situation, next(answers))))
    return decided


def worth_usd(vintage: Vintage, question: Question) -> float | None:
    """What the attempt is expected to be worth with all that may follow it, 0 where the session would be given up.

    None where the policy does not reckon with that.
    """
    if must_stop(vintage.policy, question.situation):
        return 0.0
    try:
        return vintage.policy.distribution(vintage.state, question.situation).worth_usd
    except NoEligibleArm:
        return 0.0


def must_stop(policy: AnyPolicy, situation: Situation) -> bool:
    """Whether the session is given up without asking the policy: it never climbs, or nothing is left to climb to."""
    return situation.may_stop and (
        situation.attempts_left == 0
        or situation.mode is Mode.APPRENTICE
        or not policy.climbs
        or all(offer.bar is not None for offer in situation.offers)
    )


def _draw(vintage: Vintage, question: Question, distribution: Distribution) -> tuple[Decision | None, float]:
    situation, stop = question.situation, distribution.stop_propensity
    seed, session_id, attempt = situation.seed, situation.session_id, situation.attempt
    if situation.may_stop and sampling.draw_stop(stop, seed=seed, session_id=session_id, attempt=attempt):
        return None, stop
    scores = _scores(situation, distribution)
    chosen = sampling.draw_arm(distribution.propensities, seed=seed, session_id=session_id, attempt=attempt)
    return Decision(
        decision_id=question.decision_id,
        situation=situation,
        arm=scores[chosen].arm,
        propensity=scores[chosen].propensity,
        reason=_reason(question, scores, chosen),
        scores=scores,
        ladder=distribution.plan(chosen),
        policy=vintage.policy.spec,
        policy_version=vintage.policy_version,
        epoch=vintage.epoch,
        epoch_hash=vintage.epoch_hash,
        assignment=question.assignment,
    ), stop


def _under_mode(situation: Situation, distribution: Distribution) -> Distribution:
    """What the mode makes of the policy's answer: apprentice mode takes the baseline, if it is not ruled out.

    The beliefs stay the policy's. The propensities are those of the lottery that is held, so 1 on the baseline.
    """
    if situation.mode is not Mode.APPRENTICE:
        return distribution
    bars = distribution.bars or tuple(offer.bar for offer in situation.offers)
    baseline = np.array(
        [float(o.arm == situation.baseline_arm and bar is None) for o, bar in zip(situation.offers, bars, strict=True)]
    )
    return replace(distribution, propensities=baseline if baseline.any() else distribution.propensities, plan=no_plan)


def _reason(question: Question, scores: Sequence[ArmScore], chosen: int) -> SelectReason:
    """Why that arm: as asked, unless the lottery was none."""
    if question.reason in (SelectReason.SAMPLED, SelectReason.ESCALATED):
        # Only in apprentice mode is there a baseline, and it is taken wherever it can be.
        if scores[chosen].arm == question.situation.baseline_arm:
            return SelectReason.BASELINE
        if question.reason is SelectReason.SAMPLED and sum(score.bar is None for score in scores) == 1:
            return SelectReason.ONLY_ELIGIBLE
    return question.reason


def confirm(vintage: Vintage, decision: Decision) -> str:
    """Decides again from the logged situation and compares: empty where everything is equal, else what differs."""
    if (vintage.epoch, vintage.epoch_hash) != (decision.epoch, decision.epoch_hash):
        return f"epoch {decision.epoch} cannot be recomputed to the logged hash {decision.epoch_hash}"
    # That the arm was the only eligible one, or the baseline, was found by the decision itself.
    found = decision.reason in (SelectReason.ONLY_ELIGIBLE, SelectReason.BASELINE)
    reason = SelectReason.SAMPLED if found else decision.reason
    question = Question(
        situation=decision.situation,
        decision_id=decision.decision_id,
        reason=reason,
        pinned_arm=decision.arm if reason is SelectReason.PINNED else "",
        assignment=decision.assignment,
    )
    if decision.attempt == 1 and decision.assignment is not None and not _is_assigned(decision):
        return f"recomputed, the session is not for policy {decision.policy_version!r} to decide"
    ((again, _),) = decide(vintage, [question])
    if again is None:
        return "recomputed, the session gives up"
    if again != decision:
        return f"recomputed, it is {again.arm} with propensity {again.propensity!r}"
    return ""


def _is_assigned(decision: Decision) -> bool:
    """Whether the lottery that the decision tells of gave the session to the policy that decided."""
    assignment, situation = decision.assignment, decision.situation
    assert assignment is not None, "the caller has looked"
    drawn = sampling.draw_canary(
        assignment.share,
        seed=situation.seed,
        session_id=situation.session_id,
        policy_version=assignment.canary,
    )
    return drawn == (decision.policy_version == assignment.canary)


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
