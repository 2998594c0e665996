"""Is a running attempt getting anywhere? The plain rule, for as long as nothing better has been learned.

An attempt struggles where most of its last few tool calls failed or repeated an earlier one: more than half of at
least eight, which are about the last four turns of an agent that makes two calls a turn. Agents that get on see one
call in seven fail; that five or more of eight do by chance then happens in one window of four hundred. With fewer
calls chance would speak too often, with more a hopeless attempt would go on for longer than it need.
"""

from collections.abc import Sequence

from bandit import moves
from bandit.decision import Vintage
from bandit.events import Escalated, Progressed
from bandit.session import MOST_REPORTS, Session, apply, check_running
from bandit.types import EscalationReason, Offer, Outcome, ProgressAction, RouterSettings, Signals

FEWEST_CALLS = 8
"""Tool calls that the rule looks at, at least."""
MOST_BAD = 0.5
"""Share of them that may fail or be repetitions; a call that is both counts twice."""

_NOTHING_YET = Signals(turns=0, tool_calls=0, tool_errors=0, repeated_calls=0)


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

    An attempt that struggles is to be left for the arm that Escalate would name now, and the session to be stopped
    where Escalate would say that it is exhausted. It is to be stopped too where it has spent more than its cap.
    `offers` and `budget_price` are as for Escalate.
    Raises WrongOrder where the decision is stale, exhausted or final.
    """
    attempt = check_running(session, decision_id)
    reports = (*attempt.signals, signals)
    outcome = _told(reports)

    def advice(action: ProgressAction, arm: str, rule: str) -> Progressed:
        return Progressed(decision_id=decision_id, signals=signals, action=action, arm=arm, rule=rule)

    if overspent := _overspent(settings, session, decision_id, outcome):
        return advice(ProgressAction.STOP, "", overspent)
    if not (rule := struggles(reports, whole=len(attempt.signals) < MOST_REPORTS)):
        return advice(ProgressAction.CONTINUE, attempt.decision.arm, "")
    # What Escalate would answer now. Its draws are keyed, so this is no guess.
    events = moves.escalate(
        settings,
        vintage,
        session,
        decision_id=decision_id,
        reason=EscalationReason.STRUGGLING,
        offers=offers,
        next_decision_id="advised",
        outcome=outcome,
        budget_price=budget_price,
    )
    if len(events) == 2:
        return advice(ProgressAction.ESCALATE, events[1].decision.arm, rule)
    return advice(ProgressAction.STOP, "", rule)


def struggles(reports: Sequence[Signals], *, whole: bool) -> str:
    """What speaks against going on, in words; empty where nothing does.

    `reports` are one attempt's, `whole` says that they are all of them. They may have come in another order than they
    were made in: the one with the most tool calls is the newest. What a report does not tell is unknown.
    """
    known = [(signals.tool_calls, signals) for signals in reports if signals.tool_calls is not None]
    if whole:
        known.insert(0, (0, _NOTHING_YET))
    if not known:
        return ""
    made, newest = max(known, key=lambda it: it[0])
    before = [(calls, signals) for calls, signals in known if made - calls >= FEWEST_CALLS]
    if not before:
        return ""
    made_before, earlier = max(before, key=lambda it: it[0])
    calls = made - made_before
    failed = _more(earlier.tool_errors, newest.tool_errors)
    repeated = _more(earlier.repeated_calls, newest.repeated_calls)
    if failed + repeated <= MOST_BAD * calls:
        return ""
    return f"of the last {calls} tool calls {failed} failed and {repeated} were repetitions"


def _more(before: int | None, now: int | None) -> int:
    """How many came between two reports, as far as is known."""
    return max(0, now - before) if before is not None and now is not None else 0


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
