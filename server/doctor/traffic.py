"""What agents send, and what they leave out: by a router's recent events."""

from collections.abc import Iterable, Iterator

import msgspec

from bandit import record
from bandit.events import Decided, Rewarded
from bandit.session import Session, apply
from pointsman.v1 import admin_pb2, events_pb2
from server.doctor.finding import Finding, Severity
from server.words import percent

_ENOUGH = 20
"""Sessions before their habits say anything."""
_FEW = 0.5
_MANY_UNLEARNED = 500


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Counts over the sessions that began among the events looked at."""

    sessions: int
    older: int
    """The first half of them, whose rewards had the time to come."""
    older_told: int
    """Of these, those of which a success was told."""
    told: int
    """Of all sessions, those of which a success was told, …"""
    same: float | None
    """… and the one success that was told of all of them; None where there are several."""
    failed: int
    """Sessions whose first attempt was told to have failed."""
    priced: int
    """Sessions told of that have dollars or tokens."""
    escalated: int
    final: int
    decisions: int
    """Decisions whose features were not erased."""
    featured: int
    """Of these, those with features."""
    unlearned: int
    """Rewards after the last event that was learned from."""


def count(events: Iterable[events_pb2.Event], learned: int) -> Traffic:
    """Counts a router's events, in order, that may begin in mid-log; `learned` is the last one learned from.

    Raises ValueError where an event is none.
    """
    sessions: dict[str, Session] = {}
    decisions = featured = unlearned = 0
    final: set[str] = set()
    for stored in events:
        event, erased = record.decode(stored.kind, stored.body, stored.private)
        if isinstance(event, Decided) and not erased:
            decisions += 1
            featured += bool(event.decision.situation.features)
        if isinstance(event, Rewarded):
            unlearned += stored.sequence > learned
            if event.final:
                final.add(stored.session_id)
        before = sessions.get(stored.session_id)
        if before is None and not (isinstance(event, Decided) and event.decision.attempt == 1):
            continue
        after = apply(before, event)
        if after is not None:
            sessions[stored.session_id] = after
    begun = list(sessions.values())
    half = begun[: (len(begun) + 1) // 2]
    told = [session for session in begun if _success(session) is not None]
    values = {_success(session) for session in told}
    return Traffic(
        sessions=len(begun),
        older=len(half),
        older_told=sum(_success(session) is not None for session in half),
        told=len(told),
        same=values.pop() if len(values) == 1 else None,
        failed=sum(
            session.attempts[0].reported.outcome.success == 0.0
            or (len(session.attempts) == 1 and _success(session) == 0.0)
            for session in begun
        ),
        priced=sum(any(session.dollars(i) is not None for i in range(len(session.attempts))) for session in told),
        escalated=sum(attempt.left is not None for session in begun for attempt in session.attempts),
        final=len(final & sessions.keys()),
        decisions=decisions,
        featured=featured,
        unlearned=unlearned,
    )


def _success(session: Session) -> float | None:
    """What was told of the session's success, else of its latest attempt's; None where nothing was."""
    reports = [session.reported, *(attempt.reported for attempt in reversed(session.attempts))]
    return next((told for report in reports if (told := report.outcome.success) is not None), None)


def check(where: str, router: admin_pb2.Router, traffic: Traffic) -> Iterator[Finding]:
    """What is wrong with what agents send."""

    def finding(code: str, severity: Severity, found: str, remedy: str) -> Finding:
        return Finding(code=code, severity=severity, where=where, found=found, remedy=remedy)

    frozen = router.mode == admin_pb2.MODE_FROZEN
    if not frozen and traffic.unlearned > _MANY_UNLEARNED:
        yield finding(
            "epoch-still",
            Severity.ERROR,
            f"{traffic.unlearned:,} rewards came after event {router.learned_sequence:,}, the last that epoch "
            f"{router.epoch:,} has learned from",
            "look for what the server's log says of the fitter, and whether it gets any processor time",
        )
    if traffic.sessions < _ENOUGH:
        return
    if not traffic.told:
        yield finding(
            "no-rewards",
            Severity.ERROR,
            f"of the last {traffic.sessions:,} sessions not one was told how it went: nothing can be learned",
            "have agents call Reward with success and cost_usd when a session is over",
        )
    elif traffic.older_told < _FEW * traffic.older:
        yield finding(
            "few-rewards",
            Severity.WARNING,
            f"a success was told of {traffic.older_told:,} of {traffic.older:,} sessions "
            f"({percent(traffic.older_told / traffic.older)}) that are not the latest",
            "find who does not report; if only good news comes, what is learned is too good",
        )
    if traffic.told >= _ENOUGH and traffic.same is not None:
        yield finding(
            "success-always-same",
            Severity.WARNING,
            f"success was {traffic.same:g} in each of {traffic.told:,} sessions: nothing tells arms apart",
            "report failures as success 0, by a check that can fail (tests, a review), not by the agent's end",
        )
    if traffic.told >= _ENOUGH and not traffic.priced:
        yield finding(
            "no-costs",
            Severity.WARNING,
            f"of {traffic.told:,} sessions with a success, none has dollars or tokens with prices",
            "report cost_usd, or tokens and give the arms prices",
        )
    if traffic.decisions >= _ENOUGH and not traffic.featured:
        yield finding(
            "no-features",
            Severity.WARNING,
            f"none of the last {traffic.decisions:,} decisions has features: every session looks the same",
            "send what is known of the task with Select: its category, repository, size, title",
        )
    if traffic.failed >= _ENOUGH and not traffic.escalated and router.settings.max_attempts > 1:
        yield finding(
            "never-escalates",
            Severity.WARNING,
            f"{traffic.failed:,} sessions failed on their first arm, and none was escalated to another",
            "have agents call Escalate when a check fails, or set max_attempts = 1 if there is to be one attempt",
        )
    if not traffic.final and traffic.told:
        yield finding(
            "never-final",
            Severity.WARNING,
            f"none of {traffic.told:,} sessions with a success was said to be final: each stays open until "
            f"{router.settings.learning.reward_wait_seconds / 3600:,.1f} hours have passed",
            "set `final` in the last Reward of a session",
        )
