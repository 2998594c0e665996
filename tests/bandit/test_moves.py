"""The moves of a session: what Select and Escalate become, as events, under fixed policies."""

from typing import Any

import pytest

from bandit import moves, policy
from bandit.decision import Vintage
from bandit.errors import NoEligibleArm, Unknown, WrongOrder
from bandit.events import Decided, Event, Rewarded
from bandit.session import Session, apply
from bandit.types import (
    Arm,
    Bar,
    BarKind,
    Decision,
    EscalationReason,
    Features,
    Offer,
    Outcome,
    RouterSettings,
    SelectReason,
)

ARMS = tuple(Arm(id=name) for name in "abc")
SETTINGS = RouterSettings(id="r", seed=1, max_attempts=3)
ALARM = EscalationReason.VERIFIED_FAILURE


def vintage(spec: str = "ladder:a>b>c") -> Vintage:
    made = policy.parse(spec)
    return Vintage(policy=made, policy_version="1", epoch=4, epoch_hash="h", state=made.start(ARMS))


def offers(**bars: BarKind) -> tuple[Offer, ...]:
    return tuple(
        Offer(arm=arm.id, bar=Bar(bars[arm.id], f"{arm.id} is out") if arm.id in bars else None) for arm in ARMS
    )


class Run:
    """One session under one policy; keeps the events it made."""

    def __init__(self, spec: str = "ladder:a>b>c", settings: RouterSettings = SETTINGS) -> None:
        self.session: Session | None = None
        self.events: list[Event] = []
        self.vintage, self.settings = vintage(spec), settings

    def take(self, event: Event) -> None:
        self.events.append(event)
        self.session = apply(self.session, event)

    def select(self, features: Features | None = None, **changes: Any) -> Decided | Decision:
        taken = moves.select(
            self.settings,
            self.vintage,
            self.session,
            session_id="s",
            features=features or {},
            **{"offers": offers(), "decision_id": f"d{len(self.events)}", **changes},
        )
        if isinstance(taken, Decided):
            self.take(taken)
        return taken

    def escalate(self, reason: EscalationReason = ALARM, **changes: Any) -> Decision | None:
        session = self.running()
        events = moves.escalate(
            self.settings,
            self.vintage,
            session,
            **{
                "decision_id": session.attempts[-1].decision.decision_id,
                "reason": reason,
                "offers": offers(),
                "next_decision_id": f"d{len(self.events)}",
                **changes,
            },
        )
        for event in events:
            self.take(event)
        return events[1].decision if len(events) == 2 else None

    def running(self) -> Session:
        assert self.session is not None
        return self.session


def begun(taken: Decided | Decision) -> Decision:
    assert isinstance(taken, Decided)
    return taken.decision


def test_a_first_select_begins_an_attempt() -> None:
    run = Run("uniform")
    decision = begun(run.select({"x": 1.0}, cost_cap_usd=2.0))
    assert (decision.decision_id, decision.attempt, decision.reason) == ("d0", 1, SelectReason.SAMPLED)
    assert decision.propensity == pytest.approx(1 / 3)
    assert decision.situation.features == {"x": 1.0}
    assert decision.situation.cost_cap_usd == 2.0
    assert (decision.situation.attempts_left, decision.situation.may_stop) == (3, False)
    assert (decision.policy, decision.policy_version, decision.epoch, decision.epoch_hash) == ("uniform", "1", 4, "h")


def test_a_repeated_select_sticks_to_the_running_decision() -> None:
    run = Run()
    first = begun(run.select())
    assert run.select({"more": True}) == first
    assert len(run.events) == 1


def test_the_only_eligible_arm_is_said_to_be_that() -> None:
    decision = begun(Run("uniform").select(offers=offers(a=BarKind.POLICY, b=BarKind.UNAVAILABLE)))
    assert (decision.arm, decision.propensity, decision.reason) == ("c", 1.0, SelectReason.ONLY_ELIGIBLE)


def test_no_eligible_arm_says_why_for_each() -> None:
    with pytest.raises(NoEligibleArm) as error:
        Run().select(offers=offers(a=BarKind.POLICY, b=BarKind.UNAVAILABLE, c=BarKind.RETIRED))
    assert error.value.reasons == {"a": "a is out", "b": "b is out", "c": "c is out"}


def test_a_pinned_arm_is_taken_against_the_policy_and_the_rules_of_the_request() -> None:
    run = Run()
    decision = begun(run.select(pinned_arm="c", offers=offers(c=BarKind.POLICY)))
    assert (decision.arm, decision.propensity, decision.reason) == ("c", 1.0, SelectReason.PINNED)
    assert [score.propensity for score in decision.scores] == [0.0, 0.0, 1.0]
    # It sticks although the rules would forbid it.
    assert run.select(offers=offers(c=BarKind.POLICY)) == decision
    assert run.select(pinned_arm="c") == decision


@pytest.mark.parametrize("kind", [BarKind.RETIRED, BarKind.UNAVAILABLE, BarKind.CAPABILITY])
def test_a_pin_does_not_override_what_cannot_serve(kind: BarKind) -> None:
    with pytest.raises(NoEligibleArm, match="c is out"):
        Run().select(pinned_arm="c", offers=offers(c=kind))


