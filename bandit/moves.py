"""The moves of a session: what an agent's Select and Escalate become, as events.

The server's engine and the simulator make the same moves through these functions and differ only in where the
events go. A move that needs a draw is a `Step`; steps are taken together, which is quicker than one by one and gives
the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict, Unpack

import msgspec

from bandit.decision import Question, Vintage, decide, situate
from bandit.errors import NoEligibleArm, Unknown
from bandit.events import Decided, Escalated, Stuck
from bandit.session import ESCALATED, Session, apply, check_running, on_select, require_eligible
from bandit.types import (
    NO_REQUIREMENTS,
    Assignment,
    BarKind,
    Decision,
    EscalationReason,
    Features,
    Offer,
    Outcome,
    Requirements,
    RouterSettings,
)

EndpointOf = Callable[[str], str]
"""An arm's id -> the endpoint at which to call it, empty where it has none of a name."""


def nameless(_arm: str) -> str:
    """Arms have no endpoints of a name."""
    return ""


class _Select(TypedDict):
    session_id: str
    features: Features
    offers: tuple[Offer, ...]
    decision_id: str
    pinned_arm: NotRequired[str]
    requirements: NotRequired[Requirements]
    endpoint_of: NotRequired[EndpointOf]
    budget_price: NotRequired[float]
    assignment: NotRequired[Assignment | None]


class _Escalate(TypedDict):
    decision_id: str
    reason: EscalationReason
    offers: tuple[Offer, ...]
    next_decision_id: str
    outcome: NotRequired[Outcome | None]
    features: NotRequired[Features | None]
    requirements: NotRequired[Requirements | None]
    endpoint: NotRequired[str]
    endpoint_of: NotRequired[EndpointOf]
    budget_price: NotRequired[float]
    assignment: NotRequired[Assignment | None]


Events = tuple[Decided] | tuple[Escalated] | tuple[Escalated, Decided]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A move whose arm is yet to be drawn."""

    question: Question
    finish: Callable[[Decision | None, float], Events]
    """The decision (None: the session gives up) and the probability of giving up -> the events."""


def take(vintage: Vintage, steps: Sequence[Step]) -> list[Events]:
    """Draws every step's arm; the events of each."""
    decided = decide(vintage, [step.question for step in steps])
    return [step.finish(decision, stop) for step, (decision, stop) in zip(steps, decided, strict=True)]


def begin_select(
    settings: RouterSettings,
    session: Session | None,
    *,
    session_id: str,
    features: Features,
    offers: tuple[Offer, ...],
    decision_id: str,
    pinned_arm: str = "",
    requirements: Requirements = NO_REQUIREMENTS,
    endpoint_of: EndpointOf = nameless,
    budget_price: float = 0.0,
    assignment: Assignment | None = None,
) -> Decision | Step:
    """The running decision where the session sticks to it, else the step to a new attempt.

    `offers` are the arms under `requirements` and the router's rules. `decision_id` is the id of the new decision, if
    one is made. A pinned arm overrides everything but retirement, unavailability and what it cannot do or take.
    `assignment` is how the policy that is to be asked came to decide, where a canary runs.
    Raises Unknown for a pinned arm that is not among the offers, NoEligibleArm and WrongOrder.
    """
    if pinned_arm:
        _require_takeable(pinned_arm, offers)
    begin = on_select(session, offers, pinned_arm)
    if isinstance(begin, Decision):
        return begin
    situation = situate(
        settings,
        session,
        session_id=session_id,
        features={**session.features, **features} if session is not None else features,
        offers=offers,
        requirements=requirements,
        budget_price=budget_price,
    )
    if not pinned_arm:
        require_eligible(situation.offers)

    def finish(decision: Decision | None, _stop: float) -> Events:
        assert decision is not None, "only an alarm allows giving up"
        return (Decided(decision=decision, left=begin.left, endpoint=endpoint_of(decision.arm)),)

    question = Question(
        situation=situation,
        decision_id=decision_id,
        reason=begin.reason,
        pinned_arm=pinned_arm,
        assignment=assignment,
    )
    return Step(question=question, finish=finish)


