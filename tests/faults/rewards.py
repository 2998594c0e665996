"""Rewards that come twice, late, out of order, for nobody, and corrected: the outcome table is that of the right order.

The right table is computed here from what was said, by the rules as the protos tell them and without the fold.
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from bandit.events import Closed, Decided, Escalated, Event, Rewarded
from bandit.session import Session, apply
from bandit.types import (
    ArmScore,
    Decision,
    EscalationReason,
    Objective,
    Offer,
    Outcome,
    SelectReason,
    Situation,
    Usage,
)
from tests.faults.trial import Figures, Trial, require

AIM = (
    "rewards duplicate, late, out of order, orphaned, corrected: 1 M shuffles give the outcome table of the right order"
)

_SHUFFLES_A_SESSION = 50
_ARMS = ("a", "b", "c", "d")
_NOBODYS = "d"
"""A decision's id that no decision has."""
_FIELDS = ("success", "cost_usd", "usage", "latency_seconds", "served_arm")


class _Story(NamedTuple):
    """A session: what happened in its order, and what may come in any order behind the decision that it is about."""

    course: tuple[Event, ...]
    told: tuple[Rewarded, ...]
    """The revision of each is its own."""
    closed: Closed | None


def _decided(number: int) -> Decided:
    arm = _ARMS[number - 1]
    situation = Situation(
        router="default",
        seed=1,
        session_id="s",
        attempt=number,
        attempts_left=1,
        features={},
        offers=(Offer(arm=arm),),
        objective=Objective(),
        exploration_floor=0.02,
        draws=8,
        alpha=1.0,
    )
    decision = Decision(
        decision_id=f"d{number}",
        situation=situation,
        arm=arm,
        propensity=1.0,
        reason=SelectReason.SAMPLED,
        scores=(ArmScore(arm=arm, propensity=1.0),),
        policy="uniform",
        policy_version="1",
        epoch=0,
        epoch_hash="",
    )
    return Decided(decision=decision)


_DECIDED = [_decided(number) for number in range(1, 5)]


def _outcome(rng: random.Random) -> Outcome:
    given: dict[str, Any] = {}
    if rng.random() < 0.6:
        given["success"] = float(rng.random() < 0.5)
    if rng.random() < 0.5:
        given["cost_usd"] = rng.randrange(100) / 8
    if rng.random() < 0.4:
        given["usage"] = Usage(input_tokens=rng.randrange(1000), output_tokens=rng.randrange(100), cached_tokens=1.0)
    if rng.random() < 0.3:
        given["latency_seconds"] = float(rng.randrange(60))
    if rng.random() < 0.2:
        given["served_arm"] = rng.choice(_ARMS)
    return Outcome(**given)


def _story(rng: random.Random) -> _Story:
    attempts = rng.choice((1, 1, 2, 3, 4))
    course: list[Event] = [_DECIDED[0]]
    for number in range(1, attempts):
        # Without an outcome: that of an escalation takes the next revision, whatever that is when it comes.
        reason = rng.choice(list(EscalationReason))
        course += [Escalated(decision_id=f"d{number}", reason=reason, next_decision_id=f"d{number + 1}")]
        course += [_DECIDED[number]]
    revisions = rng.sample(range(50), rng.randint(1, 7))
    told = tuple(
        Rewarded(
            session_id="s",
            decision_id=rng.choice(["", *(f"d{number}" for number in range(1, attempts + 1))]),
            outcome=_outcome(rng),
            revision=revision,
            final=rng.random() < 0.2,
        )
        for revision in revisions
    )
    closed = Closed(session_id="s", success=rng.choice((None, 0.0, 1.0))) if rng.random() < 0.2 else None
    return _Story(tuple(course), told, closed)


