"""The decision alone: draws, rule, propensities, lottery. K = 8 arms, d = 64 columns, M = 256 draws, in process."""

import time

import numpy as np

from bandit import moves
from bandit.decision import Question, Vintage, decide, situate
from bandit.eligibility import offers
from bandit.events import ArmPut, Decided, Rewarded, RouterPut
from bandit.learner import Learner
from bandit.types import Arm, Features, Outcome, Price, RouterSettings, SelectReason, Text

N_ARMS, N_COLUMNS = 8, 64


def context(rng: np.random.Generator) -> Features:
    """What an agent may tell of a session, of all kinds; 64 columns: 1 + 5 + 24 + 6 + 9 + 16 + 2 + 1."""
    return {
        "category": f"category-{rng.integers(5)}",
        "repository": f"repository-{rng.integers(24)}",
        "language": f"language-{rng.integers(6)}",
        "title": Text(f"fix number {rng.integers(1000)} in module {rng.integers(30)}"),
        "embedding": tuple(rng.standard_normal(16).tolist()),
        "files": float(rng.integers(100)),
        "lines": float(rng.integers(10_000)),
        "tests": bool(rng.integers(2)),
    }


def arms() -> tuple[Arm, ...]:
    """Eight arms, each dearer than the one before."""
    return tuple(Arm(id=f"arm-{k}", price=Price(input_usd=0.2 * 1.6**k, output_usd=1.6**k)) for k in range(N_ARMS))


def learned(policy: str, *, sessions: int = 300) -> tuple[Vintage, RouterSettings]:
    """A policy that has learned from some sessions of noise, so that all its columns are known."""
    rng = np.random.default_rng(0)
    settings = RouterSettings(policy=policy)
    learner = Learner()
    seq = 0
    for arm in arms():
        learner.feed(seq := seq + 1, ArmPut(arm=arm))
    learner.feed(seq := seq + 1, RouterPut(settings=settings))
    for i in range(sessions):
        assert learner.vintage is not None
        session_id = f"session-{i}"
        event = moves.select(
            settings,
            learner.vintage,
            None,
            session_id=session_id,
            features=context(rng),
            offers=offers(arms()),
            decision_id=f"decision-{i}",
        )
        assert isinstance(event, Decided)
        learner.feed(seq := seq + 1, event, session_id)
        outcome = Outcome(success=float(rng.random() < 0.6), cost_usd=float(rng.lognormal()))
        reward = Rewarded(session_id=session_id, decision_id=f"decision-{i}", outcome=outcome, revision=1, final=True)
        learner.feed(seq := seq + 1, reward, session_id)
    assert learner.vintage is not None
    return learner.vintage, settings


def microseconds(policy: str, *, together: int, decisions: int = 1280) -> list[float]:
    """Processor time of a decision in microseconds, for each of the batches that the decisions are made in."""
    vintage, settings = learned(policy)
    rng, open_offers = np.random.default_rng(1), offers(arms())
    questions = [
        Question(
            situation=situate(settings, None, session_id=f"timed-{i}", features=context(rng), offers=open_offers),
            decision_id="",
            reason=SelectReason.SAMPLED,
        )
        for i in range(decisions)
    ]
    times = []
    for first in range(0, decisions, together):
        start = time.thread_time()
        decide(vintage, questions[first : first + together])
        times.append(1e6 * (time.thread_time() - start) / together)
    return times


def mabwiser_microseconds(*, decisions: int = 100) -> float | None:
    """The median for MABWiser's linear Thompson sampling at the same K and d; None where it is not installed."""
    try:
        from mabwiser.mab import MAB, LearningPolicy
    except ImportError:
        return None
    rng = np.random.default_rng(2)
    sampler = MAB(arms=[arm.id for arm in arms()], learning_policy=LearningPolicy.LinTS(alpha=0.6), seed=0)
    chosen = [f"arm-{k}" for k in rng.integers(N_ARMS, size=300)]
    sampler.fit(chosen, rng.random(300), rng.standard_normal((300, N_COLUMNS)))
    times = []
    for x in rng.standard_normal((decisions, 1, N_COLUMNS)):
        start = time.thread_time()
        sampler.predict(x)
        times.append(1e6 * (time.thread_time() - start))
    return float(np.median(times))
