"""The moves of a session: what Select and Escalate become, as events, under fixed policies."""

from typing import Any

import pytest

from bandit import moves, policy
from bandit.decision import Vintage, confirm
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
    Mode,
    Objective,
    Offer,
    Outcome,
    Price,
    Requirements,
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
    decision = begun(run.select({"x": 1.0}, requirements=Requirements(max_cost_usd=2.0)))
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


# --- rules of a session ------------------------------------------------------------------------------------------


def test_what_the_latest_select_demanded_goes_on_to_hold() -> None:
    run = Run("uniform")
    first = begun(run.select(requirements=Requirements(deny=frozenset("b"))))
    assert first.situation.requirements == Requirements(deny=frozenset("b"))
    assert run.running().requirements == first.situation.requirements
    later = Requirements(max_cost_usd=9.0, context_tokens=7)
    event = moves.stuck(run.running(), requirements=later, endpoint="", repeatable=False)
    assert event is not None and event.requirements == later
    run.take(event)
    second = run.escalate()
    assert second is not None
    assert (second.situation.requirements, second.situation.cost_cap_usd) == (later, 9.0)


def test_a_sticky_answer_is_logged_only_where_it_says_something_new() -> None:
    run = Run("uniform")
    run.select(requirements=Requirements(context_tokens=5), endpoint_of=lambda arm: f"{arm}-east")
    (attempt,), same = run.running().attempts, Requirements(context_tokens=5)
    endpoint = attempt.endpoint
    assert endpoint == f"{attempt.decision.arm}-east"
    assert moves.stuck(run.running(), requirements=same, endpoint=endpoint, repeatable=False) is None
    repeatable = moves.stuck(run.running(), requirements=same, endpoint=endpoint, repeatable=True)
    assert repeatable is not None and repeatable.requirements is None
    elsewhere = moves.stuck(run.running(), requirements=same, endpoint="west", repeatable=False)
    assert elsewhere is not None and elsewhere.requirements is None
    run.take(elsewhere)
    assert run.running().attempts[0].endpoint == "west"
    # Demanding nothing any more is new too.
    freed = moves.stuck(run.running(), requirements=Requirements(), endpoint="west", repeatable=False)
    assert freed is not None and freed.requirements == Requirements()


def test_the_context_has_to_be_read_again_from_the_second_attempt_on() -> None:
    run = Run()
    asked = Requirements(context_tokens=50_000)
    assert begun(run.select(requirements=asked)).situation.reread_tokens == 0
    second = run.escalate()
    assert second is not None and second.situation.reread_tokens == 50_000
    third = run.escalate(requirements=Requirements(context_tokens=60_000))
    assert third is not None and third.situation.reread_tokens == 60_000


def test_the_cost_cap_is_the_least_of_the_request_s_and_what_the_session_s_leaves() -> None:
    run = Run(settings=RouterSettings(id="r", objective=Objective(session_cap_usd=1.0)))
    assert begun(run.select(requirements=Requirements(max_cost_usd=0.9))).situation.cost_cap_usd == 0.9
    # What the attempt that is being left has cost counts already.
    second = run.escalate(outcome=Outcome(cost_usd=0.75))
    assert second is not None and second.situation.cost_cap_usd == 0.25
    third = run.escalate(outcome=Outcome(cost_usd=5.0))
    assert third is not None and third.situation.cost_cap_usd == 0.0
    assert begun(Run().select()).situation.cost_cap_usd is None


def capped(session_cap_usd: float, **settings: Any) -> Run:
    """Under Thompson sampling from the prior, which expects every arm to cost a dollar or so."""
    objective = Objective(session_cap_usd=session_cap_usd)
    return Run("thompson", RouterSettings(id="r", draws=8, objective=objective, **settings))


def test_nothing_under_the_session_s_cap_is_said_for_each_arm_or_exhausts() -> None:
    with pytest.raises(NoEligibleArm) as error:
        capped(1e-6).select()
    assert set(error.value.reasons) == {"a", "b", "c"}
    assert all("above the cap of $1e-06" in why for why in error.value.reasons.values())
    run = capped(1000.0)
    first = begun(run.select())
    with pytest.raises(NoEligibleArm):
        # A reroute is a Select: it ends nothing.
        run.settings = capped(1e-6).settings
        run.select(offers=offers(**{first.arm: BarKind.UNAVAILABLE}))
    assert not run.running().exhausted
    assert run.escalate(EscalationReason.UNAVAILABLE) is None
    assert run.running().exhausted


