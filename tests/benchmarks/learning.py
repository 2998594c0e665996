"""Learning alone: how many outcomes a second a policy folds in blocks of 64. K = 8 arms, d = 32 columns."""

import time

import numpy as np

from bandit.decision import Question, Vintage, decide, situate
from bandit.eligibility import offers
from bandit.policy import parse
from bandit.session import AttemptRow, SessionChange
from bandit.types import Features, RouterSettings, SelectReason
from tests.benchmarks.decision import arms

BLOCK, WARM_UP_BLOCKS, BLOCKS = 64, 10, 10


def outcomes_per_second(policy: str) -> float:
    """Over `BLOCKS` blocks, after a warm-up; each session is one attempt whose success and dollars are known."""
    rng = np.random.default_rng(0)
    learner = parse(policy)
    state = learner.start(arms())
    settings = RouterSettings(policy=policy)
    elapsed = 0.0
    for block in range(WARM_UP_BLOCKS + BLOCKS):
        vintage = Vintage(policy=learner, policy_version="1", epoch=block, epoch_hash="", state=state)
        changes = [_change(rng, vintage, settings, f"{block}-{i}") for i in range(BLOCK)]
        start = time.perf_counter()
        state = learner.fold(state, arms(), changes)
        elapsed += time.perf_counter() - start if block >= WARM_UP_BLOCKS else 0.0
    return BLOCKS * BLOCK / elapsed


def _change(rng: np.random.Generator, vintage: Vintage, settings: RouterSettings, session_id: str) -> SessionChange:
    situation = situate(settings, None, session_id=session_id, features=_context(rng), offers=offers(arms()))
    ((decision, _),) = decide(
        vintage, [Question(situation=situation, decision_id=session_id, reason=SelectReason.SAMPLED)]
    )
    assert decision is not None
    row = AttemptRow(
        decision=decision,
        arm=decision.arm,
        alarm=False,
        success=float(rng.random() < 0.6),
        cost_usd=float(rng.lognormal()),
        usage=None,
    )
    return SessionChange(session_id=session_id, before=(), after=(row,))


def _context(rng: np.random.Generator) -> Features:
    """Features that make up 32 columns: 1 + 6 + 15 + 10 numbers."""
    return {
        "category": f"category-{rng.integers(6)}",
        "repository": f"repository-{rng.integers(15)}",
        **{f"count-{i}": float(rng.integers(100)) for i in range(10)},
    }
