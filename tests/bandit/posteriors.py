"""Situations, rows and posteriors built by hand, shared by the tests of the policy made of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from bandit.policy import Beliefs, Distribution
from bandit.posterior import Posterior
from bandit.session import AttemptRow, SessionChange
from bandit.thompson import Thompson
from bandit.types import (
    Arm,
    Bar,
    BarKind,
    Decision,
    Features,
    Objective,
    Offer,
    Price,
    SelectReason,
    Situation,
    Usage,
)

FALSE_ALARM = 1e-6
STANDARD_ERRORS = float(stats.norm.isf(FALSE_ALARM / 2))
ONE_DOLLAR = Price(input_usd=1.0, output_usd=1.0)
"""One dollar a million tokens, whatever kind."""
ARMS = tuple(Arm(id=name, price=ONE_DOLLAR) for name in "abc")
POLICY = Thompson()


def situation(features: Features | None = None, arms: Sequence[Arm] = ARMS, **changes: Any) -> Situation:
    """A first attempt of three, with all of `arms` on offer; those of `alarmed` are barred as tried."""
    tried = changes.get("alarmed", ())
    fields: dict[str, Any] = {
        "router": "r",
        "seed": 1,
        "session_id": "asked",
        "attempt": 1 + len(tried),
        "attempts_left": 3 - len(tried),
        "features": features or {},
        "offers": tuple(
            Offer(arm=arm.id, price=arm.price, bar=Bar(BarKind.TRIED, "tried") if arm.id in tried else None)
            for arm in arms
        ),
        "may_stop": bool(tried),
        "objective": Objective(value_usd=5.0),
        "exploration_floor": 0.02,
        "draws": 256,
        "alpha": 0.6,
        **changes,
    }
    return Situation(**fields)


def taught(
    session: str,
    arm: str,
    *,
    features: Features | None = None,
    attempt: int = 1,
    success: float | None = None,
    alarm: bool = False,
    cost_usd: float | None = None,
    usage: Usage | None = None,
    latency_seconds: float | None = None,
    arms: Sequence[Arm] = ARMS,
    **changes: Any,
) -> AttemptRow:
    """What an attempt teaches; `changes` are of its situation."""
    decision = Decision(
        decision_id=f"{session}-{attempt}",
        situation=situation(features, arms, session_id=session, attempt=attempt, **changes),
        arm=arm,
        propensity=1.0,
        reason=SelectReason.SAMPLED,
        scores=(),
        policy="thompson",
        policy_version="1",
        epoch=0,
        epoch_hash="",
    )
    return AttemptRow(
        decision=decision,
        arm=arm,
        alarm=alarm,
        success=success,
        cost_usd=cost_usd,
        usage=usage,
        latency_seconds=latency_seconds,
    )


def change(*after: AttemptRow, before: tuple[AttemptRow, ...] = ()) -> SessionChange:
    return SessionChange(session_id=after[0].decision.session_id, before=before, after=after)


def beliefs(distribution: Distribution) -> Beliefs:
    assert distribution.beliefs is not None
    return distribution.beliefs


def by_hand(
    logits: Sequence[float], root: np.ndarray, *, sigma: float = 0.0, false_alarm: float = 0.0, dollars: float = 0.2
) -> tuple[Posterior, tuple[Arm, ...]]:
    """A posterior over intercepts alone, whose costs are known and equal."""
    n = len(logits)
    arms = tuple(Arm(id=f"a{k}", price=ONE_DOLLAR) for k in range(n))
    start = Posterior.start(arms)
    return replace(
        start,
        success=replace(
            start.success,
            mean=np.array(logits)[:, None],
            covariance=(root @ root.T)[:, None, :, None],
            sigma=sigma,
            detection=0.97,
            false_alarm=false_alarm,
        ),
        cost=replace(
            start.cost,
            mean=np.tile([np.log(dollars), 0.0, 0.0], (n, 1)),
            covariance=np.zeros((n, 3, n, 3)),
            smear=np.ones(n),
            paid=np.ones(n),
        ),
    ), arms


def replace_price(arm: Arm, usd: float) -> Arm:
    return Arm(id=arm.id, price=Price(input_usd=usd, output_usd=usd))
