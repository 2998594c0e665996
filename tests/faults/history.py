"""What clients did and what they were answered, with the times between which each of it happened."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

NEVER = math.inf


class Select(NamedTuple):
    """Asked: which arm takes the session?"""

    pinned: str = ""


class Escalate(NamedTuple):
    """Asked: leave that attempt, for it failed."""

    decision: str
    cost: float | None


class Report(NamedTuple):
    """Asked: how does that attempt go?"""

    decision: str


class Reward(NamedTuple):
    """Told: an outcome, of an attempt or (no decision) of the session."""

    decision: str
    revision: int | None
    success: float | None
    cost: float | None
    final: bool


class Look(NamedTuple):
    """Asked: what is known of the session?"""


Asked: TypeAlias = Select | Escalate | Report | Reward | Look


class Chosen(NamedTuple):
    """Answered: an attempt."""

    decision: str
    arm: str
    attempt: int
    sticky: bool
    pinned: bool


class Exhausted(NamedTuple):
    """Answered: no further attempt."""


class Advised(NamedTuple):
    """Answered: advice."""


class Accepted(NamedTuple):
    """Answered: the outcome was taken, under a revision."""

    revision: int


class SeenAttempt(NamedTuple):
    """One attempt as it was told."""

    decision: str
    arm: str
    cost: float | None


class Seen(NamedTuple):
    """Answered: the session as it is. `success` is the last attempt's where it was not left."""

    attempts: tuple[SeenAttempt, ...]
    exhausted: bool
    final: bool
    success: float | None


class Refused(NamedTuple):
    """Answered with an error that says that nothing was done."""

    code: str


Answer: TypeAlias = Chosen | Exhausted | Advised | Accepted | Seen | Refused


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One call."""

    number: int
    session: str
    asked: Asked
    key: str = ""
    """Its request id; empty: it is never a repeat."""
    begun: float
    ended: float = NEVER
    answer: Answer | None = None
    """None: nobody knows whether it was carried out."""
    raw: bytes = b""
    """The answer as it came, to compare repeats by."""


class Inconsistent(Exception):
    """The history is none that the promises allow; the text says why."""


@dataclass
class History:
    """Operations as they end, from many clients."""

    operations: list[Operation] = field(default_factory=list)

    def by_session(self) -> dict[str, list[Operation]]:
        """The operations of each session, in the order of their beginning."""
        found = defaultdict(list)
        for operation in sorted(self.operations, key=lambda one: one.begun):
            found[operation.session].append(operation)
        return dict(found)


def merged(operations: Iterable[Operation]) -> list[Operation]:
    """Operations in which what was sent several times under one request id is one operation.

    It took effect once: between the first of the tries that may have done so and the first answer. What was refused was
    not, and stays for itself. Raises Inconsistent where equal requests were answered differently.
    """
    alone: list[Operation] = []
    tries: dict[tuple[type[Asked], str], list[Operation]] = defaultdict(list)
    for one in operations:
        if one.key and not isinstance(one.answer, Refused):
            tries[type(one.asked), one.key].append(one)
        else:
            alone.append(one)
    for (_, key), same in tries.items():
        answered = [one for one in same if one.answer is not None]
        asked = {one.asked for one in (answered or same)}
        if len(asked) > 1:
            raise Inconsistent(f"request id {key} was taken for different requests: {sorted(map(str, asked))}")
        if len({one.raw for one in answered}) > 1:
            raise Inconsistent(f"repeats of {key} were answered differently: {[one.answer for one in answered]}")
        first = min(answered or same, key=lambda one: one.ended)
        may_have = [one for one in same if one.asked == first.asked]
        alone.append(replace(first, begun=min(one.begun for one in may_have)))
    return alone