def stuck(session: Session, *, requirements: Requirements, endpoint: str, repeatable: bool) -> Stuck | None:
    """What a sticky answer leaves in the log: what the request demands and where it was sent.

    None where neither differs from what held before, unless a repeat of the request has to be told from a new one.
    """
    running = session.attempts[-1]
    demanded = requirements if requirements != session.requirements else None
    if demanded is None and endpoint == running.endpoint and not repeatable:
        return None
    return Stuck(decision_id=running.decision.decision_id, requirements=demanded, endpoint=endpoint)


def begin_escalate(
    settings: RouterSettings,
    session: Session,
    *,
    decision_id: str,
    reason: EscalationReason,
    offers: tuple[Offer, ...],
    next_decision_id: str,
    outcome: Outcome | None = None,
    features: Features | None = None,
    requirements: Requirements | None = None,
    endpoint: str = "",
    endpoint_of: EndpointOf = nameless,
    budget_price: float = 0.0,
    assignment: Assignment | None = None,
) -> Step | tuple[Escalated]:
    """The step out of the running attempt, which `decision_id` must name: its second event begins the next one.

    Without a second the session is exhausted: no arm is left, or none is worth its price. `offers` are the arms under
    `requirements` (None: what held before goes on to hold) and the router's rules; `endpoint` is the one that the
    agent says it leaves.
    Raises WrongOrder where the decision is stale, exhausted or final.
    """
    check_running(session, decision_id)
    left = Escalated(
        decision_id=decision_id,
        reason=reason,
        outcome=outcome or Outcome(),
        features=features or {},
        endpoint=endpoint,
    )
    after = apply(session, left)
    assert after is not None, "it has an attempt"
    situation = situate(
        settings,
        after,
        session_id=session.session_id,
        features=after.features,
        offers=offers,
        requirements=session.requirements if requirements is None else requirements,
        may_stop=reason.is_alarm,
        budget_price=budget_price,
    )

    def finish(decision: Decision | None, stop_propensity: float) -> tuple[Escalated] | tuple[Escalated, Decided]:
        if decision is None:
            return (msgspec.structs.replace(left, stop_propensity=stop_propensity),)
        moved = msgspec.structs.replace(left, next_decision_id=decision.decision_id, stop_propensity=stop_propensity)
        return moved, Decided(decision=decision, endpoint=endpoint_of(decision.arm))

    if all(offer.bar is not None for offer in situation.offers):
        ended = finish(None, 1.0)
        assert len(ended) == 1
        return ended
    question = Question(
        situation=situation,
        decision_id=next_decision_id,
        reason=ESCALATED[reason],
        may_end=True,
        assignment=assignment,
    )
    return Step(question=question, finish=finish)


def select(
    settings: RouterSettings, vintage: Vintage, session: Session | None, **asked: Unpack[_Select]
) -> Decided | Decision:
    """`begin_select` and its step, for one session by itself."""
    begun = begin_select(settings, session, **asked)
    if isinstance(begun, Decision):
        return begun
    ((event, *_),) = take(vintage, [begun])
    assert isinstance(event, Decided)
    return event


def escalate(settings: RouterSettings, vintage: Vintage, session: Session, **asked: Unpack[_Escalate]) -> Events:
    """`begin_escalate` and its step, for one session by itself."""
    begun = begin_escalate(settings, session, **asked)
    return take(vintage, [begun])[0] if isinstance(begun, Step) else begun


def _require_takeable(arm: str, offers: Sequence[Offer]) -> None:
    """Raises Unknown or NoEligibleArm where a pinned arm cannot serve at all."""
    offer = next((offer for offer in offers if offer.arm == arm), None)
    if offer is None:
        raise Unknown("pinned_arm", "arm", arm)
    if offer.bar is not None and offer.bar.kind is not BarKind.POLICY:
        raise NoEligibleArm({arm: offer.bar.why})
