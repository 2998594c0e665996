"""The session's state machine against a table of what each field's best revision is, and the rules of Select."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.errors import NoEligibleArm, WrongOrder
from bandit.events import ArmPut, Decided, Escalated, Event, Rewarded, RouterPut, Stuck
from bandit.session import (
    OUTCOME_FIELDS,
    Begin,
    Session,
    apply,
    check_running,
    on_select,
    require_eligible,
    without_tried,
)
from bandit.types import (
    Arm,
    ArmScore,
    Bar,
    BarKind,
    Decision,
    EscalationReason,
    Objective,
    Offer,
    Outcome,
    RouterSettings,
    SelectReason,
    Situation,
    Usage,
)

ALARMS = [EscalationReason.VERIFIED_FAILURE, EscalationReason.STRUGGLING]
CENSORING = [reason for reason in EscalationReason if reason not in ALARMS]


def decision(attempt: int, arm: str, reason: SelectReason = SelectReason.SAMPLED) -> Decision:
    """The decision ``d1``, ``d2``, … that began an attempt of session ``s``."""
    situation = Situation(
        router="default",
        seed=0,
        session_id="s",
        attempt=attempt,
        attempts_left=1,
        features={"attempt": float(attempt)},
        offers=(Offer(arm=arm),),
        objective=Objective(),
        exploration_floor=0.0,
        draws=1,
        alpha=1.0,
    )
    return Decision(
        decision_id=f"d{attempt}",
        situation=situation,
        arm=arm,
        propensity=1.0,
        reason=reason,
        scores=(ArmScore(arm=arm, propensity=1.0),),
        policy="uniform",
        policy_version="1",
        epoch=0,
        epoch_hash="",
    )


def after(*events: Event) -> Session:
    session = None
    for event in events:
        session = apply(session, event)
    assert session is not None
    return session


def begun(attempt: int = 1, arm: str = "A", reason: SelectReason = SelectReason.SAMPLED) -> Decided:
    return Decided(decision=decision(attempt, arm, reason))


def left(attempt: int, reason: EscalationReason, outcome: Outcome | None = None, *, exhausted: bool = False) -> Event:
    return Escalated(
        decision_id=f"d{attempt}",
        reason=reason,
        outcome=outcome or Outcome(),
        next_decision_id="" if exhausted else f"d{attempt + 1}",
    )


def rewarded(revision: int, decision_id: str = "", *, final: bool = False, **fields: object) -> Rewarded:
    return Rewarded(
        session_id="s",
        decision_id=decision_id,
        outcome=Outcome(**fields),  # type: ignore[arg-type]
        revision=revision,
        final=final,
    )


TWO_ATTEMPTS = (begun(1, "A"), left(1, EscalationReason.VERIFIED_FAILURE), begun(2, "B"))


# Revisions


def test_the_highest_revision_wins_by_field_and_ties_go_to_the_later() -> None:
    session = after(
        begun(),
        rewarded(5, "d1", success=1.0),
        rewarded(3, "d1", success=0.0, cost_usd=2.0),
        rewarded(3, "d1", cost_usd=7.0),
        rewarded(2, "d1", cost_usd=9.0, latency_seconds=4.0),
    )
    assert session.outcome(0) == Outcome(success=1.0, cost_usd=7.0, latency_seconds=4.0)
    assert session.revision == 5


def test_unknown_is_not_zero_and_does_not_erase() -> None:
    session = after(begun(), rewarded(1, "d1", success=0.0), rewarded(2, "d1", cost_usd=0.0))
    assert session.outcome(0) == Outcome(success=0.0, cost_usd=0.0)


def test_an_escalation_s_outcome_is_a_revision_of_the_attempt_left() -> None:
    session = after(
        begun(),
        rewarded(7, "d1", cost_usd=1.0),
        left(1, EscalationReason.STRUGGLING, Outcome(cost_usd=3.0)),
        begun(2, "B"),
    )
    assert session.outcome(0).cost_usd == 3.0
    assert session.revision == 8
    assert apply(session, rewarded(7, "d1", cost_usd=5.0)).outcome(0).cost_usd == 3.0  # type: ignore[union-attr]


def test_rewards_of_a_closed_or_exhausted_session_still_count() -> None:
    session = after(
        begun(),
        rewarded(1, "d1", success=1.0, final=True),
        rewarded(2, "d1", success=0.0),
    )
    assert session.final
    assert session.outcome(0).success == 0.0
    exhausted = after(begun(), left(1, EscalationReason.STRUGGLING, exhausted=True), rewarded(2, success=1.0))
    assert exhausted.rows()[0].success == 1.0


@dataclass(frozen=True)
class Told:
    """A reward in the tests' own terms."""

    attempt: int | None
    """None: for the session as a whole."""
    fields: dict[str, object]


