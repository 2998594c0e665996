"""A router's figures by time: sums of the sessions that began in each stretch of it, fine for now, coarse for long ago.

Nothing here reads a clock or the log; the keeper (`server.dashboard.keeper`) tells it what happened.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from bandit.session import Session
from bandit.tally import Packed, Shares, Sums

RECENT = 200
"""Decisions, and open sessions, that are listed."""
_SECOND_US = 1_000_000


class Range(NamedTuple):
    """A stretch of time up to now, in steps."""

    step_seconds: int
    steps: int | None
    """None: from the first session on."""


RANGES = {
    "minutes": Range(10, 60),
    "hour": Range(60, 60),
    "day": Range(900, 96),
    "month": Range(21_600, 120),
    "all": Range(86_400, None),
}
FINEST_SECONDS = min(span.step_seconds for span in RANGES.values())
"""Every step is a whole number of these."""


class Change(NamedTuple):
    """A session as it was (None: not there) and as it is."""

    began_us: int
    before: Session | None
    after: Session


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger as it is kept in a file."""

    arms: list[str]
    steps: dict[str, dict[int, Packed]]
    decisions: list[int]
    open_sessions: list[str]
    first_us: int | None


class Ledger:
    """One router's."""

    def __init__(self) -> None:
        self.shares = Shares()
        self.decisions: deque[int] = deque(maxlen=RECENT)
        """Sequence numbers of the latest, oldest first."""
        self.open_sessions: OrderedDict[str, None] = OrderedDict()
        """Those that something has happened to last, in that order."""
        self.first_us: int | None = None
        """When the first session began, UTC microseconds since 1970."""
        self._steps: dict[str, dict[int, Sums]] = {name: {} for name in RANGES}
        """By range and number of the step since 1970."""

    @property
    def arms(self) -> list[str]:
        """In the order in which they turned up; figures of arms are in this order."""
        return self.shares.arms

    def change(self, changes: Iterable[Change]) -> None:
        """Takes in what happened to sessions, each at most once."""
        fine: dict[int, Sums] = {}
        for began_us, before, after in changes:
            sums = fine.setdefault(began_us // (FINEST_SECONDS * _SECOND_US), Sums())
            if before is not None:
                sums.put(self.shares.of(before), -1)
            sums.put(self.shares.of(after))
            self._list(after)
            if self.first_us is None or began_us < self.first_us:
                self.first_us = began_us
        for number, sums in fine.items():
            for name, span in RANGES.items():
                self._steps[name].setdefault(number * FINEST_SECONDS // span.step_seconds, Sums()).add(sums)

    def _list(self, session: Session) -> None:
        self.open_sessions.pop(session.session_id, None)
        if not (session.final or session.exhausted):
            self.open_sessions[session.session_id] = None
            if len(self.open_sessions) > RECENT:
                self.open_sessions.popitem(last=False)

    def steps(self, name: str, now_us: int) -> dict[int, Sums]:
        """The steps of a range that have sessions: by when each begins, in seconds since 1970, in order."""
        span = RANGES[name]
        newest = now_us // (span.step_seconds * _SECOND_US)
        oldest = newest - span.steps if span.steps is not None else None
        return {
            number * span.step_seconds: sums
            for number, sums in sorted(self._steps[name].items())
            if oldest is None or oldest < number
        }

    def forget(self, now_us: int) -> None:
        """Drops steps that no range shows any more."""
        for name, span in RANGES.items():
            if span.steps is not None:
                oldest = now_us // (span.step_seconds * _SECOND_US) - span.steps
                self._steps[name] = {n: sums for n, sums in self._steps[name].items() if n > oldest}

    def state(self) -> State:
        """As plain values."""
        return State(
            arms=self.arms,
            steps={name: {n: sums.packed() for n, sums in steps.items()} for name, steps in self._steps.items()},
            decisions=list(self.decisions),
            open_sessions=list(self.open_sessions),
            first_us=self.first_us,
        )

    @classmethod
    def of(cls, state: State) -> "Ledger":
        """The inverse of `state`."""
        ledger = cls()
        ledger.shares = Shares(state.arms)
        ledger.decisions.extend(state.decisions)
        ledger.open_sessions.update(dict.fromkeys(state.open_sessions))
        ledger.first_us = state.first_us
        for name, steps in state.steps.items():
            ledger._steps[name] = {n: Sums.unpacked(packed) for n, packed in steps.items()}
        return ledger
