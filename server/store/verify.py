"""Is the log in a database what was acknowledged? The quick questions at opening, and the thorough ones."""

from collections.abc import Iterator

from server.store import schema
from server.store.chain import GENESIS, audit
from server.store.database import Database
from server.store.errors import StoreDamaged
from server.store.head import Head
from server.store.protocol import DECIDED, ERASED, Problem, Progress, StoredEvent
from server.store.rows import SCAN_EVENTS, scan, select

MAX_PROBLEMS = 100


def tip(database: Database) -> Head:
    """The last event's place in the log and in the chain."""
    rows = database.rows(schema.LAST_EVENT)
    return Head(rows[0][0], rows[0][1]) if rows else Head(0, GENESIS)


def check_head(database: Database, head: Head | None) -> Head:
    """The log's tip. Raises StoreDamaged where the log does not contain the durable head.

    `head` must have been read before the database: then whatever it names was committed.
    """
    last = tip(database)
    if head is None:
        if last.seq:
            raise StoreDamaged(None, "the head file is missing beside a log with events")
        return last
    if last.seq < head.seq:
        raise StoreDamaged(last.seq + 1, f"missing: the log ends at {last.seq}, {head.seq} was acknowledged")
    if head.seq:
        events = select(database, schema.EVENT, head.seq, doubt=head.seq)
        if not events or events[0].digest != head.digest:
            raise StoreDamaged(head.seq, "is not the event that was acknowledged")
    return last


def check_tail(database: Database, head: Head | None, events: int) -> None:
    """Verify the head, and the chain over the last events. Raises StoreDamaged."""
    last = check_head(database, head)
    after, previous = max(0, last.seq - events), GENESIS
    if after:
        before = select(database, schema.EVENT, after, doubt=after)
        if not before:
            raise StoreDamaged(after, "missing")
        previous = before[0].digest
    for problem in audit(scan(database, after, last.seq), after, previous):
        raise StoreDamaged(problem.seq, problem.what)


def problems(database: Database, head: Head | None, progress: Progress | None) -> list[Problem]:
    """Everything that is wrong up to the present end of the log, at most `MAX_PROBLEMS` of it."""
    found: list[Problem] = []
    try:
        upto = check_head(database, head).seq
        for problem in _search(database, upto, progress):
            found.append(problem)
            if len(found) == MAX_PROBLEMS:
                break
    except StoreDamaged as error:
        found.append(Problem(error.seq, error.what))
    return found


def _search(database: Database, upto: int, progress: Progress | None) -> Iterator[Problem]:
    expected = dict.fromkeys(schema.COUNTS, 0)
    emptied: dict[tuple[str, str], int] = {}
    """Sessions with an event whose private part is gone, and the last such event: its erasure must come later."""

    def counted() -> Iterator[StoredEvent]:
        for event in scan(database, 0, upto):
            expected["decisions"] += event.kind == DECIDED
            expected["requests"] += event.request_key != b""
            if event.kind == ERASED:
                emptied.pop((event.router, event.session_id), None)
            elif event.private_digest and not event.private:
                emptied[event.router, event.session_id] = event.seq
            if progress is not None and (event.seq % SCAN_EVENTS == 0 or event.seq == upto):
                progress(event.seq, upto)
            yield event

    yield from audit(counted(), 0, GENESIS)
    for seq in sorted(emptied.values()):
        yield Problem(seq, "its private part is missing, and no erasure is logged")
    for after in range(0, upto, SCAN_EVENTS):
        for what, statement in schema.UNINDEXED:
            for (seq,) in database.rows(statement, after, min(upto, after + SCAN_EVENTS), doubt=after + 1):
                yield Problem(seq, what)
    for table, statement in schema.COUNTS.items():
        count = database.rows(statement, upto)[0][0]
        if count != expected[table]:
            yield Problem(None, f"the table of {table} has {count} rows for {expected[table]} events")
    # Compares the index of sessions with the events, and looks where none of the queries above does.
    for (line,) in database.rows(f"PRAGMA integrity_check({MAX_PROBLEMS})"):
        if line != "ok":
            yield Problem(None, f"database: {line}")