amounts = st.floats(0.0, 100.0).map(lambda x: round(x, 3))
usages = st.builds(Usage, input_tokens=amounts, output_tokens=amounts, cached_tokens=amounts)
tellings = st.builds(
    Told,
    attempt=st.sampled_from([1, 2, None]),
    fields=st.fixed_dictionaries(
        {},
        optional={
            "success": st.floats(0.0, 1.0),
            "cost_usd": amounts,
            "usage": usages,
            "latency_seconds": amounts,
            "served_arm": st.sampled_from(["A", "B", "C"]),
        },
    ),
)


def table(tellings: Sequence[Told]) -> list[dict[str, object]]:
    """The outcomes of both attempts, by hand: for each field whoever spoke last; what is told of all is shared out."""

    def last(field: str, attempts: Sequence[int | None]) -> Told | None:
        return next((t for t in reversed(tellings) if t.attempt in attempts and field in t.fields), None)

    first = {field: t.fields[field] for field in OUTCOME_FIELDS if (t := last(field, [1])) is not None}
    second: dict[str, object] = {}
    for field in OUTCOME_FIELDS:
        told = last(field, [2, None])
        if told is None:
            continue
        value = told.fields[field]
        if told.attempt is None and isinstance(value, float) and field == "cost_usd":
            value = max(0.0, value - first.get("cost_usd", 0.0))  # type: ignore[operator]
        if told.attempt is None and isinstance(value, Usage):
            spent = first.get("usage", Usage())
            assert isinstance(spent, Usage)
            value = Usage(
                input_tokens=max(0.0, value.input_tokens - spent.input_tokens),
                output_tokens=max(0.0, value.output_tokens - spent.output_tokens),
                cached_tokens=max(0.0, value.cached_tokens - spent.cached_tokens),
            )
        second[field] = value
    return [first, second]


def told(outcome: Outcome) -> dict[str, object]:
    return {field: value for field in OUTCOME_FIELDS if (value := getattr(outcome, field)) is not None}


@given(st.lists(tellings, max_size=8), st.randoms(use_true_random=False))
def test_whatever_the_order_of_arrival_the_outcomes_are_the_same(tellings: list[Told], random: object) -> None:
    """Revisions are explicit and increase in the order of `tellings`; the events arrive shuffled."""
    events = [
        rewarded(10 + i, f"d{t.attempt}" if t.attempt is not None else "", **t.fields) for i, t in enumerate(tellings)
    ]
    random.shuffle(events)  # type: ignore[attr-defined]
    session = after(*TWO_ATTEMPTS, *events)
    assert [told(session.outcome(i)) for i in range(2)] == table(tellings)
    assert session.revision == max([1, *(10 + i for i in range(len(tellings)))])


@given(st.lists(tellings, max_size=6))
def test_an_event_arriving_twice_changes_nothing_more(tellings: list[Told]) -> None:
    events = [rewarded(i, f"d{t.attempt}" if t.attempt else "", **t.fields) for i, t in enumerate(tellings, start=2)]
    once, twice = after(*TWO_ATTEMPTS, *events), after(*TWO_ATTEMPTS, *events, *events)
    assert [told(twice.outcome(i)) for i in range(2)] == [told(once.outcome(i)) for i in range(2)]
    assert twice.rows() == once.rows()
    assert twice.revision == once.revision


# Sharing out what is told of a session as a whole


def test_a_session_s_success_is_the_last_attempt_s_and_its_cost_what_the_others_leave() -> None:
    session = after(*TWO_ATTEMPTS, rewarded(2, "d1", cost_usd=3.0), rewarded(3, success=1.0, cost_usd=5.0))
    assert session.outcome(0) == Outcome(cost_usd=3.0)
    assert session.outcome(1) == Outcome(success=1.0, cost_usd=2.0)
    first, second = session.rows()
    assert (first.alarm, first.success, first.cost_usd) == (True, None, 3.0)
    assert (second.alarm, second.success, second.cost_usd) == (False, 1.0, 2.0)


def test_a_derived_cost_is_never_below_zero() -> None:
    usage = Usage(input_tokens=5.0, output_tokens=1.0)
    session = after(
        *TWO_ATTEMPTS,
        rewarded(2, "d1", cost_usd=3.0, usage=usage),
        rewarded(3, cost_usd=1.0, usage=Usage(input_tokens=2.0, output_tokens=4.0)),
    )
    assert session.outcome(1) == Outcome(cost_usd=0.0, usage=Usage(output_tokens=3.0))


