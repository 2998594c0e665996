"""A canary's trial, as a fold over the log: the sessions that its lottery was held for become evidence.

A session counts where its first decision took part in the lottery, whatever arm took it afterwards (intention to
treat). They count in the order in which they began: one whose outcome is late holds up those behind it, so that how
soon a session tells cannot decide whether it is counted.
"""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from bandit.configuration import Configuration
from bandit.decision import Vintage
from bandit.events import Closed, Decided, Event, PolicyPut, Rewarded
from bandit.evidence import Evidence, Figures, Verdict
from bandit.sampling import draw_canary
from bandit.session import Session
from bandit.types import Assignment, Decision, PolicyStage, RouterSettings, SelectReason


class Candidate(NamedTuple):
    """A policy that may decide: under these settings, from this state."""

    settings: RouterSettings
    vintage: Vintage


class Deciding(NamedTuple):
    """Which policy decides, and by what lottery it came to; None where there was none."""

    settings: RouterSettings
    vintage: Vintage
    assignment: Assignment | None


def deciding(
    live: Candidate, canary: Candidate | None, share: float, *, session: Session | None, session_id: str
) -> Deciding:
    """Who decides the next attempt of a session: what a running canary was given with its first attempt stays its own.

    `session` is None where it is new; `share` is the canary's.
    """
    if canary is None:
        return Deciding(*live, None)
    version = canary.vintage.policy_version
    if session is None or not session.attempts:
        assignment = Assignment(canary=version, share=share)
        drawn = draw_canary(share, seed=live.settings.seed, session_id=session_id, policy_version=version)
        return Deciding(*(canary if drawn else live), assignment)
    first = session.attempts[0].decision
    if first.assignment is None or first.assignment.canary != version:
        return Deciding(*live, None)
    return Deciding(*(canary if first.policy_version == version else live), first.assignment)


class _Entry(msgspec.Struct):
    by_canary: bool
    foretold: Figures
    outcome: Figures | None = None


class Trial:
    """The trial of a router's canary, from the event that started it on. Feed it every later event of the router."""

    def __init__(self, configuration: Configuration) -> None:
        """`configuration` is the router's as of the canary's start."""
        settings, record = configuration.settings, configuration.canary
        assert settings is not None and record is not None and record.canary is not None, "a canary has been started"
        self.version = record.version
        self.over = False
        """Whether the canary has ended."""
        self.evidence = Evidence(
            gate=record.canary.gate, share=record.canary.share, value_usd=settings.objective.value_usd
        )
        self._live = settings.policy_version
        self._hold = record.canary.hold
        self._waiting: dict[str, _Entry] = {}
        """In the order in which they began: from the first session that has not ended on."""
        self._concluded: Verdict | None = None

    @property
    def waiting(self) -> int:
        """Sessions that do not count yet: their own outcome, or that of one before them, is still to come."""
        return len(self._waiting)

    @property
    def verdict(self) -> Verdict:
        """What the evidence says. The first conclusion that is acted upon stands."""
        return self._concluded or self.evidence.verdict()

    @property
    def to_act(self) -> bool:
        """Whether the verdict is to be carried out, without an operator."""
        return self._concluded is not None and not self.over

    def feed(self, event: Event, session_id: str, session: Callable[[], Session | None]) -> None:
        """Takes in the router's next event. `session` gives its session as after it; it is seldom asked."""
        match event:
            case PolicyPut(policy=policy) if policy.version == self.version:
                self.over |= policy.stage is not PolicyStage.CANARY
            case Decided(decision=decision):
                self._begin(event, decision)
            case Rewarded(final=True) | Closed() if session_id in self._waiting:
                ended = session()
                if ended is not None:
                    self._end(ended)

    def _begin(self, event: Decided, decision: Decision) -> None:
        assignment = decision.assignment
        if decision.attempt > 1 or assignment is None or assignment.canary != self.version:
            return
        if decision.reason is not SelectReason.PINNED:
            by_canary = decision.policy_version == self.version
            self._waiting[decision.session_id] = _Entry(by_canary, _foretold(event, self._live))

    def _end(self, session: Session) -> None:
        entry = self._waiting[session.session_id]
        if entry.outcome is None:
            entry.outcome = outcome(session)
        while self._waiting:
            first = next(iter(self._waiting))
            if (became := self._waiting[first].outcome) is None:
                return
            self._count(self._waiting.pop(first), became)

    def _count(self, entry: _Entry, became: Figures) -> None:
        if self._concluded is not None:
            return
        self.evidence = self.evidence.add(entry.by_canary, entry.foretold, became)
        verdict = self.evidence.verdict()
        if verdict.conclusion == "roll_back" or (verdict.conclusion == "promote" and not self._hold):
            self._concluded = verdict


def outcome(session: Session) -> Figures:
    """What became of a session: the last attempt's success, and the dollars of all whose cost is known."""
    last = len(session.attempts) - 1
    success, left = session.outcome(last).success, session.attempts[last].left
    if success is None and left is not None and left.is_alarm:
        success = 0.0
    costs = [cost for i in range(last + 1) if (cost := session.dollars(i)) is not None]
    return Figures(success=success, cost_usd=sum(costs) if costs else None)


def _foretold(event: Decided, live: str) -> Figures:
    """What the live policy predicted of a session at its first decision, whether it decided or was asked beside."""
    decision = event.decision
    if decision.policy_version != live:
        shadow = next((shadow for shadow in event.shadows if shadow.policy_version == live), None)
        return Figures(success=shadow.success_mean, cost_usd=shadow.cost_usd) if shadow is not None else Figures()
    success = cost_usd = 0.0
    for score in decision.scores:
        if score.propensity > 0.0:
            if score.success_mean is None or score.cost_usd is None:
                return Figures()
            success += score.propensity * score.success_mean
            cost_usd += score.propensity * score.cost_usd
    return Figures(success=success, cost_usd=cost_usd)
