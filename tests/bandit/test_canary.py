"""Who decides while a canary runs, and how its sessions become evidence."""

import random
from collections import Counter

import msgspec
import pytest

from bandit.canary import Candidate, Trial, deciding, outcome
from bandit.configuration import Configuration
from bandit.decision import Question, Vintage, confirm, decide, situate
from bandit.events import ArmPut, Closed, Decided, Escalated, Event, PolicyPut, Rewarded, RouterPut
from bandit.evidence import Figures
from bandit.policy import parse
from bandit.promotion import create, promote, roll_back, start_canary
from bandit.session import Session, apply
from bandit.types import (
    Arm,
    Assignment,
    Canary,
    EscalationReason,
    Offer,
    Outcome,
    RouterSettings,
    SelectReason,
    Shadow,
)

SETTINGS = RouterSettings(id="r", seed=3, policy="always:a")
OFFERS = tuple(Offer(arm=arm) for arm in "ab")


def candidate(spec: str, version: str) -> Candidate:
    vintage = Vintage(policy=parse(spec), policy_version=version, epoch=1, epoch_hash="", state=None)
    return Candidate(msgspec.structs.replace(SETTINGS, policy=spec, policy_version=version), vintage)


LIVE, OTHER = candidate("always:a", "1"), candidate("always:b", "2")


def configured(hold: bool = False, gate: str = "") -> tuple[Configuration, PolicyPut]:
    """A router with a canary, and the event that started it."""
    configuration = Configuration()
    for event in (ArmPut(arm=Arm(id="a")), ArmPut(arm=Arm(id="b")), RouterPut(settings=SETTINGS)):
        configuration = configuration.apply(event)
    configuration = configuration.apply(create(configuration, policy="always:b", at_us=1))
    started = start_canary(configuration, "2", Canary(share=0.5, gate=gate, hold=hold))
    return configuration.apply(started), started


def begun(session_id: str, session: Session | None = None, *, pinned: str = "") -> Decided:
    """The session's next attempt, by whoever is to decide it."""
    who = deciding(LIVE, OTHER, 0.5, session=session, session_id=session_id)
    question = Question(
        situation=situate(who.settings, session, session_id=session_id, features={}, offers=OFFERS),
        decision_id=f"{session_id}-{len(session.attempts) if session else 0}",
        reason=SelectReason.PINNED if pinned else SelectReason.SAMPLED,
        pinned_arm=pinned,
        assignment=who.assignment,
    )
    ((decision, _),) = decide(who.vintage, [question])
    assert decision is not None
    assert confirm(who.vintage, decision) == ""
    return Decided(decision=decision)


def test_new_sessions_are_shared_by_a_lottery_with_the_chance_that_is_logged():
    """5,000 sessions at a share of .1: the count lies within four standard errors, 1 - 6e-5."""
    by = Counter()
    for i in range(5000):
        who = deciding(LIVE, OTHER, 0.1, session=None, session_id=f"s{i}")
        by[who.vintage.policy_version] += 1
        assert who.assignment == Assignment(canary="2", share=0.1)
        assert who.assignment.propensity(who.vintage.policy_version) == (
            0.1 if who.vintage is OTHER.vintage else pytest.approx(0.9)
        )
    assert abs(by["2"] - 500) < 4 * (5000 * 0.1 * 0.9) ** 0.5


def test_the_lottery_is_keyed_by_seed_session_and_version():
    def given(seed: int, version: str) -> list[bool]:
        live = Candidate(msgspec.structs.replace(SETTINGS, seed=seed), LIVE.vintage)
        canary = candidate("always:b", version)
        who = [deciding(live, canary, 0.5, session=None, session_id=f"s{i}") for i in range(200)]
        return [each.vintage is canary.vintage for each in who]

    assert given(3, "2") == given(3, "2")
    others = [given(4, "2"), given(3, "3")]
    # Independent ones agree on about half; that 70 of 200 or fewer, or 130 or more, do so by chance: 3e-5.
    assert all(70 < sum(map(bool.__eq__, given(3, "2"), other)) < 130 for other in others)


def test_a_session_stays_with_who_began_it_and_goes_to_the_live_policy_once_the_canary_is_gone():
    for i in range(20):
        event = begun(f"s{i}")
        session = apply(None, event)
        version = event.decision.policy_version
        again = deciding(LIVE, OTHER, 0.5, session=session, session_id=f"s{i}")
        assert (again.vintage.policy_version, again.assignment) == (version, event.decision.assignment)
        # A share that was changed, or a seed, moves nobody.
        moved = Candidate(msgspec.structs.replace(SETTINGS, seed=99), LIVE.vintage)
        assert deciding(moved, OTHER, 0.01, session=session, session_id=f"s{i}").vintage.policy_version == version
        for gone in (None, candidate("always:b", "3")):
            ended = deciding(LIVE, gone, 0.5, session=session, session_id=f"s{i}")
            assert (ended.vintage, ended.assignment) == (LIVE.vintage, None)


def test_a_decision_by_the_wrong_policy_is_not_confirmed():
    decision = begun("s1").decision
    wrong = OTHER if decision.policy_version == "1" else LIVE
    question = Question(
        situation=decision.situation, decision_id="d", reason=SelectReason.SAMPLED, assignment=decision.assignment
    )
    ((forged, _),) = decide(wrong.vintage, [question])
    assert "not for policy" in confirm(wrong.vintage, forged)


# --- the trial ------------------------------------------------------------------------------------------------------