def test_a_session_s_cost_moves_on_with_its_last_attempt() -> None:
    """Told while attempt 1 ran, it is a total of the session: what attempt 2 adds is known once 1 is told apart."""
    told_early = after(begun(), rewarded(1, cost_usd=4.0))
    assert told_early.outcome(0).cost_usd == 4.0
    session = apply(told_early, left(1, EscalationReason.STRUGGLING, Outcome(cost_usd=4.0)))
    session = apply(session, begun(2, "B"))
    assert session is not None
    assert [session.outcome(i).cost_usd for i in range(2)] == [4.0, 0.0]


def test_the_attempt_s_own_later_report_beats_the_session_s() -> None:
    session = after(begun(), rewarded(1, success=0.0, cost_usd=2.0), rewarded(2, "d1", success=1.0))
    assert session.outcome(0) == Outcome(success=1.0, cost_usd=2.0)


# What an attempt teaches


@pytest.mark.parametrize("reason", ALARMS)
def test_an_alarm_teaches_failure_until_the_truth_is_told(reason: EscalationReason) -> None:
    session = after(begun(), left(1, reason, Outcome(cost_usd=2.0)), begun(2, "B"))
    (row,) = session.rows()
    assert (row.alarm, row.success, row.cost_usd) == (True, None, 2.0)
    session = after(begun(), left(1, reason), begun(2, "B"), rewarded(9, "d1", success=1.0))
    assert [(row.alarm, row.success) for row in session.rows()] == [(True, 1.0)]
    assert session.alarmed() == ("A",)


@pytest.mark.parametrize("reason", CENSORING)
def test_other_reasons_censor_success_and_keep_the_cost(reason: EscalationReason) -> None:
    session = after(
        begun(),
        left(1, reason, Outcome(success=0.0, cost_usd=2.0)),
        begun(2, "B"),
        rewarded(9, "d1", success=1.0),
    )
    (row,) = session.rows()
    assert (row.alarm, row.success, row.cost_usd) == (False, None, 2.0)
    assert session.alarmed() == ()
    untold = after(begun(), left(1, reason), begun(2, "B"))
    assert untold.rows() == ()


def test_an_override_teaches_about_the_arm_that_served_and_leaves_the_decision() -> None:
    session = after(begun(1, "A"), rewarded(1, "d1", success=1.0, served_arm="C"))
    (row,) = session.rows()
    assert row.arm == "C"
    assert row.decision.arm == "A"


def test_an_attempt_without_news_teaches_nothing() -> None:
    assert after(begun()).rows() == ()
    assert after(begun(), rewarded(1, "d1", latency_seconds=3.0, served_arm="B")).rows() == ()
    assert len(after(begun(), rewarded(1, "d1", usage=Usage(input_tokens=1.0))).rows()) == 1


def test_seconds_come_with_the_rest_of_a_row() -> None:
    (row,) = after(begun(), rewarded(1, "d1", latency_seconds=3.0, cost_usd=1.0)).rows()
    assert row.latency_seconds == 3.0


# The fold


def test_events_that_concern_no_session_change_nothing() -> None:
    session = after(begun())
    for event in (
        RouterPut(settings=RouterSettings()),
        ArmPut(arm=Arm(id="A")),
        Stuck(decision_id="d1"),
        left(7, EscalationReason.STRUGGLING),
    ):
        assert apply(session, event) == session
    assert apply(None, rewarded(1, success=1.0)) is None
    assert apply(None, left(1, EscalationReason.STRUGGLING)) is None


def test_a_reward_for_an_attempt_of_another_session_counts_for_nobody() -> None:
    assert after(begun(), rewarded(1, "elsewhere", success=1.0)).rows() == ()


def test_the_fold_leaves_its_input_as_it_was() -> None:
    session = after(*TWO_ATTEMPTS)
    apply(session, rewarded(5, "d1", success=1.0))
    apply(session, rewarded(5, success=1.0, final=True))
    apply(session, left(2, EscalationReason.STRUGGLING))
    assert session == after(*TWO_ATTEMPTS)


def test_features_are_those_of_the_newest_attempt_with_what_an_escalation_changed() -> None:
    session = after(begun())
    assert session.features == {"attempt": 1.0}
    escalated = Escalated(decision_id="d1", reason=EscalationReason.STRUGGLING, features={"tests": "red"})
    session = apply(session, escalated)  # type: ignore[assignment]
    assert session.features == {"attempt": 1.0, "tests": "red"}


