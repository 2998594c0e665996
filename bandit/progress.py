"""Is a running attempt getting anywhere? What a report on it is answered with.

Where the policy has learned what reports say (see `progress_model`), going on is compared with leaving, in dollars.
With V the value of a success, P the chance that the attempt succeeds, R what it is yet to cost, r the probability
that a failure is noticed, and W what Escalate's next arm would be worth with all that may follow it,

    going on is worth V P - R + (1 - P) r W,   leaving is worth W,

so that leaving is better where P is below the threshold (R + (1 - r) W) / (V - r W). It is advised only where the
reports speak against the attempt: an arm taken to be explored is not left for what was known of it before.

Until then, and for policies that learn no such thing, there is a plain rule: an attempt struggles where most of its
last few tool calls failed or repeated an earlier one: more than half of at least eight, which are about the last four
turns of an agent that makes two calls a turn. Agents that get on see one call in seven fail; that five or more of
eight do by chance then happens in one window of four hundred. With fewer calls chance would speak too often, with
more a hopeless attempt would go on for longer than it need.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy.special import log_ndtr, ndtr

from bandit import moves, sampling
from bandit.decision import Vintage, worth_usd
from bandit.events import Escalated, Progressed
from bandit.objective import INDIFFERENCE
from bandit.posterior import Posterior
from bandit.session import Attempt, Session, apply, check_running, reports_with
from bandit.signs import logit, mark, recent, spent_usd
from bandit.types import EscalationReason, Offer, Outcome, ProgressAction, RouterSettings, Signals

MOST_BAD = 0.5
"""Share of the last tool calls that may fail or be repetitions; a call that is both counts twice."""
MOST_LEFT = 0.5
"""Reports speak against an attempt where they leave no more than this share of the success its decision expected."""


class Weighed(NamedTuple):
    """Going on compared with leaving."""

    success_mean: float
    """P."""
    threshold: float
    """The success below which leaving is worth more."""
    leave_propensity: float
    """Probability with which leaving is advised."""


def report(
    settings: RouterSettings,
    vintage: Vintage,
    session: Session,
    *,
    decision_id: str,
    signals: Signals,
    offers: tuple[Offer, ...],
    budget_price: float = 0.0,
) -> Progressed:
    """A report on the running attempt, which `decision_id` must name, with the advice that it gets.

    An attempt that is to be left is to be left for the arm that Escalate would name now, and the session to be stopped
    where Escalate would say that it is exhausted. It is to be stopped too where it has spent more than its cap.
    `offers` and `budget_price` are as for Escalate.
    Raises WrongOrder where the decision is stale, exhausted or final.
    """
    attempt = check_running(session, decision_id)
    reports, whole = reports_with(attempt, signals)
    outcome = _told(reports)
    # What Escalate would do now. Its draws are keyed, so this is no guess.
    step = moves.begin_escalate(
        settings,
        session,
        decision_id=decision_id,
        reason=EscalationReason.STRUGGLING,
        offers=offers,
        next_decision_id="advised",
        outcome=outcome,
        budget_price=budget_price,
    )
    weighed = _weigh(settings, vintage, attempt, step, signals, budget_price)
    success_mean = weighed.success_mean if weighed is not None else None

    def advice(action: ProgressAction, arm: str, rule: str = "", propensity: float = 1.0) -> Progressed:
        return Progressed(
            decision_id=decision_id,
            signals=signals,
            action=action,
            arm=arm,
            propensity=propensity,
            success_mean=success_mean,
            threshold=weighed.threshold if weighed is not None and not rule else None,
            rule=rule,
        )

    if overspent := _overspent(settings, session, decision_id, outcome):
        return advice(ProgressAction.STOP, "", overspent)
    if weighed is not None:
        rule, leaving = "", weighed.leave_propensity
        # One draw for the whole attempt: with a new one at each report, those that report often would be left more.
        drawn = sampling.uniform(b"advice", settings.seed, session.session_id, attempt.decision.attempt)
        if drawn >= leaving:
            return advice(ProgressAction.CONTINUE, attempt.decision.arm, propensity=1.0 - leaving)
    else:
        rule, leaving = struggles(reports, whole=whole), 1.0
        if not rule:
            return advice(ProgressAction.CONTINUE, attempt.decision.arm)
    events = moves.take(vintage, [step])[0] if isinstance(step, moves.Step) else step
    if len(events) == 2:
        return advice(ProgressAction.ESCALATE, events[1].decision.arm, rule, leaving)
    return advice(ProgressAction.STOP, "", rule, leaving)


def _weigh(
    settings: RouterSettings,
    vintage: Vintage,
    attempt: Attempt,
    step: moves.Step | tuple[Escalated],
    signals: Signals,
    budget_price: float,
) -> Weighed | None:
    """Going on weighed against leaving; None where nothing was learned for it, so that the plain rule advises."""
    state, decision = vintage.state, attempt.decision
    score = next((score for score in decision.scores if score.arm == decision.arm), None)
    if not isinstance(state, Posterior) or not state.progress.learned or score is None:
        return None
    if score.success_mean is None or score.cost_usd is None:
        return None
    leaving_usd = worth_usd(vintage, step.question) if isinstance(step, moves.Step) else 0.0
    if leaving_usd is None:
        return None
    reports, whole = reports_with(attempt, signals)
    chance = state.progress.chance(mark(decision, reports, whole=whole))
    value_usd, r = settings.objective.value_usd, state.success.detection
    yet_usd = (1.0 + budget_price) * remaining_usd(score.cost_usd, spent_usd(decision, reports), state.cost.noise)
    # What follows an attempt is worth less than a success, for it costs something.
    stake_usd = max(value_usd - r * leaving_usd, 1e-9)
    threshold = min((yet_usd + (1.0 - r) * leaving_usd) / stake_usd, 1.0)
    gain_usd = stake_usd * (threshold - chance.probability)
    if chance.probability > MOST_LEFT * score.success_mean:
        leave = 0.0
    elif abs(gain_usd) > INDIFFERENCE * value_usd:
        leave = float(gain_usd > 0.0)
    else:
        leave = float(ndtr((logit(threshold) - chance.mean) / chance.spread))
    # Some go on whatever is believed of them, so that it is seen what comes of it.
    return Weighed(chance.probability, threshold, (1.0 - settings.exploration_floor) * leave)


def remaining_usd(expected_usd: float, spent: float | None, noise: float) -> float:
    """What an attempt is expected to cost beyond the dollars spent so far, as one that is still running.

    Its dollars are log-normal with mean `expected_usd` and `noise` the spread of their logarithm, so that with
    d = (log median - log spent) / noise it is expected Phi(d + noise) / Phi(d) - spent. Where it is not known how much
    was spent, it is `expected_usd`, as if what was spent told nothing of what is to come.
    """
    if spent is None or spent <= 0.0 or expected_usd <= 0.0:
        return expected_usd
    d = (math.log(expected_usd) - noise**2 / 2.0 - math.log(spent)) / noise
    return max(0.0, expected_usd * math.exp(float(log_ndtr(d + noise) - log_ndtr(d))) - spent)


def struggles(reports: Sequence[Signals], *, whole: bool) -> str:
    """What by the plain rule speaks against going on, in words; empty where nothing does.

    `reports` are one attempt's, `whole` says that they are all of them. What a report does not tell is unknown.
    """
    last = recent(reports, whole=whole)
    if last is None or last.failed + last.repeated <= MOST_BAD * last.calls:
        return ""
    return f"of the last {last.calls} tool calls {last.failed} failed and {last.repeated} were repetitions"


def _told(reports: Sequence[Signals]) -> Outcome:
    """What the attempt has cost so far. Totals only grow, so the largest is the newest."""
    dollars = [signals.cost_usd for signals in reports if signals.cost_usd is not None]
    usage = [signals.usage for signals in reports if signals.usage is not None]
    return Outcome(cost_usd=max(dollars, default=None), usage=max(usage, key=lambda it: it.total) if usage else None)


def _overspent(settings: RouterSettings, session: Session, decision_id: str, outcome: Outcome) -> str:
    """By how much a session is above its cap, in words; empty where it is not, or what it has spent is unknown."""
    cap = settings.objective.session_cap_usd
    left = Escalated(decision_id=decision_id, reason=EscalationReason.STRUGGLING, outcome=outcome)
    after = apply(session, left)
    assert after is not None, "it has an attempt"
    if cap is None or after.dollars(len(after.attempts) - 1) is None or (spent := after.spending()) <= cap:
        return ""
    return f"the session has spent ${spent:.4g}, above its cap of ${cap:.4g}"
