"""What has happened since the server's start, counted where it is done: plain numbers, so that counting costs little.

Names are bounded: routers, arms, reasons, methods and codes, never sessions or what callers send.
"""

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable

from bandit.events import Decided, Escalated, Event, Progressed, Rewarded
from bandit.types import Decision

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper ends of the buckets of what takes time; what takes longer falls into one more."""


class Spans:
    """How long something took, each time."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(SECONDS) + 1)
        """How often it took up to each of `SECONDS` and no less than the one before; last, longer than all."""
        self.seconds = 0.0
        """All together."""

    def add(self, seconds: float) -> None:
        """It took so long."""
        self.buckets[bisect_left(SECONDS, seconds)] += 1
        self.seconds += seconds


class Counts:
    """Everything that is counted."""

    def __init__(self) -> None:
        self.decisions: Counter[tuple[str, str, str]] = Counter()
        """By router, arm and reason."""
        self.entropy: defaultdict[str, float] = defaultdict(float)
        """By router: the sum over decisions of the entropy of their lottery, in nats."""
        self.foretold_success: defaultdict[str, float] = defaultdict(float)
        """By router: the sum over decisions of what was foretold of the chosen arm's success."""
        self.foretold_usd: defaultdict[str, float] = defaultdict(float)
        """By router: the same of its dollars."""
        self.escalations: Counter[tuple[str, str, bool]] = Counter()
        """By router, reason, and whether nothing followed."""
        self.advice: Counter[tuple[str, str]] = Counter()
        """By router and action."""
        self.rewards: Counter[tuple[str, bool]] = Counter()
        """By router, and whether it was final."""
        self.success_told: Counter[str] = Counter()
        """By router: how many rewards told a success."""
        self.success: defaultdict[str, float] = defaultdict(float)
        """By router: the sum of what they told."""
        self.events = 0
        """Durable events of rounds."""
        self.rounds = Spans()
        """From a round's beginning until its events were durable."""
        self.failed_rounds = 0
        """Whose events may be lost."""
        self.calls: defaultdict[str, Spans] = defaultdict(Spans)
        """By method: from its message's being there until it is answered."""
        self.refused: Counter[tuple[str, str]] = Counter()
        """By method and gRPC code: calls that ended with an error."""

    def round(self, happened: Iterable[tuple[str, Event]], events: int, seconds: float) -> None:
        """A round's events are durable: so many, and those of requests that were decided here, by router."""
        self.rounds.add(seconds)
        self.events += events
        for router, event in happened:
            match event:
                case Decided(decision=decision):
                    self._decided(router, decision)
                case Escalated(reason=reason, next_decision_id=following):
                    self.escalations[router, reason.value, not following] += 1
                case Progressed(action=action):
                    self.advice[router, action.value] += 1
                case Rewarded(outcome=outcome, final=final):
                    self.rewards[router, final] += 1
                    if outcome.success is not None:
                        self.success_told[router] += 1
                        self.success[router] += outcome.success

    def _decided(self, router: str, decision: Decision) -> None:
        self.decisions[router, decision.arm, decision.reason.value] += 1
        for score in decision.scores:
            if score.propensity > 0.0:
                self.entropy[router] -= score.propensity * math.log(score.propensity)
            if score.arm == decision.arm:
                self.foretold_success[router] += score.success_mean or 0.0
                self.foretold_usd[router] += score.cost_usd or 0.0
