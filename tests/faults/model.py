"""A session as the protos promise it, written down a second time: short, slow, and without a line of the service.

`steps` gives what may come of an operation in a state: no state where the answer that was given is not allowed.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tests.faults.history import (
    Accepted,
    Advised,
    Answer,
    Chosen,
    Escalate,
    Exhausted,
    Look,
    Operation,
    Refused,
    Report,
    Reward,
    Seen,
    Select,
)

ARMS = ("a", "b", "c")
MOST_FAILURES = 3
"""Of attempts, before a session is exhausted. Attempts that were left for another reason do not count."""


class Attempt(NamedTuple):
    """One attempt. Where nobody was answered, its decision and arm are not known yet."""

    decision: str | None
    arm: str | None
    left: bool = False
    failed: bool = False
    """Whether it was left for that."""


class Told(NamedTuple):
    """A report of an outcome: of an attempt, or of the session (None)."""

    attempt: int | None
    revision: int
    success: float | None
    cost: float | None


class State(NamedTuple):
    """A session."""

    attempts: tuple[Attempt, ...] = ()
    exhausted: bool = False
    final: bool = False
    revision: int = 0
    told: tuple[Told, ...] = ()
    keys: frozenset[tuple[str, str]] = frozenset()
    """The requests that have been carried out, by method and request id."""

    @property
    def open(self) -> bool:
        """Whether there is a running attempt, or can be one."""
        return not self.exhausted and not self.final


def steps(state: State, operation: Operation) -> Iterator[State]:
    """The states that the operation may leave behind."""
    asked, answer = operation.asked, operation.answer
    key = (type(asked).__name__, operation.key)
    if operation.key and key in state.keys:
        # A repeat gets the stored answer, and what was sent as one is merged: nothing else is left but a conflict.
        if isinstance(answer, Refused) and answer.code == "ALREADY_EXISTS":
            yield state
        return
    for after in _steps(state, asked, answer):
        taken = operation.key and not isinstance(answer, Refused)
        yield after._replace(keys=after.keys | {key}) if taken else after


def _steps(state: State, asked: object, answer: Answer | None) -> Iterator[State]:
    match asked:
        case Select():
            yield from _select(state, asked, answer)
        case Escalate():
            yield from _escalate(state, asked, answer)
        case Report():
            yield from _report(state, asked, answer)
        case Reward():
            yield from _reward(state, asked, answer)
        case Look():
            yield from _look(state, answer)


def _select(state: State, asked: Select, answer: Answer | None) -> Iterator[State]:
    if not state.open:
        if answer is None or answer == Refused("FAILED_PRECONDITION"):
            yield state
        return
    last = state.attempts[-1] if state.attempts else None
    if last is not None and (not asked.pinned or last.arm in (None, asked.pinned)):
        yield from _sticky(state, answer, asked.pinned)
    if last is None or (asked.pinned and last.arm != asked.pinned):
        left = state._replace(attempts=_left(state.attempts))
        yield from _begun(left, answer, pinned=asked.pinned)


def _sticky(state: State, answer: Answer | None, pinned: str) -> Iterator[State]:
    if answer is None:
        yield state
    elif isinstance(answer, Chosen) and answer.sticky and answer.attempt == len(state.attempts):
        if pinned not in ("", answer.arm):
            return
        yield from _known(state, len(state.attempts) - 1, answer.decision, answer.arm)


def _begun(state: State, answer: Answer | None, pinned: str = "") -> Iterator[State]:
    number = len(state.attempts) + 1
    if answer is None:
        yield state._replace(attempts=(*state.attempts, Attempt(None, pinned or None)))
        return
    if not isinstance(answer, Chosen) or answer.sticky or answer.attempt != number:
        return
    if answer.pinned != bool(pinned) or (pinned and answer.arm != pinned):
        return
    if not pinned and answer.arm in [attempt.arm for attempt in state.attempts]:
        return
    if answer.decision not in [attempt.decision for attempt in state.attempts]:
        yield state._replace(attempts=(*state.attempts, Attempt(answer.decision, answer.arm)))


def _left(attempts: tuple[Attempt, ...], *, failed: bool = False) -> tuple[Attempt, ...]:
    return (*attempts[:-1], attempts[-1]._replace(left=True, failed=failed)) if attempts else ()


def _known(state: State, i: int, decision: str, arm: str) -> Iterator[State]:
    """The state in which attempt `i` is that one: nothing where it is another."""
    attempt = state.attempts[i]
    if attempt.decision not in (None, decision) or attempt.arm not in (None, arm):
        return
    if attempt.decision is None and decision in [other.decision for other in state.attempts]:
        return
    named = attempt._replace(decision=decision, arm=arm)
    yield state._replace(attempts=(*state.attempts[:i], named, *state.attempts[i + 1 :]))


def _running(state: State, decision: str) -> Iterator[State]:
    """The state if that decision is the running one. Its arm may not be known yet."""
    if state.open and state.attempts:
        last = len(state.attempts) - 1
        yield from _known(state, last, decision, state.attempts[last].arm)  # type: ignore[arg-type]


def _stale(state: State, decision: str, answer: Answer | None) -> Iterator[State]:
    """The state if the call is refused: for what it is about is over, or not there yet."""
    running = state.open and state.attempts and state.attempts[-1].decision
    if answer is None:
        if running != decision:
            yield state
    elif isinstance(answer, Refused):
        there = decision in [attempt.decision for attempt in state.attempts]
        unknown = any(attempt.decision is None for attempt in state.attempts)
        over = answer.code == "FAILED_PRECONDITION" and (there or unknown) and running != decision
        absent = answer.code == "NOT_FOUND" and not there
        if over or absent:
            yield state


def _escalate(state: State, asked: Escalate, answer: Answer | None) -> Iterator[State]:
    yield from _stale(state, asked.decision, answer)
    if isinstance(answer, Refused):
        return
    for before in _running(state, asked.decision):
        revision = before.revision + 1
        told = (*before.told, Told(len(before.attempts) - 1, revision, None, asked.cost))
        attempts = _left(before.attempts, failed=True)
        after = before._replace(attempts=attempts, revision=revision, told=told)
        must_end, may_end = _ends(attempts)
        if may_end and (answer is None or isinstance(answer, Exhausted)):
            yield after._replace(exhausted=True)
        if not must_end:
            yield from _begun(after, answer)


def _ends(attempts: tuple[Attempt, ...]) -> tuple[bool, bool]:
    """Whether the session is certainly exhausted after these, and whether it may be: some arms may not be known."""
    failures = sum(attempt.failed for attempt in attempts)
    tried = {attempt.arm for attempt in attempts}
    all_tried = tried >= set(ARMS)
    return failures >= MOST_FAILURES or all_tried, failures >= MOST_FAILURES or all_tried or None in tried


def _report(state: State, asked: Report, answer: Answer | None) -> Iterator[State]:
    yield from _stale(state, asked.decision, answer)
    if answer is None or isinstance(answer, Advised):
        yield from _running(state, asked.decision)


def _reward(state: State, asked: Reward, answer: Answer | None) -> Iterator[State]:
    if isinstance(answer, Refused):
        there = [attempt.decision for attempt in state.attempts]
        known = asked.decision in there if asked.decision else bool(there)
        if answer.code == "NOT_FOUND" and not known:
            yield state
        return
    for i, before in _addressed(state, asked.decision):
        revision = asked.revision if asked.revision is not None else before.revision + 1
        if answer is not None and answer != Accepted(revision):
            continue
        yield before._replace(
            revision=max(before.revision, revision),
            told=(*before.told, Told(i, revision, asked.success, asked.cost)),
            final=before.final or asked.final,
        )


def _addressed(state: State, decision: str) -> Iterator[tuple[int | None, State]]:
    """The attempt that a decision began, in each state in which it did; none and the state for the session itself."""
    if not decision:
        if state.attempts:
            yield None, state
        return
    for i, attempt in enumerate(state.attempts):
        if attempt.decision in (None, decision):
            for known in _known(state, i, decision, attempt.arm):  # type: ignore[arg-type]
                yield i, known


def _look(state: State, answer: Answer | None) -> Iterator[State]:
    if isinstance(answer, Refused):
        if answer.code == "NOT_FOUND" and not state.attempts:
            yield state
        return
    if answer is None:
        yield state
        return
    if not isinstance(answer, Seen) or len(answer.attempts) != len(state.attempts) or not state.attempts:
        return
    if (answer.exhausted, answer.final) != (state.exhausted, state.final):
        return
    states = [state]
    for i, seen in enumerate(answer.attempts):
        states = [known for before in states for known in _known(before, i, seen.decision, seen.arm)]
    last = len(state.attempts) - 1
    right = all(seen.cost == _outcome(state, i, "cost") for i, seen in enumerate(answer.attempts))
    if not state.attempts[last].left:
        right = right and answer.success == _outcome(state, last, "success")
    yield from states if right else ()


def _outcome(state: State, i: int, name: str) -> float | None:
    """A field of an attempt's outcome: the highest revision's that carries it, ties to the later one."""
    rank, value = _best(state, i, name)
    if i != len(state.attempts) - 1:
        return value
    whole_rank, whole = _best(state, None, name)
    if whole is None or whole_rank < rank:
        return value
    if name == "success":
        return whole
    others = [_best(state, other, "cost")[1] or 0.0 for other in range(len(state.attempts) - 1)]
    return max(0.0, whole - sum(others))


def _best(state: State, attempt: int | None, name: str) -> tuple[tuple[int, int], float | None]:
    told = [
        ((one.revision, place), getattr(one, name))
        for place, one in enumerate(state.told)
        if one.attempt == attempt and getattr(one, name) is not None
    ]
    return max(told, default=((-1, -1), None), key=lambda one: one[0])
