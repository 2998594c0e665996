"""Progress reports: when the plain rule says that an attempt struggles, and what is advised."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bandit import eligibility, moves, policy, progress, signs
from bandit.decision import Vintage
from bandit.errors import WrongOrder
from bandit.events import Decided, Event, Rewarded
from bandit.session import MOST_REPORTS, Session, apply
from bandit.types import (
    Arm,
    EscalationReason,
    Mode,
    Objective,
    Outcome,
    Price,
    ProgressAction,
    Requirements,
    RouterSettings,
    Signals,
    Usage,
)

ARMS = tuple(Arm(id=name, price=Price(input_usd=1.0, output_usd=1.0)) for name in "abc")
BAD = Signals(tool_calls=10, tool_errors=4, repeated_calls=3)


def after(calls: int, errors: int | None = 0, repeats: int | None = 0) -> Signals:
    return Signals(tool_calls=calls, tool_errors=errors, repeated_calls=repeats)


def struggles(*reports: Signals, whole: bool = True) -> bool:
    return bool(progress.struggles(reports, whole=whole))


def test_most_of_the_last_calls_must_have_failed_or_been_repeated() -> None:
    assert not struggles(after(8, 4))
    assert struggles(after(8, 5))
    assert struggles(after(8, 2, 3))
    assert progress.struggles([after(8, 2, 3)], whole=True) == (
        "of the last 8 tool calls 2 failed and 3 were repetitions"
    )


def test_few_calls_say_nothing() -> None:
    assert not struggles(after(7, 7, 7))
    assert not struggles(after(20, 0), after(27, 7))
    assert struggles(after(20, 0), after(28, 7))


def test_what_went_well_long_ago_does_not_hide_what_goes_wrong_now() -> None:
    assert not struggles(after(100, 9))
    assert struggles(after(90, 0), after(100, 9))


def test_what_went_wrong_at_first_is_forgotten() -> None:
    assert not struggles(after(10, 10), after(20, 10), after(30, 11))


def test_unknown_is_not_nought() -> None:
    assert not struggles(Signals(turns=30, tool_errors=30))
    # How many failed before is not known, so neither is how many failed since.
    assert not struggles(after(10, None), after(20, 10, None), whole=False)
    assert struggles(after(10, None, 0), after(20, None, 6))


def test_where_older_reports_are_gone_the_beginning_is_not_looked_at() -> None:
    assert struggles(after(20, 15))
    assert not struggles(after(20, 15), whole=False)


@given(st.permutations(range(6)))
def test_the_order_in_which_reports_come_does_not_matter(order: list[int]) -> None:
    reports = [after(5 * i, 4 * i, 0) for i in range(6)]
    shuffled = [reports[i] for i in order]
    assert progress.struggles(shuffled, whole=True) == progress.struggles(reports, whole=True) != ""


def test_an_agent_that_gets_on_is_seldom_thought_to_struggle() -> None:
    most_good = int(progress.MOST_BAD * signs.FEWEST_CALLS)
    assert stats.binom.sf(most_good, signs.FEWEST_CALLS, 1 / 7) < 1 / 400


class Run:
    """One session, its first attempt begun."""

    def __init__(self, spec: str = "ladder:a>b>c", settings: RouterSettings | None = None, **selected: object) -> None:
        self.settings = settings or RouterSettings()
        made = policy.parse(spec)
        self.vintage = Vintage(policy=made, policy_version="1", epoch=0, epoch_hash="h", state=made.start(ARMS))
        self.ids = map(str, itertools.count())
        self.session: Session | None = None
        self.offers = eligibility.offers(ARMS)
        taken = moves.select(
            self.settings,
            self.vintage,
            None,
            **{"session_id": "s", "features": {}, "offers": self.offers, "decision_id": next(self.ids), **selected},  # type: ignore[arg-type]
        )
        assert isinstance(taken, Decided)
        self.take(taken)

    def take(self, event: Event) -> None:
        self.session = apply(self.session, event)

    def running(self) -> Session:
        assert self.session is not None
        return self.session

    def report(self, signals: Signals, decision_id: str = "") -> tuple[ProgressAction, str, str]:
        session = self.running()
        progressed = progress.report(
            self.settings,
            self.vintage,
            session,
            decision_id=decision_id or session.attempts[-1].decision.decision_id,
            signals=signals,
            offers=self.offers,
        )
        assert (progressed.propensity, progressed.threshold, progressed.success_mean) == (1.0, None, None)
        self.take(progressed)
        return progressed.action, progressed.arm, progressed.rule

    def escalate(self, outcome: Outcome | None = None) -> str:
        events = moves.escalate(
            self.settings,
            self.vintage,
            self.running(),
            decision_id=self.running().attempts[-1].decision.decision_id,
            reason=EscalationReason.STRUGGLING,
            offers=self.offers,
            next_decision_id=next(self.ids),
            outcome=outcome,
        )
        for event in events:
            self.take(event)
        return events[1].decision.arm if len(events) == 2 else ""


def test_an_attempt_that_gets_on_is_to_go_on() -> None:
    assert Run().report(after(30, 3)) == (ProgressAction.CONTINUE, "a", "")
    assert Run().report(Signals()) == (ProgressAction.CONTINUE, "a", "")


def test_an_attempt_that_struggles_is_to_be_left_for_the_next_arm() -> None:
    action, arm, rule = Run().report(BAD)
    assert (action, arm) == (ProgressAction.ESCALATE, "b")
    assert rule == "of the last 10 tool calls 4 failed and 3 were repetitions"


@pytest.mark.parametrize("spec", ["uniform", "thompson"])
def test_the_arm_advised_is_the_one_that_escalate_names(spec: str) -> None:
    for seed in range(12):
        run = Run(spec, RouterSettings(seed=seed, draws=16))
        action, arm, _ = run.report(BAD)
        assert arm == run.escalate()
        assert action is (ProgressAction.ESCALATE if arm else ProgressAction.STOP)


def test_where_nothing_is_left_the_session_is_to_stop() -> None:
    assert Run("always:a").report(BAD)[:2] == (ProgressAction.STOP, "")
    assert Run(settings=RouterSettings(max_attempts=1)).report(BAD)[:2] == (ProgressAction.STOP, "")
    apprentice = RouterSettings(mode=Mode.APPRENTICE, baseline_arm="b")
    assert Run(settings=apprentice).report(BAD)[:2] == (ProgressAction.STOP, "")
    barred = Run()
    barred.offers = eligibility.offers(ARMS, requirements=Requirements(allow=frozenset("a")))
    assert barred.report(BAD)[:2] == (ProgressAction.STOP, "")


def test_a_session_that_has_spent_more_than_its_cap_is_to_stop() -> None:
    run = Run(settings=RouterSettings(objective=Objective(session_cap_usd=1.0)))
    assert run.report(Signals(cost_usd=0.5))[0] is ProgressAction.CONTINUE
    run.escalate(Outcome(cost_usd=0.75))
    assert run.report(Signals(cost_usd=0.25))[0] is ProgressAction.CONTINUE
    assert run.report(Signals(usage=Usage(output_tokens=250_001.0)))[0] is ProgressAction.CONTINUE
    assert run.report(Signals(cost_usd=0.26)) == (
        ProgressAction.STOP,
        "",
        "the session has spent $1.01, above its cap of $1",
    )
    # A late report takes nothing back.
    assert run.report(Signals(cost_usd=0.1))[0] is ProgressAction.STOP


def test_tokens_count_where_no_dollars_are_told() -> None:
    run = Run(settings=RouterSettings(objective=Objective(session_cap_usd=1.0)))
    assert run.report(Signals(usage=Usage(output_tokens=1e6)))[0] is ProgressAction.CONTINUE
    assert run.report(Signals(usage=Usage(output_tokens=1.1e6)))[0] is ProgressAction.STOP


def test_reports_of_each_attempt_stand_alone_and_the_last_are_kept() -> None:
    run = Run()
    for i in range(12):
        run.report(after(i, 0))
    assert len(run.running().attempts[0].signals) == MOST_REPORTS
    run.escalate()
    assert run.running().attempts[1].signals == ()
    assert run.report(after(8, 5))[0] is ProgressAction.ESCALATE


def test_a_report_on_an_attempt_that_does_not_run_is_refused() -> None:
    run = Run()
    with pytest.raises(WrongOrder, match="stale"):
        run.report(BAD, "another")
    run.escalate()
    with pytest.raises(WrongOrder, match="stale"):
        run.report(BAD, "0")
    run.take(Rewarded(session_id="s", outcome=Outcome(success=1.0), revision=9, final=True))
    with pytest.raises(WrongOrder, match="final"):
        run.report(BAD)
    ended = Run("always:a")
    ended.escalate()
    with pytest.raises(WrongOrder, match="exhausted"):
        ended.report(BAD)
