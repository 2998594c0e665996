"""The state machine of one session, as a fold over its events.

The engine, the learner and anybody who reads the log rebuild a session with the same `apply`, so they cannot
disagree about which attempt is running or which revision of an outcome counts.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from bandit.errors import NoEligibleArm, WrongOrder
from bandit.events import Closed, Decided, Erased, Escalated, Event, Progressed, Rewarded, Stuck
from bandit.signs import Mark, mark
from bandit.types import (
    NO_REQUIREMENTS,
    Bar,
    BarKind,
    Decision,
    EscalationReason,
    Features,
    Offer,
    Outcome,
    ProgressAction,
    Requirements,
    SelectReason,
    Signals,
    Usage,
)

MOST_REPORTS = 8
"""On its progress, kept of an attempt."""

OUTCOME_FIELDS = ("success", "cost_usd", "usage", "latency_seconds", "served_arm")


Rank: TypeAlias = tuple[int, int]
"""A report's revision and its place among the session's events: the higher of two ranks is the one that counts."""


class Revised(msgspec.Struct, frozen=True):
    """An outcome merged from revisions, and for each field the rank of the report it came from."""

    outcome: Outcome = Outcome()
    ranks: dict[str, Rank] = {}

    def merge(self, news: Outcome, rank: Rank) -> "Revised":
        """Per field the highest revision that carries it wins; ties go to the later one."""
        won = {
            field: value
            for field in OUTCOME_FIELDS
            if (value := getattr(news, field)) is not None and rank >= self.ranks.get(field, rank)
        }
        if not won:
            return self
        return Revised(msgspec.structs.replace(self.outcome, **won), {**self.ranks, **dict.fromkeys(won, rank)})


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt: its decision, why it was left (None while it runs or where it ended the session), its outcome."""

    decision: Decision
    left: EscalationReason | None = None
    reported: Revised = Revised()
    endpoint: str = ""
    """Where the agent was last told to reach the arm."""
    signals: tuple[Signals, ...] = ()
    """What was last reported of its progress, oldest first; at most MOST_REPORTS."""
    marks: tuple[Mark, ...] = ()
    """What the first report at each age said of it, youngest first."""
    latest: Mark | None = None
    """What its latest report did, …"""
    advised: ProgressAction = ProgressAction.CONTINUE
    """… and what that was answered with."""

    @property
    def unseen_end(self) -> bool:
        """Whether it ended as a report's answer had advised, so that nobody knows how it would have gone on."""
        if self.advised is ProgressAction.CONTINUE:
            return False
        return self.left is EscalationReason.STRUGGLING or (self.left is None and self.advised is ProgressAction.STOP)


