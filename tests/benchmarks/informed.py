"""Advice by somebody who knows how attempts go in the world `struggling`: what learned advice can reach at most."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from bandit import moves, progress
from bandit.decision import Vintage, worth_usd
from bandit.events import Progressed
from bandit.session import Session
from bandit.types import EscalationReason, Offer, ProgressAction, RouterSettings, Signals
from sim.struggling import CALLS, ERRORS, FLAKY, GETS_STUCK, MEAN_SPELLS, REPEATS

Floats = np.ndarray


def chance(prior: float, errors: Sequence[int], repeats: Sequence[int]) -> float:
    """P(the attempt is good | it still runs after spells with these errors and repetitions), exactly.

    `prior` is the chance that it is good before anything was seen. A forward pass over whether it is stuck, for sound
    and for flaky tools.
    """
    e, r = np.asarray(errors), np.asarray(repeats)
    # Shape (n_stuck, n_flaky, n_spells).
    seen = stats.binom.pmf(e, CALLS, ERRORS[:, :, None]) * stats.binom.pmf(r, CALLS - e, REPEATS[:, None, None])
    tools = np.array([1.0 - FLAKY, FLAKY])
    if_good = float(tools @ seen[0].prod(axis=1))
    free, stuck = (1.0 - GETS_STUCK) * tools * seen[0, :, 0], GETS_STUCK * tools * seen[1, :, 0]
    for n in range(1, len(e)):
        stuck = (stuck + GETS_STUCK * free) * seen[1, :, n]
        free = (1.0 - GETS_STUCK) * free * seen[0, :, n]
    if_failing = float((free + stuck).sum())
    still_failing, still_good = stats.poisson.sf(len(e) - 1, np.array(MEAN_SPELLS) - 1.0)
    good = prior * if_good * still_good
    return float(good / (good + (1.0 - prior) * if_failing * still_failing))


def spells_left(n: int, p: float) -> float:
    """Spells expected after `n` of them, of an attempt that still runs and is good with chance `p`."""
    x = np.array(MEAN_SPELLS) - 1.0
    # Of 1 + X spells, X >= n: E[X; X >= n] = E[X] P(X >= n - 1).
    failing, good = x * stats.poisson.sf(n - 2, x) / stats.poisson.sf(n - 1, x) + 1.0 - n
    return float((1.0 - p) * failing + p * good)


class Informed:
    """Answers as `progress.report` would if it knew how attempts go; what it believes beforehand is the router's."""

    def __init__(self) -> None:
        self._told: dict[str, list[Signals]] = {}

    def __call__(
        self,
        settings: RouterSettings,
        vintage: Vintage,
        session: Session,
        *,
        decision_id: str,
        signals: Signals,
        offers: tuple[Offer, ...],
        budget_price: float = 0.0,
    ) -> Progressed:
        """A report on the running attempt, with the advice that it gets."""
        decision = session.attempts[-1].decision
        score = next(score for score in decision.scores if score.arm == decision.arm)
        assert score.success_mean is not None and signals.tool_calls is not None and signals.cost_usd is not None
        told = self._told.setdefault(decision_id, [Signals(tool_errors=0, repeated_calls=0)])
        told.append(signals)
        p = chance(
            score.success_mean,
            np.diff([of.tool_errors or 0 for of in told]),
            np.diff([of.repeated_calls or 0 for of in told]),
        )
        step = moves.begin_escalate(
            settings,
            session,
            decision_id=decision_id,
            reason=EscalationReason.STRUGGLING,
            offers=offers,
            next_decision_id="advised",
            budget_price=budget_price,
        )
        after = worth_usd(vintage, step.question) or 0.0 if isinstance(step, moves.Step) else 0.0
        n = signals.tool_calls // CALLS
        yet = signals.cost_usd / n * spells_left(n, p)
        going_on = settings.objective.value_usd * p - yet + (1.0 - p) * after
        leave = going_on < after and p <= progress.MOST_LEFT * score.success_mean
        action = ProgressAction.ESCALATE if leave else ProgressAction.CONTINUE
        return Progressed(decision_id=decision_id, signals=signals, action=action, success_mean=p)
