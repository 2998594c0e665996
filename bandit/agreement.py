"""How a shadow compares with what decided: how often they agree, and what its first arms would have come to.

Off-policy, by self-normalised inverse propensity weighting: a session whose first arm the shadow would have taken with
probability q and the decision took with p weighs q / p, and went on as logged. That nominates a policy; only
randomised traffic promotes one.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bandit.canary import outcome
from bandit.events import Decided, Event
from bandit.intervals import Interval, student
from bandit.session import Session, apply
from bandit.types import Decision, Shadow


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """One shadow, over the sessions looked at."""

    policy_version: str
    decisions: int
    """Decisions that it was asked beside."""
    errors: int
    """Of these, how often it had no answer."""
    agreement: float | None
    """The mean of sum over arms of min(p, q): 1 where it would have done the same. None without an answer."""
    sessions: int
    """Sessions that have ended and told their success, and whose first decision it was asked beside."""
    effective: float
    """How many sessions of its own would tell as much as these do of its first arms."""
    success: Interval | None
    """Success with its first arms less success as it was; None with fewer than two sessions."""
    cost_usd: Interval | None
    """Likewise dollars a session."""


@dataclass
class _Tally:
    decisions: int = 0
    errors: int = 0
    overlap: float = 0.0


def compare(events: Iterable[tuple[str, Event]]) -> list[Agreement]:
    """One a shadow, over events with their session ids, in order; sessions that began before are left out."""
    sessions: dict[str, Session] = {}
    firsts: dict[str, Decided] = {}
    tallies: dict[str, _Tally] = {}
    for session_id, event in events:
        before = sessions.get(session_id)
        if isinstance(event, Decided):
            for shadow in event.shadows:
                _count(tallies.setdefault(shadow.policy_version, _Tally()), event.decision, shadow)
            if before is None and event.decision.attempt == 1:
                firsts[session_id] = event
        if (before is not None or session_id in firsts) and (after := apply(before, event)) is not None:
            sessions[session_id] = after
    ended = [(firsts[session_id], session) for session_id, session in sessions.items() if session.final]
    return [_agreement(version, tally, ended) for version, tally in sorted(tallies.items())]


def _count(tally: _Tally, decision: Decision, shadow: Shadow) -> None:
    tally.decisions += 1
    if shadow.error:
        tally.errors += 1
        return
    going_on = 1.0 - shadow.stop_propensity
    overlap = sum(map(min, (score.propensity for score in decision.scores), shadow.propensities))
    tally.overlap += overlap * going_on


def _agreement(version: str, tally: _Tally, ended: Sequence[tuple[Decided, Session]]) -> Agreement:
    weights, successes, priced, costs = [], [], [], []
    for event, session in ended:
        shadow = next((one for one in event.shadows if one.policy_version == version), None)
        became = outcome(session)
        if shadow is None or not shadow.propensities or became.success is None:
            continue
        offers = [offer.arm for offer in event.decision.situation.offers]
        weight = shadow.propensities[offers.index(event.decision.arm)] / event.decision.propensity
        weights.append(weight)
        successes.append(became.success)
        if became.cost_usd is not None:
            priced.append(weight)
            costs.append(became.cost_usd)
    answered = tally.decisions - tally.errors
    squares = sum(weight * weight for weight in weights)
    return Agreement(
        policy_version=version,
        decisions=tally.decisions,
        errors=tally.errors,
        agreement=tally.overlap / answered if answered else None,
        sessions=len(weights),
        effective=sum(weights) ** 2 / squares if squares else 0.0,
        success=_difference(weights, successes),
        cost_usd=_difference(priced, costs),
    )


def _difference(weights: Sequence[float], values: Sequence[float]) -> Interval | None:
    """The weighted less the plain mean, with its 95 % interval by the delta method."""
    n, total = len(weights), sum(weights)
    if n < 2 or total <= 0.0:
        return None
    weighted = sum(w * y for w, y in zip(weights, values, strict=True)) / total
    plain = sum(values) / n
    # What one session moves each mean by.
    moved = [w * (y - weighted) * n / total - (y - plain) for w, y in zip(weights, values, strict=True)]
    stderr = math.sqrt(sum(m * m for m in moved) / (n * (n - 1)))
    return student(weighted - plain, stderr, n - 1)