# --- apprentice mode ---------------------------------------------------------------------------------------------


APPRENTICE = RouterSettings(id="r", seed=1, draws=8, mode=Mode.APPRENTICE, baseline_arm="b")


@pytest.mark.parametrize("spec", ["uniform", "always:a", "ladder:c>a", "thompson", "vw:squarecb"])
def test_an_apprentice_takes_the_baseline_and_shows_what_the_policy_thinks(spec: str) -> None:
    run = Run(spec, APPRENTICE)
    decision = begun(run.select())
    assert (decision.arm, decision.propensity, decision.reason) == ("b", 1.0, SelectReason.BASELINE)
    assert [score.propensity for score in decision.scores] == [0.0, 1.0, 0.0]
    assert decision.ladder == ()
    assert (decision.situation.mode, decision.situation.baseline_arm) == (Mode.APPRENTICE, "b")
    if spec == "thompson":
        assert all(score.success_mean is not None for score in decision.scores)
    assert confirm(run.vintage, decision) == ""
    assert run.escalate() is None and run.running().exhausted


def test_where_the_baseline_is_out_the_policy_decides_for_the_usual_reasons() -> None:
    run = Run("uniform", APPRENTICE)
    decision = begun(run.select(offers=offers(b=BarKind.UNAVAILABLE)))
    assert (decision.reason, decision.propensity) == (SelectReason.SAMPLED, 0.5)
    only = begun(Run("uniform", APPRENTICE).select(offers=offers(b=BarKind.POLICY, c=BarKind.POLICY)))
    assert (only.arm, only.reason) == ("a", SelectReason.ONLY_ELIGIBLE)
    assert confirm(run.vintage, decision) == confirm(run.vintage, only) == ""
    # An alarm still ends the session.
    assert run.escalate() is None


def test_a_baseline_above_the_cap_is_out() -> None:
    run = capped(3.0, mode=Mode.APPRENTICE, baseline_arm="b")
    decision = begun(run.select(offers=priced(a=0.001, b=100.0, c=0.001)))
    assert decision.arm != "b" and decision.reason is SelectReason.SAMPLED
    assert confirm(run.vintage, decision) == ""


def priced(**input_usd: float) -> tuple[Offer, ...]:
    return tuple(Offer(arm=arm, price=Price(input_usd=usd, output_usd=usd)) for arm, usd in input_usd.items())


def test_reroutes_to_and_from_the_baseline_keep_their_reasons() -> None:
    run = Run("uniform", APPRENTICE)
    pinned = begun(run.select(pinned_arm="a"))
    assert (pinned.reason, pinned.ladder) == (SelectReason.PINNED, ())
    to = begun(run.select(offers=offers(a=BarKind.UNAVAILABLE)))
    assert (to.arm, to.propensity, to.reason) == ("b", 1.0, SelectReason.REROUTED_UNAVAILABLE)
    away = begun(run.select(offers=offers(b=BarKind.POLICY)))
    assert (away.arm, away.reason) == ("c", SelectReason.REROUTED_POLICY)
    for decision in (pinned, to, away):
        assert confirm(run.vintage, decision) == ""


def test_the_user_s_wish_to_leave_another_arm_leads_to_the_baseline() -> None:
    run = Run("uniform", APPRENTICE)
    run.select(pinned_arm="c")
    decision = run.escalate(EscalationReason.USER_REQUEST)
    assert decision is not None
    assert (decision.arm, decision.propensity, decision.reason) == ("b", 1.0, SelectReason.BASELINE)
    assert confirm(run.vintage, decision) == ""


def test_other_modes_know_no_baseline() -> None:
    run = Run("uniform", RouterSettings(id="r", seed=1, mode=Mode.FROZEN, baseline_arm="b"))
    decision = begun(run.select())
    assert (decision.reason, decision.situation.mode) == (SelectReason.SAMPLED, Mode.FROZEN)
    assert decision.situation.baseline_arm == ""