def _shuffled(story: _Story, rng: random.Random) -> list[Event]:
    """The same in another order, with some of it said twice and some about decisions that nobody took."""
    attempts = (len(story.course) + 1) // 2
    late: list[Event] = list(story.told)
    late += rng.choices(story.told, k=rng.randrange(3))
    if rng.random() < 0.3:
        stray = rng.choice(story.told)
        late.append(msgspec.structs.replace(stray, decision_id=_NOBODYS, final=False))
    rng.shuffle(late)
    order: list[Event] = list(story.course)
    for event in late:
        assert isinstance(event, Rewarded)
        # What is final ends the session, and what is about the whole of it is about its last attempt.
        number = attempts if event.final or not event.decision_id else int(event.decision_id[1:] or 1)
        order.insert(rng.randint(order.index(_DECIDED[number - 1]) + 1, len(order)), event)
    if story.closed is not None:
        order.insert(rng.randint(order.index(_DECIDED[attempts - 1]) + 1, len(order)), story.closed)
    return order


# --- what is right ----------------------------------------------------------------------------------------------


def _latest(reports: Sequence[Rewarded], name: str) -> tuple[int, Any]:
    """Revision and value of a field in the highest revision that carries it; -1 where none does."""
    told = [(r.revision, getattr(r.outcome, name)) for r in reports if getattr(r.outcome, name) is not None]
    return max(told, key=lambda one: one[0], default=(-1, None))


def _right(story: _Story) -> list[dict[str, Any]]:
    """The outcome of each attempt, from the reports alone."""
    attempts = (len(story.course) + 1) // 2
    whole = [report for report in story.told if not report.decision_id]
    own = [[r for r in story.told if r.decision_id == f"d{number}"] for number in range(1, attempts + 1)]
    table = [{name: _latest(reports, name)[1] for name in _FIELDS} for reports in own]
    last, others = table[-1], table[:-1]
    for name in _FIELDS:
        revision, value = _latest(whole, name)
        if revision < 0 or revision < _latest(own[-1], name)[0]:
            continue
        if name == "cost_usd":
            value = max(0.0, value - sum(other["cost_usd"] or 0.0 for other in others))
        if name == "usage":
            parts = [other["usage"] for other in others if other["usage"] is not None]
            kinds = ("input_tokens", "output_tokens", "cached_tokens")
            value = Usage(
                **{kind: max(0.0, getattr(value, kind) - sum(getattr(p, kind) for p in parts)) for kind in kinds}
            )
        last[name] = value
    if story.closed is not None and not any(report.final for report in story.told) and last["success"] is None:
        last["success"] = story.closed.success
    return table


def _table(events: Sequence[Event]) -> tuple[list[dict[str, Any]], bool, bool]:
    """The outcomes as the fold has them, and whether the session is final and whether nobody but time made it so."""
    session: Session | None = None
    for event in events:
        session = apply(session, event)
    assert session is not None
    outcomes = [session.outcome(i) for i in range(len(session.attempts))]
    return [{name: getattr(o, name) for name in _FIELDS} for o in outcomes], session.final, session.closed


def _said(events: Sequence[Event]) -> str:
    return ", ".join(
        f"{type(e).__name__}({e.decision_id} {e.revision})" if isinstance(e, Rewarded) else type(e).__name__
        for e in events
    )


def run(trial: Trial) -> Figures:
    """Shuffles."""
    rng = random.Random(trial.seed)
    sessions = trial.size(full=20_000, quick=100)
    for number in range(sessions):
        story = _story(rng)
        final = any(report.final for report in story.told)
        closed = story.closed is not None and not final
        right = _right(story), final or closed, closed
        in_order = [*story.course, *sorted(story.told, key=lambda report: report.revision)]
        in_order += [story.closed] if story.closed is not None else []
        require(_table(in_order) == right, f"seed {trial.seed}, session {number}: in order it is not what was told")
        for _ in range(_SHUFFLES_A_SESSION):
            order = _shuffled(story, rng)
            require(
                _table(order) == right, f"seed {trial.seed}, session {number}: another outcome after {_said(order)}"
            )
        trial.tell(number + 1, sessions)
    return {"sessions": sessions, "shuffles": sessions * _SHUFFLES_A_SESSION, "different": 0}
