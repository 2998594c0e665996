"""The learned progress model: its marks, its fit, and what advice is made of it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, optimize, stats
from scipy.special import expit

from bandit import eligibility, moves, progress, progress_model, sampling
from bandit.decision import Vintage
from bandit.events import Decided, Escalated, Event, Progressed, Rewarded
from bandit.learner import Learner
from bandit.policy import parse
from bandit.posterior import Posterior
from bandit.progress_model import ProgressModel
from bandit.session import MOST_REPORTS, SessionChange, apply
from bandit.signs import NAMES, Mark, logit, mark
from bandit.types import (
    ArmScore,
    Decision,
    EscalationReason,
    Objective,
    Outcome,
    ProgressAction,
    RouterSettings,
    Signals,
    Usage,
)
from sim import runner, struggling, synthetic
from sim.world import Terms
from tests.bandit.posteriors import ARMS, FALSE_ALARM, STANDARD_ERRORS, change, taught

WORLD = struggling.running(synthetic.sample("struggling", n_tasks=400, seed=3))


def decision(belief: float | None = 0.6, cost_usd: float | None = 0.1) -> Decision:
    score = ArmScore(arm="a", propensity=1.0, success_mean=belief, cost_usd=cost_usd)
    return msgspec.structs.replace(taught("s", "a").decision, scores=(score,))


def sign(of: Mark, name: str) -> float:
    return of.signs[NAMES.index(name)]


def attempts(n: int, seed: int) -> list[tuple[float, tuple[Mark, ...]]]:
    """Truth and mark of every report of `n` attempts whose chances are believed as they are."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        task, arm = i % len(WORLD.tasks), int(rng.integers(len(WORLD.arms)))
        chance = float(WORLD.success[task, arm])
        good = bool(rng.random() < chance)
        reports = WORLD.course(task, arm, rng, good=good).reports
        begun = decision(chance, float(WORLD.cost_usd[task, arm]))
        made.append((float(good), tuple(mark(begun, reports[: k + 1], whole=True) for k in range(len(reports)))))
    return made


def told(i: int, truth: float | None, marks: Sequence[Mark], **changes: Any) -> SessionChange:
    first = [m for k, m in enumerate(marks) if k == 0 or m.stratum > max(of.stratum for of in marks[:k])]
    row = taught(f"s{i}", "a", success=truth, alarm=truth is None)
    return change(msgspec.structs.replace(row, marks=tuple(first), latest=marks[-1] if marks else None, **changes))


def learned(n: int = 600, seed: int = 1) -> ProgressModel:
    return ProgressModel.start().fold([told(i, truth, marks) for i, (truth, marks) in enumerate(attempts(n, seed))])


@pytest.fixture(scope="module")
def model() -> ProgressModel:
    return learned()


# --- marks -------------------------------------------------------------------------------------------------------

COUNT = st.none() | st.integers(0, 2**60)
SIGNALS = st.builds(
    Signals,
    turns=COUNT,
    tool_calls=COUNT,
    tool_errors=COUNT,
    repeated_calls=COUNT,
    failed_tests=COUNT,
    reverted_edits=COUNT,
    usage=st.none() | st.builds(Usage, input_tokens=st.floats(0.0, 1e15), output_tokens=st.floats(0.0, 1e15)),
    cost_usd=st.none() | st.floats(0.0, 1e12),
)


@given(st.lists(SIGNALS, min_size=1, max_size=9), st.none() | st.floats(0.0, 1.0), st.none() | st.floats(0.0, 1e9))
def test_whatever_is_reported_gives_finite_signs(
    reports: list[Signals], belief: float | None, cost: float | None
) -> None:
    made = mark(decision(belief, cost), reports, whole=True)
    assert len(made.signs) == len(NAMES) and 0 <= made.stratum < 128
    assert all(abs(value) <= 16.0 for value in made.signs)
    assert 0.0 <= ProgressModel.start().chance(made).probability <= 1.0


@given(st.permutations(range(6)))
def test_reports_may_come_backwards(order: list[int]) -> None:
    reports = [Signals(tool_calls=5 * i, tool_errors=2 * i, repeated_calls=i, cost_usd=0.01 * i) for i in range(6)]
    assert mark(decision(), [reports[i] for i in order], whole=True) == mark(decision(), reports, whole=True)