def test_a_decision_that_replaces_one_says_why_that_one_was_left() -> None:
    session = after(begun(), Decided(decision=decision(2, "B"), left=EscalationReason.UNAVAILABLE))
    assert [a.left for a in session.attempts] == [EscalationReason.UNAVAILABLE, None]
    assert session.running == session.attempts[1]


def test_what_runs() -> None:
    assert after(begun()).running is not None
    assert after(begun(), rewarded(1, final=True)).running is None
    assert after(begun(), left(1, EscalationReason.STRUGGLING, exhausted=True)).running is None
    assert Session(session_id="s").running is None


# Select


def offers(**bars: BarKind | None) -> tuple[Offer, ...]:
    return tuple(Offer(arm=arm, bar=None if kind is None else Bar(kind, "so")) for arm, kind in bars.items())


def test_a_first_select_begins() -> None:
    assert on_select(None, offers(A=None)) == Begin(reason=SelectReason.SAMPLED)
    assert on_select(None, offers(A=None), "A") == Begin(reason=SelectReason.PINNED)


def test_a_session_sticks_to_its_arm_whatever_else_is_ruled_out() -> None:
    session = after(*TWO_ATTEMPTS)
    assert on_select(session, offers(A=BarKind.TRIED, B=None, C=None)) == decision(2, "B")
    assert on_select(session, offers(A=BarKind.RETIRED, B=None, C=BarKind.POLICY)) == decision(2, "B")


@pytest.mark.parametrize(
    ("kind", "why", "then"),
    [
        (BarKind.RETIRED, EscalationReason.UNAVAILABLE, SelectReason.REROUTED_UNAVAILABLE),
        (BarKind.UNAVAILABLE, EscalationReason.UNAVAILABLE, SelectReason.REROUTED_UNAVAILABLE),
        (BarKind.CAPABILITY, EscalationReason.CAPABILITY, SelectReason.REROUTED_CAPABILITY),
        (BarKind.POLICY, EscalationReason.POLICY, SelectReason.REROUTED_POLICY),
    ],
)
def test_a_session_leaves_an_arm_that_is_ruled_out(kind: BarKind, why: EscalationReason, then: SelectReason) -> None:
    begin = on_select(after(begun()), offers(A=kind, B=None))
    assert begin == Begin(reason=then, left=why)
    assert not why.is_alarm


def test_pinning_another_arm_leaves_the_running_one() -> None:
    session = after(begun())
    assert on_select(session, offers(A=None, B=None), "A") == decision(1, "A")
    assert on_select(session, offers(A=None, B=None), "B") == Begin(
        reason=SelectReason.PINNED, left=EscalationReason.USER_REQUEST
    )


def test_a_pinned_arm_is_left_only_where_it_cannot_serve() -> None:
    session = after(begun(1, "A", SelectReason.PINNED))
    assert on_select(session, offers(A=BarKind.POLICY, B=None)) == decision(1, "A", SelectReason.PINNED)
    assert isinstance(on_select(session, offers(A=BarKind.UNAVAILABLE, B=None)), Begin)


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ((begun(), rewarded(1, "d1", success=1.0, final=True)), "final"),
        ((begun(), left(1, EscalationReason.STRUGGLING, exhausted=True)), "exhausted"),
    ],
)
def test_a_closed_session_is_over(events: tuple[Event, ...], says: str) -> None:
    session = after(*events)
    with pytest.raises(WrongOrder, match=says):
        on_select(session, offers(A=None, B=None))
    with pytest.raises(WrongOrder, match=says):
        on_select(session, offers(A=None, B=None), "B")
    with pytest.raises(WrongOrder, match=says):
        check_running(session, "d1")


def test_a_stale_decision_is_told_which_one_runs() -> None:
    session = after(*TWO_ATTEMPTS)
    assert check_running(session, "d2").decision.arm == "B"
    with pytest.raises(WrongOrder, match="d1 is stale: the session is at attempt 2, decision d2"):
        check_running(session, "d1")


def test_arms_that_were_tried_are_not_offered_again() -> None:
    session = after(*TWO_ATTEMPTS)
    offered = without_tried(session, offers(A=None, B=BarKind.POLICY, C=None))
    assert [offer.bar and offer.bar.kind for offer in offered] == [BarKind.TRIED, BarKind.POLICY, None]
    assert without_tried(None, offered) == offered


def test_without_an_eligible_arm_every_reason_is_told() -> None:
    require_eligible(offers(A=BarKind.POLICY, B=None))
    with pytest.raises(NoEligibleArm) as caught:
        require_eligible(offers(A=BarKind.POLICY, B=BarKind.RETIRED))
    assert caught.value.reasons == {"A": "so", "B": "so"}