def test_a_pin_names_an_arm() -> None:
    with pytest.raises(Unknown, match="no arm 'z'"):
        Run().select(pinned_arm="z")


def test_pinning_another_arm_leaves_the_running_one_without_an_alarm() -> None:
    run = Run()
    run.select()
    decision = begun(run.select(pinned_arm="b"))
    assert (decision.arm, decision.attempt, decision.reason) == ("b", 2, SelectReason.PINNED)
    assert run.running().attempts[0].left is EscalationReason.USER_REQUEST
    assert decision.situation.attempts_left == 3
    assert decision.situation.alarmed == ()


@pytest.mark.parametrize(
    ("kind", "left", "reason"),
    [
        (BarKind.UNAVAILABLE, EscalationReason.UNAVAILABLE, SelectReason.REROUTED_UNAVAILABLE),
        (BarKind.RETIRED, EscalationReason.UNAVAILABLE, SelectReason.REROUTED_UNAVAILABLE),
        (BarKind.CAPABILITY, EscalationReason.CAPABILITY, SelectReason.REROUTED_CAPABILITY),
        (BarKind.POLICY, EscalationReason.POLICY, SelectReason.REROUTED_POLICY),
    ],
)
def test_a_running_arm_that_is_out_is_replaced(kind: BarKind, left: EscalationReason, reason: SelectReason) -> None:
    run = Run()
    run.select({"x": 1.0})
    decision = begun(run.select({"y": 2.0}, offers=offers(a=kind)))
    assert (decision.arm, decision.attempt, decision.reason) == ("b", 2, reason)
    assert run.running().attempts[0].left is left
    assert decision.situation.features == {"x": 1.0, "y": 2.0}
    # The attempt was not used up, and what was left is not taken again.
    assert decision.situation.attempts_left == 3
    assert decision.situation.offers[0].bar is not None


def test_an_alarm_climbs_until_the_attempts_are_used_up() -> None:
    run = Run()
    run.select({"x": 1.0})
    second = run.escalate(features={"turns": 9.0}, outcome=Outcome(cost_usd=0.5))
    assert second is not None
    assert (second.arm, second.attempt, second.reason) == ("b", 2, SelectReason.ESCALATED)
    assert second.situation.features == {"x": 1.0, "turns": 9.0}
    assert second.situation.alarmed == ("a",)
    assert (second.situation.attempts_left, second.situation.may_stop) == (2, True)
    third = run.escalate()
    assert third is not None
    assert (third.arm, third.situation.alarmed, third.situation.attempts_left) == ("c", ("a", "b"), 1)
    assert run.escalate() is None
    assert run.running().exhausted
    assert run.running().outcome(0).cost_usd == 0.5


def test_a_session_gives_up_where_its_policy_does_not_climb() -> None:
    run = Run("always:b")
    run.select()
    assert run.escalate() is None
    ended = run.events[-1]
    assert getattr(ended, "stop_propensity", None) == 1.0
    assert getattr(ended, "next_decision_id", None) == ""


@pytest.mark.parametrize("reason", [r for r in EscalationReason if not r.is_alarm])
def test_leaving_for_another_reason_costs_no_attempt_and_is_no_alarm(reason: EscalationReason) -> None:
    run = Run(settings=RouterSettings(id="r", max_attempts=1))
    run.select()
    decision = run.escalate(reason)
    assert decision is not None
    assert (decision.arm, decision.situation.attempts_left) == ("b", 1)
    assert (decision.situation.alarmed, decision.situation.may_stop) == ((), False)


@pytest.mark.parametrize("reason", list(EscalationReason))
def test_where_no_arm_is_left_the_session_is_exhausted(reason: EscalationReason) -> None:
    run = Run("uniform")
    run.select(offers=offers(b=BarKind.POLICY, c=BarKind.POLICY))
    assert run.escalate(reason, offers=offers(b=BarKind.POLICY, c=BarKind.POLICY)) is None
    assert run.running().exhausted
    assert getattr(run.events[-1], "stop_propensity", None) == 1.0
    with pytest.raises(WrongOrder, match="exhausted"):
        run.select()


def test_stale_and_final_decisions_are_refused() -> None:
    run = Run()
    first = begun(run.select())
    run.escalate()
    with pytest.raises(WrongOrder, match="stale"):
        run.escalate(decision_id=first.decision_id)
    run.take(Rewarded(session_id="s", outcome=Outcome(success=1.0), revision=9, final=True))
    with pytest.raises(WrongOrder, match="final"):
        run.escalate()
    with pytest.raises(WrongOrder, match="final"):
        run.select()


def test_moves_change_nothing_but_what_their_events_say() -> None:
    run = Run()
    run.select({"x": 1.0})
    before, known = run.running(), dict(run.running().features)
    moves.escalate(
        SETTINGS,
        run.vintage,
        before,
        decision_id="d0",
        reason=ALARM,
        offers=offers(),
        next_decision_id="d9",
        features={"y": 1.0},
    )
    assert run.running() == before
    assert run.running().features == known