def test_unknown_is_not_nought() -> None:
    nothing = mark(decision(None, None), [Signals()], whole=True)
    assert all(sign(nothing, name) == float(name.endswith("unknown")) for name in NAMES)
    nought = mark(decision(), [Signals(tool_calls=0, tool_errors=0, failed_tests=0)], whole=True)
    assert sign(nought, "errors unknown") == sign(nought, "failed tests unknown") == sign(nought, "age unknown") == 0.0
    assert sign(nought, "repeats unknown") == sign(nought, "spent unknown") == sign(nought, "recent unknown") == 1.0


def test_tokens_tell_dollars_and_turns_tell_the_age() -> None:
    spent = mark(decision(cost_usd=0.5), [Signals(turns=4, usage=Usage(output_tokens=1e6))], whole=True)
    assert sign(spent, "spent") == pytest.approx(math.log(2.0))
    assert spent.stratum == mark(decision(), [Signals(tool_calls=8)], whole=True).stratum


# --- the session -------------------------------------------------------------------------------------------------


def test_a_session_keeps_the_first_mark_at_each_age_and_the_latest() -> None:
    session = apply(None, Decided(decision=decision()))
    for calls in range(1, 60):
        report = Signals(tool_calls=calls, tool_errors=0)
        session = apply(session, Progressed(decision_id="s-1", signals=report, action=ProgressAction.CONTINUE))
    assert session is not None
    attempt = session.attempts[0]
    assert [round(16.0 * math.exp(sign(m, "age"))) - 1 for m in attempt.marks] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    assert len(attempt.signals) == MOST_REPORTS
    assert attempt.latest is not None and sign(attempt.latest, "age") == pytest.approx(math.log(60 / 16))
    # It teaches nothing of that before it has ended.
    told_cost = apply(session, Rewarded(session_id="s", outcome=Outcome(cost_usd=1.0), revision=1))
    assert told_cost is not None and told_cost.rows()[0].marks == ()
    ended = apply(told_cost, Rewarded(session_id="s", outcome=Outcome(success=1.0), revision=2, final=True))
    assert ended is not None and ended.rows()[0].marks == attempt.marks


@pytest.mark.parametrize(
    ("action", "end", "unseen"),
    [
        (ProgressAction.CONTINUE, EscalationReason.STRUGGLING, False),
        (ProgressAction.ESCALATE, EscalationReason.STRUGGLING, True),
        (ProgressAction.STOP, EscalationReason.STRUGGLING, True),
        (ProgressAction.ESCALATE, EscalationReason.VERIFIED_FAILURE, False),
        (ProgressAction.ESCALATE, None, False),
        (ProgressAction.STOP, None, True),
    ],
)
def test_who_followed_the_advice_to_leave_has_no_truth(
    action: ProgressAction, end: EscalationReason | None, unseen: bool
) -> None:
    session = apply(None, Decided(decision=decision()))
    session = apply(session, Progressed(decision_id="s-1", signals=Signals(tool_calls=9), action=action))
    if end is not None:
        session = apply(session, Escalated(decision_id="s-1", reason=end))
    session = apply(session, Rewarded(session_id="s", outcome=Outcome(success=0.0), revision=2, final=True))
    assert session is not None
    assert session.rows()[0].unseen_end == unseen


# --- the fit -----------------------------------------------------------------------------------------------------


def test_before_any_data_it_says_what_the_decision_said() -> None:
    start = ProgressModel.start()
    assert not start.learned
    for belief in (0.02, 0.5, 0.9):
        seen = mark(decision(belief), [Signals(tool_calls=40, tool_errors=30, cost_usd=9.0)], whole=True)
        assert start.chance(seen).mean == pytest.approx(logit(belief))


def test_the_mode_is_the_one_that_plain_optimisation_finds(model: ProgressModel) -> None:
    prior = ProgressModel.start()
    y = np.repeat(model.truth, model.lengths)

    def loss(w: np.ndarray) -> float:
        z = model.x @ w
        return float(
            np.logaddexp(0.0, z).sum() - y @ z + 0.5 * ((w - prior.mean) ** 2 / np.diag(prior.covariance)).sum()
        )

    found = optimize.minimize(loss, prior.mean, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-14})
    assert loss(model.mean) <= found.fun + 1e-6
    assert model.mean == pytest.approx(found.x, abs=2e-2)


