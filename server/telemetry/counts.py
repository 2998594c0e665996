"""What has happened since the server's start, counted where it is done: plain numbers, so that counting costs little.

Names are bounded: routers, arms, reasons, methods and codes, never sessions or what callers send.
"""

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from bandit.events import Decided, Escalated, Progressed, Rewarded
from bandit.session import OUTCOME_FIELDS, Session
from bandit.types import Decision
from server.rounds import Happening

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper ends of the buckets of what takes time; what takes longer falls into one more."""
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Likewise of how many there are at once."""

IN_TIME, LATE, CORRECTION = "in_time", "late", "correction"
"""How a reward came: as one that was waited for, after its session had been closed for want of it, or to change
something that had been told before."""


class Histogram:
    """How large something was, each time."""

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        """Upper ends of the buckets."""
        self.buckets = [0] * (len(bounds) + 1)
        """How often it was up to each of `bounds` and more than the one before; last, more than all."""
        self.total = 0.0
        """All together."""

    def add(self, size: float) -> None:
        """It was so large."""
        self.buckets[bisect_left(self.bounds, size)] += 1
        self.total += size


class Counts:
    """Everything that is counted."""

    def __init__(self) -> None:
        self.decisions: Counter[tuple[str, str, str]] = Counter()
        """By router, arm and reason."""
        self.entropy: defaultdict[str, float] = defaultdict(float)
        """By router: the sum over decisions of the entropy of their lottery, in nats."""
        self.escalations: Counter[tuple[str, str, bool]] = Counter()
        """By router, reason, and whether nothing followed."""
        self.advice: Counter[tuple[str, str]] = Counter()
        """By router and action."""
        self.rewards: Counter[tuple[str, str, bool]] = Counter()
        """By router, how they came, and whether they were final."""
        self.events = 0
        """Durable events of rounds."""
        self.rounds = Histogram()
        """Seconds from a round's beginning until its events were durable."""
        self.requests = Histogram(SIZES)
        """How many requests a round had."""
        self.commits = Histogram()
        """Seconds until the store had made a round's events durable."""
        self.failed_rounds = 0
        """Whose events may be lost."""
        self.calls: defaultdict[str, Histogram] = defaultdict(Histogram)
        """By method: seconds from its message's being there until it is answered."""
        self.refused: Counter[tuple[str, str]] = Counter()
        """By method and gRPC code: calls that ended with an error."""

    def round(self, happened: Iterable[Happening], *, requests: int, events: int, seconds: float) -> None:
        """A round's events are durable: so many, `happened` being those that were decided here."""
        self.rounds.add(seconds)
        self.requests.add(requests)
        self.events += events
        for router, event, before in happened:
            match event:
                case Decided(decision=decision):
                    self._decided(router, decision)
                case Escalated(reason=reason, next_decision_id=following):
                    self.escalations[router, reason.value, not following] += 1
                case Progressed(action=action):
                    self.advice[router, action.value] += 1
                case Rewarded(final=final) if before is not None:
                    self.rewards[router, _came(event, before), final] += 1

    def _decided(self, router: str, decision: Decision) -> None:
        self.decisions[router, decision.arm, decision.reason.value] += 1
        if decision.propensity < 1.0:
            self.entropy[router] -= sum(
                score.propensity * math.log(score.propensity) for score in decision.scores if score.propensity > 0.0
            )


def _came(event: Rewarded, before: Session) -> str:
    told = before.reported.ranks
    if event.decision_id and (i := before.index_of(event.decision_id)) is not None:
        told = before.attempts[i].reported.ranks
    if any(field in told for field in OUTCOME_FIELDS if getattr(event.outcome, field) is not None):
        return CORRECTION
    return LATE if before.closed else IN_TIME