class Log:
    """A trial fed as the guard feeds it."""

    def __init__(self, **terms) -> None:
        self.configuration, _ = configured(**terms)
        self.trial = Trial(self.configuration)
        self.sessions: dict[str, Session] = {}

    def tell(self, session_id: str, event: Event) -> None:
        session = apply(self.sessions.get(session_id), event)
        if session is not None and session_id:
            self.sessions[session_id] = session
        self.trial.feed(event, session_id, lambda: self.sessions.get(session_id))

    def begin(self, session_id: str, **more) -> Decided:
        event = begun(session_id, **more)
        self.tell(session_id, event)
        return event

    def end(self, session_id: str, success: float | None = 1.0, cost_usd: float | None = 0.1) -> None:
        told = Outcome(success=success, cost_usd=cost_usd)
        self.tell(session_id, Rewarded(session_id=session_id, outcome=told, revision=1, final=True))

    @property
    def counted(self) -> int:
        return self.trial.evidence.canary_sessions + self.trial.evidence.live_sessions


def test_sessions_count_in_the_order_in_which_they_began_however_they_end():
    """Shuffled ends give the same evidence, and one that has not ended holds up those behind it."""
    results = set()
    for shuffle in range(5):
        log, order = Log(), list(range(40))
        for i in order:
            log.begin(f"s{i}")
        random.Random(shuffle).shuffle(order)
        done: set[int] = set()
        for i in order:
            log.end(f"s{i}", success=float(i % 3 > 0))
            done.add(i)
            assert log.counted == next((j for j in range(40) if j not in done), 40)
            assert log.trial.waiting == 40 - log.counted
        results.add(msgspec.msgpack.encode(log.trial.evidence))
    assert len(results) == 1


def test_a_session_counts_once_and_what_is_told_later_changes_nothing():
    log = Log()
    log.begin("s0")
    log.end("s0")
    counted = log.trial.evidence
    log.end("s0", success=0.0)
    assert log.trial.evidence == counted and log.counted == 1


def test_pinned_sessions_those_begun_before_and_later_attempts_do_not_count():
    log = Log()
    log.begin("pinned", pinned="b")
    log.end("pinned")
    before = begun("before")
    log.tell(
        "before", msgspec.structs.replace(before, decision=msgspec.structs.replace(before.decision, assignment=None))
    )
    log.end("before")
    log.begin("s0")
    log.tell("s0", Escalated(decision_id="s0-0", reason=EscalationReason.UNAVAILABLE))
    log.begin("s0", session=log.sessions["s0"])
    assert len(log.sessions["s0"].attempts) == 2
    log.end("s0")
    assert log.counted == 1


def test_a_session_closed_without_a_reward_is_missing():
    log = Log()
    log.begin("s0")
    log.tell("s0", Closed(session_id="s0"))
    evidence = log.trial.evidence
    assert (log.counted, evidence.canary_missing + evidence.live_missing) == (1, 1)


def test_the_outcome_of_a_session_that_gave_up_after_an_alarm_is_a_failure():
    session = apply(None, begun("s0"))
    session = apply(
        session,
        Escalated(decision_id="s0-0", reason=EscalationReason.VERIFIED_FAILURE, outcome=Outcome(cost_usd=0.3)),
    )
    assert outcome(session) == Figures(success=0.0, cost_usd=0.3)


def test_what_the_live_policy_foretold_is_taken_from_its_own_decision_or_from_beside_the_canarys():
    log = Log()
    for i in range(8):
        event = begun(f"s{i}")
        if event.decision.policy_version == "2":
            said = Shadow(policy="always:a", policy_version="1", epoch_hash="", success_mean=0.7, cost_usd=0.2)
            event = msgspec.structs.replace(event, shadows=(said,))
        else:
            scores = tuple(
                msgspec.structs.replace(score, success_mean=0.7 if score.arm == "a" else 0.1, cost_usd=0.2)
                for score in event.decision.scores
            )
            event = msgspec.structs.replace(event, decision=msgspec.structs.replace(event.decision, scores=scores))
        log.tell(f"s{i}", event)
        log.end(f"s{i}")
    (compared,) = log.trial.evidence.compared
    assert (compared.canary.x, compared.live.x) == (pytest.approx(0.7), pytest.approx(0.7))


def run(log: Log, n: int, good: float, bad: float) -> None:
    rng = random.Random(1)
    for i in range(n):
        decision = log.begin(f"s{i}").decision
        log.end(f"s{i}", success=float(rng.random() < (good if decision.arm == "b" else bad)))


def test_the_first_conclusion_stands_and_an_ended_canary_is_over():
    log = Log()
    run(log, 700, good=0.9, bad=0.3)
    verdict = log.trial.verdict
    assert verdict.conclusion == "promote" and log.trial.to_act
    counted = log.counted
    log.begin("late")
    log.end("late", success=0.0)
    assert log.trial.verdict == verdict and log.counted == counted
    for event in promote(log.configuration, "2", why=verdict.why):
        log.tell("", event)
    assert log.trial.over and not log.trial.to_act


def test_a_canary_on_hold_is_never_promoted_and_still_rolled_back():
    log = Log(hold=True)
    run(log, 700, good=0.9, bad=0.3)
    assert log.trial.verdict.conclusion == "promote" and not log.trial.to_act
    log = Log(hold=True)
    run(log, 700, good=0.1, bad=0.9)
    assert log.trial.verdict.conclusion == "roll_back" and log.trial.to_act
    for event in roll_back(log.configuration):
        log.tell("", event)
    assert log.trial.over