def test_predictions_of_attempts_not_learned_from_are_calibrated_at_each_age(model: ProgressModel) -> None:
    """At every report, not at the marks alone. What 600 attempts leave uncertain and the form of the model gets wrong
    is allowed .06 of probability, beyond which an error of that many standard errors comes up by chance with
    FALSE_ALARM at each age."""
    fresh = attempts(3000, seed=2)
    for youngest, oldest in ((1, 1), (2, 2), (3, 4), (5, 7), (8, 30)):
        of_age = [
            model.chance(m).probability - truth
            for truth, marks in fresh
            for k, m in enumerate(marks, start=1)
            if youngest <= k <= oldest
        ]
        # Reports of one attempt at one of these ages go together: at most as many as ages count as one.
        error = STANDARD_ERRORS * np.std(of_age) / math.sqrt(len(of_age) / (min(oldest, 12) - youngest + 1))
        assert abs(np.mean(of_age)) < 0.06 + error, (youngest, oldest)


def test_it_predicts_better_than_the_decision_did(model: ProgressModel) -> None:
    fresh = attempts(1000, seed=4)
    gain = [
        np.mean([math.log(abs(truth - 1.0 + model.chance(m).probability)) for m in marks])
        - np.mean([math.log(abs(truth - 1.0 + expit(sign(m, "belief")))) for m in marks])
        for truth, marks in fresh
        if marks
    ]
    assert np.mean(gain) > STANDARD_ERRORS * np.std(gain) / math.sqrt(len(gain))


def test_being_left_on_advice_is_no_failure(model: ProgressModel) -> None:
    """Four of five attempts that the model thinks bad are left: were they failures, it would think still worse."""
    rng = np.random.default_rng(5)
    left, failures = [], []
    for i, (truth, marks) in enumerate(attempts(900, seed=6), start=1000):
        leaving = next((k for k, m in enumerate(marks) if model.chance(m).probability < 0.4), None)
        if leaving is None or rng.random() < 0.2:
            left.append(told(i, truth, marks))
            failures.append(left[-1])
        else:
            left.append(told(i, None, marks[: leaving + 1], unseen_end=True))
            failures.append(told(i, None, marks[: leaving + 1]))
    fresh = [(truth, m) for truth, marks in attempts(1500, seed=7) for m in marks[:2]]
    truth = np.mean([t for t, _ in fresh])
    after, as_failures = (ProgressModel.start().fold(of[:300]).fold(of[300:]) for of in (left, failures))
    assert abs(np.mean([after.chance(m).probability for _, m in fresh]) - truth) < 0.04
    assert np.mean([as_failures.chance(m).probability for _, m in fresh]) < truth - 0.04


def test_a_correction_replaces_what_was_told(model: ProgressModel) -> None:
    some = attempts(200, seed=8)
    first = ProgressModel.start().fold([told(i, truth, marks) for i, (truth, marks) in enumerate(some)])
    wrong = told(7, 1.0 - some[7][0], some[7][1])
    again = first.fold([wrong]).fold([told(7, some[7][0], some[7][1])])
    assert len(again.truth) == len(first.truth)
    assert again.mean == pytest.approx(first.mean, abs=1e-4)
    # What is no more an end at all teaches no more.
    assert len(first.fold([SessionChange(session_id="s7", before=wrong.after, after=())]).truth) == len(first.truth) - 1


def test_nothing_is_fitted_where_nothing_was_reported(model: ProgressModel) -> None:
    assert model.fold([change(taught("other", "a", success=1.0))]) is model


def test_the_window_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_model, "WINDOW_ATTEMPTS", 50)
    small = learned(200)
    assert len(small.truth) == len(small.latest) == len(small.lengths) == len(small.session_ids) == 50
    assert small.session_ids[-1] == "s199" and len(small.x) == small.lengths.sum()


def test_the_state_survives_its_bytes(model: ProgressModel) -> None:
    state = replace(Posterior.start(ARMS), progress=model)
    loaded = Posterior.load(state.dump())
    assert loaded.dump() == state.dump()
    assert loaded.progress.fold([told(9999, 1.0, attempts(1, 9)[0][1])]).learned


# --- advice ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spent", [0.01, 0.1, 0.5, 3.0])
def test_what_is_yet_to_be_spent_is_the_log_normals_own(spent: float) -> None:
    noise, expected = 0.8, 0.3
    cost = stats.lognorm(noise, scale=expected * math.exp(-(noise**2) / 2.0))
    beyond, _ = integrate.quad(cost.sf, spent, np.inf)
    assert progress.remaining_usd(expected, spent, noise) == pytest.approx(beyond / cost.sf(spent), rel=1e-6)


