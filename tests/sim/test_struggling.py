"""The world `struggling`: its expectations, the best prediction in it, and what advice is worth there."""

import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from bandit import eligibility, moves, progress, sampling
from bandit.decision import Vintage
from bandit.events import Decided, Event, Progressed
from bandit.learner import Learner
from bandit.posterior import Posterior
from bandit.progress_model import ProgressModel
from bandit.session import apply
from bandit.types import EscalationReason, Objective, Outcome, ProgressAction, RouterSettings
from sim import runner, struggling, synthetic
from sim.world import Floats, Terms
from tests.bandit.posteriors import STANDARD_ERRORS
from tests.benchmarks.informed import chance, spells_left

WORLD = struggling.running(synthetic.make("struggling"))
SETTINGS = RouterSettings(objective=Objective(value_usd=5.0), draws=64)
Advise = Callable[..., Progressed]


def never(*_: object, decision_id: str, signals: struggling.Signals, **__: object) -> Progressed:
    return Progressed(decision_id=decision_id, signals=signals, action=ProgressAction.CONTINUE)


def test_an_attempt_costs_what_the_table_expects() -> None:
    rng = np.random.default_rng(1)
    ratio = []
    for _ in range(4000):
        task, arm = int(rng.integers(len(WORLD.tasks))), int(rng.integers(len(WORLD.arms)))
        course = WORLD.course(task, arm, rng, good=bool(rng.random() < WORLD.success[task, arm]))
        assert course.outcome.cost_usd is not None
        ratio.append(course.outcome.cost_usd / WORLD.cost_usd[task, arm])
    assert abs(np.mean(ratio) - 1.0) < STANDARD_ERRORS * np.std(ratio) / math.sqrt(len(ratio))


def test_the_informed_prediction_is_right() -> None:
    """Within each tenth of what is predicted, as many attempts are good as predicted, and as much is left to do."""
    rng = np.random.default_rng(2)
    seen: list[tuple[float, float, float]] = []
    for _ in range(3000):
        good = bool(rng.random() < 0.6)
        reports = WORLD.course(0, 0, rng, good=good).reports
        errors = np.diff([0, *(told.tool_errors or 0 for told in reports)])
        repeats = np.diff([0, *(told.repeated_calls or 0 for told in reports)])
        n = int(rng.integers(1, 6))
        if n <= len(reports):
            p = chance(0.6, errors[:n], repeats[:n])
            seen.append((p, float(good), len(reports) + 1 - n - spells_left(n, p)))
    p, good_, extra = np.array(seen).T
    for low in np.arange(0.0, 1.0, 0.1):
        here = (p >= low) & (p < low + 0.1)
        if here.sum() > 30:
            error = math.sqrt(float((p * (1.0 - p))[here].sum())) / here.sum()
            assert abs((good_ - p)[here].mean()) < STANDARD_ERRORS * error
    assert abs(extra.mean()) < STANDARD_ERRORS * extra.std() / math.sqrt(len(extra))


def utility(vintage: Vintage, advise: Advise, session_id: str, task: int) -> float:
    """Dollars of one session in which nothing is learned; the same arm on the same session goes the same way."""
    offers = eligibility.offers(WORLD.arms)
    features = WORLD.tasks[task].features
    begun = moves.select(
        SETTINGS, vintage, None, session_id=session_id, features=features, offers=offers, decision_id=session_id
    )
    assert isinstance(begun, Decided)
    session, spent, number = apply(None, begun), 0.0, 0
    while True:
        assert session is not None
        number += 1
        arm = WORLD.arms.index(next(a for a in WORLD.arms if a.id == session.attempts[-1].decision.arm))
        key = f"{session_id}-{arm}"
        good = bool(sampling.uniform(b"good", 0, key, 0) < WORLD.success[task, arm])
        course = WORLD.course(task, arm, sampling.generator(b"course", 0, key), good=good)
        decision_id, end, reason = session.attempts[-1].decision.decision_id, course.outcome, None
        for signals in course.reports:
            event = advise(SETTINGS, vintage, session, decision_id=decision_id, signals=signals, offers=offers)
            session = apply(session, event)
            assert session is not None
            if event.action is not ProgressAction.CONTINUE:
                end, reason, good = Outcome(cost_usd=signals.cost_usd), EscalationReason.STRUGGLING, False
                break
        spent += end.cost_usd or 0.0
        if good:
            return SETTINGS.objective.value_usd - spent
        events = moves.escalate(
            SETTINGS,
            vintage,
            session,
            decision_id=decision_id,
            reason=reason or EscalationReason.VERIFIED_FAILURE,
            offers=offers,
            next_decision_id=f"{session_id}-{number}",
            outcome=msgspec.structs.replace(end, success=None),
        )
        if len(events) == 1:
            return -spent
        for moved in events:
            session = apply(session, moved)


@pytest.fixture(scope="module")
def vintage() -> Vintage:
    """What was learned from 500 sessions whose agents did as they were advised."""
    learner = Learner()

    def feed(seq: int, at_us: int, event: Event, session_id: str) -> None:
        learner.feed(seq, event, session_id, at_us)

    runner.run(WORLD, Terms(value_usd=5.0), SETTINGS, 0, 500, log=feed)
    assert learner.vintage is not None and isinstance(learner.vintage.state, Posterior)
    return learner.vintage


@pytest.mark.long
def test_learned_advice_is_worth_more_than_none_and_no_less_than_the_plain_rule(vintage: Vintage) -> None:
    """On the same sessions under one state. What was learned from 500 sessions gains four standard errors over none,
    so that this fails for no cause in one change of all random numbers out of forty; over the plain rule's gain it is
    only held not to fall behind. RESULTS.md has both from longer runs."""
    state = vintage.state
    assert isinstance(state, Posterior) and state.progress.learned
    ignorant = Vintage(
        policy=vintage.policy,
        policy_version="1",
        epoch=0,
        epoch_hash="",
        state=Posterior(**{**vars(state), "progress": ProgressModel.start()}),
    )
    n = 600
    tasks = np.random.default_rng(9).integers(len(WORLD.tasks), size=n).tolist()

    def played(of: Vintage, advise: Advise) -> Floats:
        return np.array([utility(of, advise, f"t{i}", task) for i, task in enumerate(tasks)])

    none, plain = played(vintage, never), played(ignorant, progress.report)
    learned = played(vintage, progress.report)

    def gain(mine: Floats, theirs: Floats) -> tuple[float, float]:
        gained = mine - theirs
        return float(gained.mean()), float(gained.std(ddof=1)) / math.sqrt(n)

    over_none, error = gain(learned, none)
    assert over_none > 2.0 * error
    over_plain, error = gain(learned, plain)
    assert over_plain > -2.0 * error
