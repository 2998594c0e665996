"""Sums of sessions: whatever happened in between, they are those of the sessions as they stand."""

import random

import pytest

from bandit.events import Closed, Decided, Escalated, Rewarded
from bandit.session import apply
from bandit.tally import OPEN, RESOLVED, UNRESOLVED, Shares, Sums
from bandit.types import (
    ArmScore,
    Decision,
    EscalationReason,
    Objective,
    Offer,
    Outcome,
    SelectReason,
    Situation,
)

ARMS = ("a", "b", "c")


def decided(session_id, attempt, arm, propensity=0.5, reason=SelectReason.SAMPLED, foretold=True):
    situation = Situation(
        router="r",
        seed=0,
        session_id=session_id,
        attempt=attempt,
        attempts_left=3,
        features={},
        offers=tuple(Offer(arm=each) for each in ARMS),
        budget_price=0.5,
        objective=Objective(),
        exploration_floor=0.02,
        draws=1,
        alpha=1.0,
    )
    scores = tuple(
        ArmScore(
            arm=each,
            propensity=propensity if each == arm else (1.0 - propensity) / 2,
            **({"success_mean": 0.6, "success_low": 0.4, "success_high": 0.7, "cost_usd": 0.5} if foretold else {}),
        )
        for each in ARMS
    )
    return Decided(
        decision=Decision(
            decision_id=f"{session_id}-{attempt}",
            situation=situation,
            arm=arm,
            propensity=propensity,
            reason=reason,
            scores=scores,
            policy="thompson",
            policy_version="1",
            epoch=0,
            epoch_hash="",
        )
    )


def escalated(session_id, attempt, cost=0.25, reason=EscalationReason.VERIFIED_FAILURE, goes_on=True):
    return Escalated(
        decision_id=f"{session_id}-{attempt}",
        reason=reason,
        outcome=Outcome(cost_usd=cost),
        next_decision_id=f"{session_id}-{attempt + 1}" if goes_on else "",
    )


def rewarded(session_id, success, cost, *, final=True, revision=1):
    outcome = Outcome(success=success, cost_usd=cost)
    return Rewarded(session_id=session_id, outcome=outcome, revision=revision, final=final)


def courses(seed):
    """What may happen to a session, as lists of events."""
    draw = random.Random(seed)
    for i in range(30):
        name = f"s{i}"
        events = [decided(name, 1, draw.choice(ARMS), draw.choice((0.2, 0.5, 1.0)))]
        if draw.random() < 0.5:
            events += [escalated(name, 1), decided(name, 2, draw.choice(ARMS))]
        if draw.random() < 0.8:
            events.append(rewarded(name, draw.choice((0.0, 1.0)), 1.5, revision=1))
            if draw.random() < 0.5:
                events.append(rewarded(name, draw.choice((0.0, 1.0)), 2.5, revision=2))
        elif draw.random() < 0.5:
            events.append(Closed(session_id=name))
        else:
            events.append(escalated(name, events[-1].decision.attempt, goes_on=False))
        yield events


@pytest.mark.parametrize("seed", range(5))
def test_sums_are_those_of_the_sessions_as_they_stand(seed):
    shares, sums = Shares(), Sums()
    sessions = []
    for events in courses(seed):
        session = None
        for event in events:
            after = apply(session, event)
            if session is not None:
                sums.put(shares.of(session), -1)
            sums.put(shares.of(after))
            session = after
        sessions.append(session)
    random.Random(seed).shuffle(sessions)
    anew = Sums()
    for session in sessions:
        anew.put(shares.of(session))
    assert sums.moves == anew.moves
    assert sums.packed().sums != b"" and Sums.unpacked(sums.packed()).moves == sums.moves
    for name in ("sessions", "open", "told", "success", "billed", "cost_usd", "escalated", "closed"):
        assert sums.whole(name) == pytest.approx(anew.whole(name))
    for name in ("begun", "ended", "attempts"):
        assert sums.of_arms(name) == pytest.approx(anew.of_arms(name))
    for arm in range(len(shares.arms)):
        for dollars in (False, True):
            assert sums.errors(arm, dollars=dollars) == pytest.approx(anew.errors(arm, dollars=dollars))
    ended = [session for session in sessions if session.final or session.exhausted]
    costs = [cost for session in ended if (cost := total(session)) is not None]
    assert sums.whole("billed") == len(costs) and sums.whole("cost_usd") == pytest.approx(sum(costs))


def total(session):
    costs = [session.dollars(i) for i in range(len(session.attempts))]
    return None if None in costs else sum(costs)


def one(*events):
    session = None
    for event in events:
        session = apply(session, event)
    shares, sums = Shares(), Sums()
    sums.put(shares.of(session))
    return shares, sums


def test_an_open_session_counts_as_begun_and_nothing_more():
    shares, sums = one(decided("s", 1, "b"))
    assert sums.moves == {(1, "b", OPEN): 1} and sums.whole("open") == 1
    assert sums.whole("told") == 0 and sums.alone(shares.arms.index("b"), dollars=True) is None


def test_a_session_is_weighed_by_its_first_attempt():
    events = (decided("s", 1, "b", 0.5), escalated("s", 1), decided("s", 2, "c"), rewarded("s", 1.0, 2.0))
    shares, sums = one(*events)
    assert sums.moves == {(1, "b", "c"): 1, (2, "c", RESOLVED): 1}
    for _ in range(9):
        sums.put(shares.of(apply(apply(apply(apply(None, events[0]), events[1]), events[2]), events[3])))
    alone = {arm: sums.alone(shares.arms.index(arm), dollars=True) for arm in ARMS}
    # The session came to $2 whoever it is held against; the first attempt alone to $0.25.
    assert {arm: found.real for arm, found in alone.items()} == {arm: pytest.approx(2.0) for arm in ARMS}
    assert alone["b"].effective == pytest.approx(10.0) and alone["a"].effective == 0.0
    assert sums.errors(shares.arms.index("b"), dollars=True).real == pytest.approx(2.5)
    assert sums.errors(shares.arms.index("c"), dollars=True).real == pytest.approx(17.5)


def test_what_is_pinned_is_no_evidence_of_savings():
    shares, sums = one(decided("s", 1, "a", 1.0, SelectReason.PINNED), rewarded("s", 0.0, 1.0))
    assert sums.moves == {(1, "a", UNRESOLVED): 1} and sums.whole("told") == 1
    assert all(sums.alone(arm, dollars=True) is None for arm in range(len(shares.arms)))


def test_an_attempt_of_unknown_cost_makes_the_sessions_unknown():
    outcome = Rewarded(session_id="s", decision_id="s-2", outcome=Outcome(success=1.0), revision=1, final=True)
    _, sums = one(decided("s", 1, "a"), escalated("s", 1), decided("s", 2, "b"), outcome)
    assert sums.whole("told") == 1 and sums.whole("billed") == 0


def test_a_policy_that_foretells_nothing_is_counted_all_the_same():
    shares, sums = one(decided("s", 1, "a", foretold=False), rewarded("s", 1.0, 1.0))
    assert sums.whole("billed") == 1 and sums.all_errors(dollars=True).attempts == 0
    assert sums.bins[:, 0].sum() == 0 and sums.of_arms("begun")[shares.arms.index("a")] == 1


def test_arms_may_come_later():
    _, sums = one(decided("s", 1, "a"), rewarded("s", 1.0, 1.0))
    old = Sums.unpacked(sums.packed())
    old.add(sums)
    assert old.whole("sessions") == 2 and old.alone(7, dollars=False) is None
