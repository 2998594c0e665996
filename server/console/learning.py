"""Is it learning at all? What was predicted of recent attempts, against what became of them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bandit import record
from bandit.events import Decided
from bandit.session import Session, apply
from bandit.types import ArmScore
from pointsman.v1 import events_pb2

WINDOW = 4000
"""How many of the last events are looked at."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Means over the attempts of which both sides are known."""

    attempts: int
    predicted: float
    realised: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What recent attempts show. A part is None where there is nothing to compare."""

    attempts: int
    success: Prediction | None
    """Probability that the attempt resolves its session."""
    success_error: float | None
    """Brier score: mean squared difference between predicted and realised success."""
    constant_error: float | None
    """What the Brier score would be, had one rate been predicted of all."""
    cost_usd: Prediction | None
    width_before: float | None
    """Mean width of the 90 % intervals in the older half of the attempts …"""
    width_now: float | None
    """… and in the newer half."""


def evidence(events: Iterable[events_pb2.Event]) -> Evidence:
    """Folds a router's events, in order, that may begin in mid-log: sessions begun before are left out.

    Raises ValueError where an event is none.
    """
    sessions: dict[str, Session] = {}
    for stored in events:
        event = record.decode(stored.kind, stored.body, stored.private).event
        before = sessions.get(stored.session_id)
        if before is None and not (isinstance(event, Decided) and event.decision.attempt == 1):
            continue
        after = apply(before, event)
        if after is not None:
            sessions[stored.session_id] = after
    success: list[tuple[float, float]] = []
    cost: list[tuple[float, float]] = []
    widths: list[float] = []
    attempts = 0
    for session in sessions.values():
        for i, attempt in enumerate(session.attempts):
            decision = attempt.decision
            score = next(score for score in decision.scores if score.arm == decision.arm)
            attempts += 1
            widths += _width(score)
            if session.outcome(i).served_arm not in (None, decision.arm):
                continue
            told = session.outcome(i).success
            if told is None and attempt.left is not None and attempt.left.is_alarm:
                told = 0.0
            if told is not None and score.success_mean is not None:
                success.append((score.success_mean, told))
            paid = session.dollars(i)
            if paid is not None and score.cost_usd is not None:
                cost.append((score.cost_usd, paid))
    compared = _prediction(success)
    half = len(widths) // 2
    return Evidence(
        attempts=attempts,
        success=compared,
        success_error=_error(success) if compared else None,
        constant_error=_error([(compared.realised, told) for _, told in success]) if compared else None,
        cost_usd=_prediction(cost),
        width_before=_mean(widths[:half]) if half else None,
        width_now=_mean(widths[half:]) if half else None,
    )


def surprise(success: Prediction) -> float:
    """Realised minus predicted success, in standard errors of the mean of as many independent outcomes."""
    spread = math.sqrt(max(success.predicted * (1.0 - success.predicted), 1e-9) / success.attempts)
    return (success.realised - success.predicted) / spread


def _width(score: ArmScore) -> list[float]:
    if score.success_low is None or score.success_high is None:
        return []
    return [score.success_high - score.success_low]


def _prediction(pairs: Sequence[tuple[float, float]]) -> Prediction | None:
    if not pairs:
        return None
    predicted, realised = zip(*pairs, strict=True)
    return Prediction(attempts=len(pairs), predicted=_mean(predicted), realised=_mean(realised))


def _error(pairs: Sequence[tuple[float, float]]) -> float:
    return _mean([(predicted - told) ** 2 for predicted, told in pairs])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
