"""What policies that did not decide would have done in a decision's place: logged beside it, and without effect on it.

A shadow is asked for the very situation of the decision, its own objective and numbers put in, at the same epoch of
its own state. Whatever goes wrong with one becomes part of the log and is never raised.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from bandit.canary import Candidate
from bandit.decision import Vintage, must_stop
from bandit.errors import NoEligibleArm
from bandit.events import Decided, Escalated
from bandit.moves import Events
from bandit.policy import Distribution, Floats, Reals
from bandit.types import Decision, Mode, RouterSettings, SelectReason, Shadow, Situation, Terms

_LONGEST_ERROR = 200


def beside(vintage: Vintage, settings: RouterSettings, decisions: Sequence[Decision]) -> list[Shadow | None]:
    """What the policy would have done in place of each decision, under `settings`, which are the router's with its own
    numbers. None where it would not have been asked: the arm was pinned.

    Never raises: an error stands in the answer.
    """
    asked = [i for i, decision in enumerate(decisions) if decision.reason is not SelectReason.PINNED]
    terms = {i: _terms(settings, decisions[i].situation) for i in asked}
    situations = [_under(decisions[i].situation, terms[i]) for i in asked]
    answers: list[Shadow | None] = [None] * len(decisions)
    for i, answer in zip(asked, _answers(vintage, situations), strict=True):
        answers[i] = msgspec.structs.replace(answer, terms=terms[i])
    return answers


def told(taken: Sequence[Events], others: Sequence[Candidate]) -> list[Events]:
    """The events of moves, with what others than the policy that decided would have done in its decisions' place."""
    decided = [events[-1] for events in taken if isinstance(events[-1], Decided)]
    answers = [beside(other.vintage, other.settings, [event.decision for event in decided]) for other in others]
    by_decision = iter(zip(*answers, strict=True))
    return [_with(events, next(by_decision)) if isinstance(events[-1], Decided) else events for events in taken]


def _with(events: Events, answers: Sequence[Shadow | None]) -> Events:
    shadows = tuple(answer for answer in answers if answer is not None)
    match events:
        case (Decided() as decided,):
            return (msgspec.structs.replace(decided, shadows=shadows),)
        case (Escalated() as left, Decided() as decided):
            return left, msgspec.structs.replace(decided, shadows=shadows)
    return events


def confirm(vintages: Mapping[str, Vintage], event: Decided) -> str:
    """Asks the shadows of a decision again and compares: empty where all say the same, else what differs.

    `vintages` are the decision's epoch by version of the policy.
    """
    for logged in event.shadows:
        vintage = vintages.get(logged.policy_version)
        if vintage is None or vintage.epoch_hash != logged.epoch_hash:
            return f"the state of shadow {logged.policy_version!r} cannot be recomputed to the logged hash"
        (again,) = _answers(vintage, [_under(event.decision.situation, logged.terms)])
        if msgspec.structs.replace(again, terms=logged.terms) != logged:
            return f"recomputed, shadow {logged.policy_version!r} says something else"
    return ""


def _terms(settings: RouterSettings, situation: Situation) -> Terms | None:
    """The policy's own terms, where they differ from the situation's."""
    own = Terms(
        objective=settings.objective,
        attempts_left=max(0 if situation.may_stop else 1, settings.max_attempts - len(situation.alarmed)),
        exploration_floor=settings.exploration_floor,
        draws=settings.draws,
        alpha=settings.alpha,
    )
    return own if any(getattr(own, name) != getattr(situation, name) for name in Terms.__struct_fields__) else None


def _under(situation: Situation, terms: Terms | None) -> Situation:
    """The situation for a policy that decides by itself on its own terms."""
    if terms is None and situation.mode is not Mode.APPRENTICE:
        return situation
    own = {name: getattr(terms, name) for name in Terms.__struct_fields__} if terms is not None else {}
    return msgspec.structs.replace(situation, mode=Mode.LIVE, baseline_arm="", **own)


def _answers(vintage: Vintage, situations: Sequence[Situation]) -> list[Shadow]:
    open_ones = [situation for situation in situations if not must_stop(vintage.policy, situation)]
    try:
        distributions = iter(vintage.policy.distributions(vintage.state, open_ones))
        return [
            _gives_up(vintage) if must_stop(vintage.policy, situation) else _answer(vintage, next(distributions))
            for situation in situations
        ]
    except Exception as error:
        if len(situations) > 1:
            # What one of them trips over says nothing of the others.
            return [answer for situation in situations for answer in _answers(vintage, [situation])]
        if isinstance(error, NoEligibleArm):
            return [_gives_up(vintage)]
        said = f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]
        return [_shadow(vintage, error=said.encode(errors="replace").decode())]


def _answer(vintage: Vintage, distribution: Distribution) -> Shadow:
    propensities, beliefs = distribution.propensities, distribution.beliefs
    total, stop = float(propensities.sum()), float(distribution.stop_propensity)
    if not (np.all(propensities >= 0.0) and abs(total - 1.0) < 1e-9 and 0.0 <= stop <= 1.0):
        # The log could not be read back with what is no number.
        raise ValueError(f"not a distribution over arms: {propensities}, {stop}")
    return _shadow(
        vintage,
        propensities=tuple(np.minimum(propensities, 1.0).tolist()),
        stop_propensity=stop,
        success_mean=_mean(propensities, beliefs.success_mean, most=1.0) if beliefs is not None else None,
        cost_usd=_mean(propensities, beliefs.cost_usd) if beliefs is not None else None,
    )


def _mean(propensities: Floats, values: Reals, most: float = math.inf) -> float | None:
    """The mean over the propensities, not above `most` by a rounding error; None where it is no number."""
    mean = float(np.dot(propensities, np.where(propensities > 0.0, values, 0.0)))
    return min(mean, most) if math.isfinite(mean) else None


def _gives_up(vintage: Vintage) -> Shadow:
    return _shadow(vintage, stop_propensity=1.0)


def _shadow(vintage: Vintage, **said: object) -> Shadow:
    return msgspec.structs.replace(
        Shadow(policy=vintage.policy.spec, policy_version=vintage.policy_version, epoch_hash=vintage.epoch_hash),
        **said,
    )