class AttemptRow(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt teaches. A learner reads nothing else.

    `success` is the truth where it was told. Without it an `alarm` says that the attempt was thought failed, and a
    `quiet` end that it was thought good.
    """

    decision: Decision
    arm: str
    """The arm that served (the decided one unless it was overridden)."""
    alarm: bool
    quiet: bool = False
    """It ended the session and no alarm was raised."""
    success: float | None
    cost_usd: float | None
    usage: Usage | None
    latency_seconds: float | None = None
    marks: tuple[Mark, ...] = ()
    """Where it has ended: what its reports said of it, the first at each age, …"""
    latest: Mark | None = None
    """… and the latest, …"""
    unseen_end: bool = False
    """… and whether it was then left because that was advised, so that its marks' truth is not known."""

    @property
    def teaches(self) -> bool:
        """Whether there is anything to learn from it yet; its seconds alone do not count, they come with the rest."""
        return (
            self.alarm or self.quiet or self.success is not None or self.cost_usd is not None or self.usage is not None
        )


class Bill(NamedTuple):
    """Dollars of a session's attempts."""

    told_usd: float
    """What those cost of which it is known, …"""
    foretold_usd: float
    """… and what their decisions had expected."""
    open_usd: float
    """What the decisions of the others expect."""


class SessionChange(msgspec.Struct, frozen=True, kw_only=True):
    """A session's rows before and after a block of events; `before` is empty where it had taught nothing yet."""

    session_id: str
    before: tuple[AttemptRow, ...]
    after: tuple[AttemptRow, ...]


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of agent work. The last attempt runs unless it was left, exhausted or made final."""

    session_id: str
    features: Features = {}
    attempts: tuple[Attempt, ...] = ()
    reported: Revised = Revised()
    """What was reported for the session as a whole: success is the last attempt's, cost and usage are totals."""
    revision: int = 0
    """The highest revision so far."""
    reports: int = 0
    """Outcomes reported so far, by Escalate and Reward."""
    exhausted: bool = False
    final: bool = False
    closed: bool = False
    """It is final because no reward came in time."""
    assumed_success: float | None = None
    """Where it is closed: the success taken for its last attempt if none was told."""
    requirements: Requirements = NO_REQUIREMENTS
    """What its latest request demanded."""

    @property
    def running(self) -> Attempt | None:
        """The attempt that a sticky Select returns, or None."""
        if self.exhausted or self.final or not self.attempts or self.attempts[-1].left is not None:
            return None
        return self.attempts[-1]

    def with_attempt(self, i: int, attempt: Attempt) -> "Session":
        """The session with attempt `i` replaced."""
        return msgspec.structs.replace(self, attempts=(*self.attempts[:i], attempt, *self.attempts[i + 1 :]))

    def index_of(self, decision_id: str) -> int | None:
        """Position of the attempt that the decision began, or None."""
        for i in range(len(self.attempts) - 1, -1, -1):
            if self.attempts[i].decision.decision_id == decision_id:
                return i
        return None

    def outcome(self, i: int) -> Outcome:
        """The outcome of attempt `i`, the session's own report shared out.

        The session's success is the last attempt's, and its cost and usage less those of the other attempts are
        the last attempt's, never below 0.
        """
        told = self._told(i)
        if self.assumed_success is not None and told.success is None and i == len(self.attempts) - 1:
            return msgspec.structs.replace(told, success=self.assumed_success)
        return told

    def _told(self, i: int) -> Outcome:
        own, whole = self.attempts[i].reported, self.reported
        if i != len(self.attempts) - 1 or not whole.ranks:
            return own.outcome
        taken: dict[str, object] = {
            field: getattr(whole.outcome, field)
            for field, rank in whole.ranks.items()
            if rank >= own.ranks.get(field, rank)
        }
        others = [attempt.reported.outcome for attempt in self.attempts[:-1]]
        if "cost_usd" in taken and whole.outcome.cost_usd is not None:
            taken["cost_usd"] = max(0.0, whole.outcome.cost_usd - sum(o.cost_usd or 0.0 for o in others))
        if "usage" in taken and whole.outcome.usage is not None:
            taken["usage"] = _less(whole.outcome.usage, [o.usage for o in others if o.usage is not None])
        return msgspec.structs.replace(own.outcome, **taken)

    def rows(self) -> tuple[AttemptRow, ...]:
        """What the session's attempts teach, in order; attempts that teach nothing yet are left out.

        Leaving for another reason than an alarm censors the attempt's success and keeps its cost.
        """
        rows = []
        for i, attempt in enumerate(self.attempts):
            outcome = self.outcome(i)
            censored = attempt.left is not None and not attempt.left.is_alarm
            row = AttemptRow(
                decision=attempt.decision,
                arm=outcome.served_arm or attempt.decision.arm,
                alarm=attempt.left is not None and attempt.left.is_alarm,
                quiet=attempt.left is None and self.final and not self.closed,
                success=None if censored else outcome.success,
                cost_usd=outcome.cost_usd,
                usage=outcome.usage,
                latency_seconds=outcome.latency_seconds,
            )
            if attempt.left is not None or self.final:
                row = msgspec.structs.replace(
                    row, marks=attempt.marks, latest=attempt.latest, unseen_end=attempt.unseen_end
                )
            if row.teaches:
                rows.append(row)
        return tuple(rows)

    def dollars(self, i: int) -> float | None:
        """What attempt `i` cost: as told, or from its tokens at the prices of its decision; None where unknown."""
        outcome = self.outcome(i)
        if outcome.cost_usd is not None or outcome.usage is None:
            return outcome.cost_usd
        decision = self.attempts[i].decision
        arm = outcome.served_arm or decision.arm
        price = next((offer.price for offer in decision.situation.offers if offer.arm == arm), None)
        return price.dollars(outcome.usage) if price is not None else None

    def spending(self) -> float:
        """Dollars of all attempts: what each cost where that is known, else what its decision expected of it."""
        bill = self.bill()
        return bill.told_usd + bill.open_usd

    def bill(self) -> "Bill":
        """What is known of the session's dollars, and what is expected."""
        told_usd = foretold_usd = open_usd = 0.0
        for i, attempt in enumerate(self.attempts):
            decision, known = attempt.decision, self.dollars(i)
            expected = next((score.cost_usd for score in decision.scores if score.arm == decision.arm), None) or 0.0
            if known is None:
                open_usd += expected
            else:
                told_usd += known
                foretold_usd += expected
        return Bill(told_usd, foretold_usd, open_usd)

    def alarmed(self) -> tuple[str, ...]:
        """Arms whose attempts here were left with an alarm, oldest first."""
        return tuple(a.decision.arm for a in self.attempts if a.left is not None and a.left.is_alarm)


def _less(whole: Usage, parts: Sequence[Usage]) -> Usage:
    return Usage(
        input_tokens=max(0.0, whole.input_tokens - sum(p.input_tokens for p in parts)),
        output_tokens=max(0.0, whole.output_tokens - sum(p.output_tokens for p in parts)),
        cached_tokens=max(0.0, whole.cached_tokens - sum(p.cached_tokens for p in parts)),
    )


def apply(session: Session | None, event: Event) -> Session | None:
    """The session after one of its events, in sequence order; None where it still has no attempt.

    Events that concern no session, or none that is there, change nothing.
    """
    match event:
        case Decided(decision=decision, left=left):
            session = session or Session(session_id=decision.session_id)
            attempts = session.attempts
            if left is not None and attempts:
                attempts = (*attempts[:-1], msgspec.structs.replace(attempts[-1], left=left))
            return msgspec.structs.replace(
                session,
                features=decision.situation.features,
                attempts=(*attempts, Attempt(decision=decision, endpoint=event.endpoint)),
                requirements=decision.situation.requirements,
            )
        case Stuck() if session is not None and (i := session.index_of(event.decision_id)) is not None:
            session = session.with_attempt(i, msgspec.structs.replace(session.attempts[i], endpoint=event.endpoint))
            if event.requirements is None:
                return session
            return msgspec.structs.replace(session, requirements=event.requirements)
        case Progressed() if session is not None and (i := session.index_of(event.decision_id)) is not None:
            return session.with_attempt(i, _reported(session.attempts[i], event))
        case Escalated() if session is not None and (i := session.index_of(event.decision_id)) is not None:
            rank = session.revision + 1, session.reports
            attempt = session.attempts[i]
            ended = msgspec.structs.replace(
                attempt, left=event.reason, reported=attempt.reported.merge(event.outcome, rank)
            )
            return msgspec.structs.replace(
                session.with_attempt(i, ended),
                features={**session.features, **event.features},
                revision=rank[0],
                reports=session.reports + 1,
                exhausted=not event.next_decision_id,
            )
        case Rewarded() if session is not None:
            rank = event.revision, session.reports
            session = msgspec.structs.replace(
                session,
                revision=max(session.revision, event.revision),
                reports=session.reports + 1,
                final=session.final or event.final,
            )
            if event.final:
                session = msgspec.structs.replace(session, closed=False, assumed_success=None)
            if not event.decision_id:
                return msgspec.structs.replace(session, reported=session.reported.merge(event.outcome, rank))
            i = session.index_of(event.decision_id)
            if i is None:
                return session
            attempt = session.attempts[i]
            told = msgspec.structs.replace(attempt, reported=attempt.reported.merge(event.outcome, rank))
            return session.with_attempt(i, told)
        case Closed() if session is not None and not session.final:
            return msgspec.structs.replace(session, final=True, closed=True, assumed_success=event.success)
        case Erased() if session is not None:
            # As the log will give it from now on, so that whoever has it at hand and whoever reads it anew agree.
            attempts = tuple(_without_features(attempt) for attempt in session.attempts)
            return msgspec.structs.replace(session, features={}, attempts=attempts)
    return session


def reports_with(attempt: Attempt, news: Signals) -> tuple[tuple[Signals, ...], bool]:
    """The reports on an attempt that are kept, with the newest to come, and whether these are all there were."""
    return (*attempt.signals, news), len(attempt.signals) < MOST_REPORTS


def _reported(attempt: Attempt, event: Progressed) -> Attempt:
    reports, whole = reports_with(attempt, event.signals)
    latest = mark(attempt.decision, reports, whole=whole)
    oldest = attempt.marks[-1].stratum if attempt.marks else -1
    return msgspec.structs.replace(
        attempt,
        signals=(*attempt.signals, event.signals)[-MOST_REPORTS:],
        # The first at each age, whatever came after it: which reports teach must not depend on how the attempt ended.
        marks=(*attempt.marks, latest) if latest.stratum > oldest else attempt.marks,
        latest=latest,
        advised=event.action,
    )


def _without_features(attempt: Attempt) -> Attempt:
    situation = msgspec.structs.replace(attempt.decision.situation, features={})
    return msgspec.structs.replace(attempt, decision=msgspec.structs.replace(attempt.decision, situation=situation))


REROUTED: Mapping[BarKind, tuple[EscalationReason, SelectReason]] = {
    BarKind.RETIRED: (EscalationReason.UNAVAILABLE, SelectReason.REROUTED_UNAVAILABLE),
    BarKind.UNAVAILABLE: (EscalationReason.UNAVAILABLE, SelectReason.REROUTED_UNAVAILABLE),
    BarKind.CAPABILITY: (EscalationReason.CAPABILITY, SelectReason.REROUTED_CAPABILITY),
    BarKind.POLICY: (EscalationReason.POLICY, SelectReason.REROUTED_POLICY),
}
"""What rules the running arm out -> why its attempt is left, and why the next arm was selected."""

ESCALATED: Mapping[EscalationReason, SelectReason] = {
    EscalationReason.VERIFIED_FAILURE: SelectReason.ESCALATED,
    EscalationReason.STRUGGLING: SelectReason.ESCALATED,
    EscalationReason.USER_REQUEST: SelectReason.ESCALATED,
    EscalationReason.CAPABILITY: SelectReason.REROUTED_CAPABILITY,
    EscalationReason.UNAVAILABLE: SelectReason.REROUTED_UNAVAILABLE,
    EscalationReason.POLICY: SelectReason.REROUTED_POLICY,
}
"""Why an attempt was left by Escalate -> why the next arm was selected."""


class Begin(msgspec.Struct, frozen=True, kw_only=True):
    """A Select has to begin an attempt: why, and why the running one (if any) is left."""

    reason: SelectReason
    left: EscalationReason | None = None


def on_select(session: Session | None, offers: Sequence[Offer], pinned_arm: str = "") -> Begin | Decision:
    """What a Select means for the session: its running decision (sticky), or the beginning of an attempt.

    `offers` are the arms under the request's rules alone: the session's own history is not yet applied to them.
    A session leaves its arm only where that arm has become ineligible or another one is pinned.
    Raises WrongOrder on an exhausted or final session.
    """
    if session is None or not session.attempts:
        return Begin(reason=SelectReason.PINNED if pinned_arm else SelectReason.SAMPLED)
    _require_open(session)
    running = session.attempts[-1].decision
    if pinned_arm:
        if pinned_arm == running.arm:
            return running
        return Begin(reason=SelectReason.PINNED, left=EscalationReason.USER_REQUEST)
    bar = next((offer.bar for offer in offers if offer.arm == running.arm), None)
    if bar is None or (running.reason is SelectReason.PINNED and bar.kind is BarKind.POLICY):
        return running
    left, reason = REROUTED[bar.kind]
    return Begin(reason=reason, left=left)


def check_running(session: Session, decision_id: str) -> Attempt:
    """The running attempt, which `decision_id` must name. Raises WrongOrder where it is stale, exhausted or final."""
    _require_open(session)
    running = session.attempts[-1]
    if running.decision.decision_id != decision_id:
        raise WrongOrder(
            f"decision {decision_id} is stale: the session is at attempt {running.decision.attempt}, "
            f"decision {running.decision.decision_id}"
        )
    return running


def _require_open(session: Session) -> None:
    if session.closed:
        raise WrongOrder("the session is closed: no reward came in time")
    if session.final:
        raise WrongOrder("the session is final")
    if session.exhausted:
        raise WrongOrder("the session is exhausted: no further attempt was worth its price")


def without_tried(session: Session | None, offers: tuple[Offer, ...]) -> tuple[Offer, ...]:
    """The offers with every arm ruled out that the session has already left."""
    if session is None:
        return offers
    tried = {attempt.decision.arm for attempt in session.attempts}
    return tuple(
        msgspec.structs.replace(offer, bar=Bar(BarKind.TRIED, "already tried in this session"))
        if offer.arm in tried and offer.bar is None
        else offer
        for offer in offers
    )


def require_eligible(offers: Sequence[Offer]) -> None:
    """Raises NoEligibleArm saying why for each, where no offer is eligible."""
    if all(offer.bar is not None for offer in offers):
        raise NoEligibleArm({offer.arm: offer.bar.why for offer in offers if offer.bar is not None})
