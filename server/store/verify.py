"""Is a log what was acknowledged? The quick questions at opening, and the thorough ones."""

from collections.abc import Iterator
from typing import Protocol

from server.store.chain import GENESIS, audit
from server.store.errors import StoreDamaged
from server.store.head import Head
from server.store.protocol import DECIDED, ERASED, Problem, Progress, StoredEvent
from server.store.rows import MOST_FOUND, SCAN_EVENTS


class Log(Protocol):
    """The events of a store."""

    def tip(self) -> Head:
        """The last event's place in the log and in the chain."""
        ...

    def event(self, seq: int) -> StoredEvent | None:
        """The event at `seq`."""
        ...

    def scan(self, after: int, upto: int) -> Iterator[StoredEvent]:
        """Events with after < seq <= upto."""
        ...

    def astray(self, upto: int, decisions: int, requests: int) -> Iterator[Problem]:
        """What is wrong with the ways that lead to the events up to `upto`, of which so many introduce a decision and
        so many carry a request key; and what the database knows of damage to itself."""
        ...


def check_head(log: Log, head: Head | None) -> Head:
    """The log's tip. Raises StoreDamaged where the log does not contain the durable head.

    `head` must have been read before the database: then whatever it names was committed.
    """
    last = log.tip()
    if head is None:
        if last.seq:
            raise StoreDamaged(None, "the head file is missing beside a log with events")
        return last
    if last.seq < head.seq:
        raise StoreDamaged(last.seq + 1, f"missing: the log ends at {last.seq}, {head.seq} was acknowledged")
    if head.seq:
        event = log.event(head.seq)
        if event is None or event.digest != head.digest:
            raise StoreDamaged(head.seq, "is not the event that was acknowledged")
    return last


def check_tail(log: Log, head: Head | None, events: int) -> None:
    """Verify the head, and the chain over the last events. Raises StoreDamaged."""
    last = check_head(log, head)
    after, previous = max(0, last.seq - events), GENESIS
    if after:
        before = log.event(after)
        if before is None:
            raise StoreDamaged(after, "missing")
        previous = before.digest
    for problem in audit(log.scan(after, last.seq), after, previous):
        raise StoreDamaged(problem.seq, problem.what)


def problems(log: Log, head: Head | None, progress: Progress | None) -> list[Problem]:
    """Everything that is wrong up to the present end of the log, at most `MOST_FOUND` of it."""
    found: list[Problem] = []
    try:
        upto = check_head(log, head).seq
        for problem in _search(log, upto, progress):
            found.append(problem)
            if len(found) == MOST_FOUND:
                break
    except StoreDamaged as error:
        found.append(Problem(error.seq, error.what))
    return found


def _search(log: Log, upto: int, progress: Progress | None) -> Iterator[Problem]:
    decisions = requests = 0
    emptied: dict[tuple[str, str], int] = {}
    """Sessions with an event whose private part is gone, and the last such event: its erasure must come later."""

    def counted() -> Iterator[StoredEvent]:
        nonlocal decisions, requests
        for event in log.scan(0, upto):
            decisions += event.kind == DECIDED
            requests += event.request_key != b""
            if event.kind == ERASED:
                emptied.pop((event.router, event.session_id), None)
            elif event.private_digest and not event.private:
                emptied[event.router, event.session_id] = event.seq
            if progress is not None and (event.seq % SCAN_EVENTS == 0 or event.seq == upto):
                progress(event.seq, upto)
            yield event

    yield from audit(counted(), 0, GENESIS)
    # Sessions may have been erased since this began.
    for event in log.scan(upto, log.tip().seq) if emptied else ():
        if event.kind == ERASED:
            emptied.pop((event.router, event.session_id), None)
    for seq in sorted(emptied.values()):
        yield Problem(seq, "its private part is missing, and no erasure is logged")
    yield from log.astray(upto, decisions, requests)