def test_what_is_yet_to_be_spent_is_finite() -> None:
    assert progress.remaining_usd(0.3, None, 0.8) == progress.remaining_usd(0.3, 0.0, 0.8) == 0.3
    assert progress.remaining_usd(0.0, 5.0, 0.8) == 0.0
    for spent in (1e-12, 1e12):
        assert math.isfinite(progress.remaining_usd(0.3, spent, 0.8))


STUCK = Signals(tool_calls=40, tool_errors=18, repeated_calls=6, cost_usd=0.05)
FINE = Signals(tool_calls=8, tool_errors=0, repeated_calls=0, cost_usd=0.005)


def advised(model: ProgressModel, signals: Signals, session_id: str = "s", **settings: Any) -> Progressed:
    router = RouterSettings(**{"objective": Objective(value_usd=5.0), **settings})
    policy = parse("thompson")
    state = replace(Posterior.start(ARMS), progress=model)
    vintage = Vintage(policy=policy, policy_version="1", epoch=0, epoch_hash="", state=state)
    offers = eligibility.offers(ARMS)
    begun = moves.select(
        router, vintage, None, session_id=session_id, features={}, offers=offers, decision_id="d", budget_price=0.0
    )
    session = apply(None, begun if isinstance(begun, Decided) else Decided(decision=begun))
    assert session is not None
    return progress.report(router, vintage, session, decision_id="d", signals=signals, offers=offers)


def test_before_it_has_learned_the_plain_rule_advises() -> None:
    event = advised(ProgressModel.start(), STUCK)
    assert event.rule and event.propensity == 1.0 and event.threshold is None and event.success_mean is None
    few = learned(40)
    assert not few.learned and advised(few, STUCK) == event


def test_what_is_learned_advises(model: ProgressModel) -> None:
    assert model.learned
    stuck, fine = advised(model, STUCK), advised(model, FINE)
    assert stuck.action is not ProgressAction.CONTINUE and not stuck.rule
    assert stuck.success_mean is not None and stuck.threshold is not None and stuck.success_mean < stuck.threshold
    assert stuck.propensity == pytest.approx(1.0 - RouterSettings().exploration_floor)
    assert fine.action is ProgressAction.CONTINUE and fine.propensity == 1.0
    assert fine.success_mean is not None and fine.success_mean > stuck.success_mean


def test_some_go_on_whatever_is_believed_of_them(model: ProgressModel) -> None:
    share, n = 0.3, 400
    events = [advised(model, STUCK, f"s{i}", exploration_floor=share, draws=16) for i in range(n)]
    going = sum(event.action is ProgressAction.CONTINUE for event in events)
    low, high = stats.binom.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], n, share)
    assert low <= going <= high
    assert {round(event.propensity, 9) for event in events} == {share, 1.0 - share}
    drawn = [sampling.uniform(b"advice", 0, f"s{i}", 1) < 1.0 - share for i in range(n)]
    assert drawn == [event.action is not ProgressAction.CONTINUE for event in events]


def test_what_was_known_beforehand_is_no_reason_to_leave(model: ProgressModel) -> None:
    # Where a success is worth a cent, no attempt is worth what it costs, but these reports are those of a good one.
    assert advised(model, FINE, objective=Objective(value_usd=0.01)).action is ProgressAction.CONTINUE


@pytest.mark.parametrize(
    "signals", [Signals(), Signals(turns=2**60, tool_calls=2**60, tool_errors=2**60, cost_usd=1e12)]
)
def test_absurd_reports_are_answered(model: ProgressModel, signals: Signals) -> None:
    event = advised(model, signals)
    assert event.success_mean is not None and 0.0 <= event.success_mean <= 1.0
    assert event.threshold is not None and 0.0 <= event.threshold <= 1.0 and 0.0 < event.propensity <= 1.0


def test_a_learner_learns_it_from_the_log_and_goes_on_from_a_snapshot() -> None:
    log: list[tuple[int, int, Event, str]] = []
    runner.run(WORLD, Terms(), "thompson", 0, 50, log=lambda *event: log.append(event))
    learner = Learner()
    for seq, at_us, event, session_id in log:
        learner.feed(seq, event, session_id, at_us)
    assert learner.vintage is not None
    state = learner.vintage.state
    assert isinstance(state, Posterior) and len(state.progress.truth) > 30
    resumed = Learner.resume(learner.snapshot())
    assert resumed.vintage is not None and resumed.vintage.epoch_hash == learner.vintage.epoch_hash
