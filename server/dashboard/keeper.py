"""The process that keeps the books, `python -m server.dashboard.keeper …`: it reads the log and answers questions.

A line of JSON on its standard input is a question, and a line on its standard output the answer to it. Between
questions it reads on, at a low priority, so that what it does is not felt where decisions are made; now and then
it writes down where it is. It ends with its input.
"""

import logging
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from bandit import agreement, record
from bandit.events import Decided
from bandit.session import Session
from bandit.tally import foretold_of
from server import child, explain
from server.dashboard import figures
from server.dashboard.books import Books
from server.dashboard.figures import Json
from server.dashboard.ledger import RECENT
from server.store.errors import StoreError
from server.store.place import of_child
from server.store.protocol import StoredEvent
from server.telemetry import logs

_log = logging.getLogger(__name__)

FOLDER = "dashboard"
_FILE = "books"
_NICE = 10
_POLL_SECONDS = 0.5
_SAVE_SECONDS = 60.0
_SHADOW_EVENTS = 4_000
"""How many of the last events shadows are compared over, …"""
_SHADOW_SECONDS = 30.0
"""… and how long that stands."""
_PAGE = 500


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a router."""

    number: int
    what: str
    """`overview`, `standing`, `decisions`, `open` or `shadows`."""
    router: str = ""
    range: str = ""
    arms: tuple[str, ...] = ()
    """With overview: those that can be used."""
    baseline: str | None = None
    """With overview: the router's."""
    most: int = RECENT
    """With decisions: how many."""


class Keeper:
    """Answers from the books."""

    def __init__(self, reader: Any, books: Books, clock: Callable[[], float] = time.time) -> None:
        self._reader = reader
        self._books = books
        self._clock = clock
        self._shadows: dict[str, tuple[float, list[Json]]] = {}

    def answer(self, question: Question) -> Json:
        """Raises StoreError where the log cannot be read."""
        ledger = self._books.ledger(question.router) if question.router else None
        match question.what:
            case "overview" if ledger is not None:
                now_us = int(self._clock() * 1e6)
                found = figures.overview(ledger, question.range, now_us, arms=question.arms, baseline=question.baseline)
            case "standing" if ledger is not None:
                found = figures.standing(ledger)
            case "decisions" if ledger is not None:
                rows = (
                    self._decision(question.router, seq) for seq in list(ledger.decisions)[: -question.most - 1 : -1]
                )
                found = {"decisions": [row for row in rows if row is not None]}
            case "open" if ledger is not None:
                found = {"sessions": list(self._open(question.router, list(reversed(ledger.open_sessions))))}
            case "shadows" if ledger is not None:
                found = {"shadows": self._compared(question.router)}
            case _:
                raise ValueError(f"there is no answer to {question.what!r} of {question.router!r}")
        return {**found, "read": self._books.seq}

    def _decision(self, router: str, seq: int) -> Json | None:
        stored = self._reader.event(seq)
        if stored is None:
            return None
        event = record.decode(stored.kind, stored.body, stored.private).event
        assert isinstance(event, Decided), "the books name decisions"
        made = event.decision
        score = next(score for score in made.scores if score.arm == made.arm)
        found = self._books.session(router, made.session_id)
        i = found[1].index_of(made.decision_id) if found is not None else None
        return {
            "decision_id": made.decision_id,
            "session_id": made.session_id,
            "at_us": stored.at_us,
            "attempt": made.attempt,
            "arm": made.arm,
            "reason": made.reason.value,
            "propensity": made.propensity,
            "success_mean": score.success_mean,
            "cost_usd": score.cost_usd,
            "policy_version": made.policy_version,
            "why": explain.brief(made),
            "outcome": _outcome(found[1], i) if found is not None and i is not None else None,
        }

    def _open(self, router: str, session_ids: list[str]) -> Iterator[Json]:
        for session_id in session_ids:
            if (found := self._books.session(router, session_id)) is None:
                continue
            began_us, session = found
            last = session.attempts[-1]
            score = foretold_of(last)
            yield {
                "session_id": session_id,
                "began_us": began_us,
                "attempts": [attempt.decision.arm for attempt in session.attempts],
                "decision_id": last.decision.decision_id,
                "success_mean": score.success_mean,
                "cost_usd": score.cost_usd,
                "spent_usd": sum(session.dollars(i) or 0.0 for i in range(len(session.attempts))),
                "advised": last.advised.value,
                "reports": len(last.signals),
            }

    def _compared(self, router: str) -> list[Json]:
        """How the shadows do over recent events."""
        at, found = self._shadows.get(router, (-1e9, []))
        if self._clock() - at > _SHADOW_SECONDS:
            events = (
                (stored.session_id, record.decode(stored.kind, stored.body, stored.private).event)
                for stored in self._recent()
                if stored.router == router
            )
            found = [
                {
                    "policy_version": one.policy_version,
                    "decisions": one.decisions,
                    "errors": one.errors,
                    "agreement": one.agreement,
                    "sessions": one.sessions,
                    "effective": one.effective,
                    "success": one.success._asdict() if one.success is not None else None,
                    "cost_usd": one.cost_usd._asdict() if one.cost_usd is not None else None,
                }
                for one in agreement.compare(events)
            ]
            self._shadows[router] = (self._clock(), found)
        return found

    def _recent(self) -> Iterator[StoredEvent]:
        after = max(0, self._books.seq - _SHADOW_EVENTS)
        while events := self._reader.read(after, _PAGE, self._books.seq):
            yield from events
            after = events[-1].seq


def _outcome(session: Session, i: int) -> Json:
    attempt = session.attempts[i]
    return {
        "success": explain.success_of(session, i),
        "cost_usd": session.dollars(i),
        "left": explain.LEFT[attempt.left] if attempt.left is not None else None,
        "running": session.running is attempt,
    }


def _keep(data_dir: Path) -> None:
    reader = of_child(data_dir).reader()
    books = Books(reader, data_dir / FOLDER / _FILE)
    keeper = Keeper(reader, books)
    lines = _Lines()
    saved = time.monotonic()
    more = True
    while True:
        for line in lines.wait(0.0 if more else _POLL_SECONDS):
            question = msgspec.json.decode(line, type=Question)
            try:
                # What was asked for may rest on what has just been logged.
                books.step()
                _say({"number": question.number, "answer": keeper.answer(question)})
            except (StoreError, ValueError) as error:
                _say({"number": question.number, "answer": {}, "error": str(error)})
        if lines.ended:
            break
        try:
            behind, more = more, books.step()
            # Once it is level with a long log too: that took long.
            if time.monotonic() - saved > _SAVE_SECONDS or (behind and not more):
                books.save(int(time.time() * 1e6))
                saved = time.monotonic()
        except (StoreError, OSError) as error:
            _log.warning("the dashboard's figures stand still: %s", error)
            more = False
    books.save(int(time.time() * 1e6))


def _say(answer: Json) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


class _Lines:
    """Standard input, line by line."""

    def __init__(self) -> None:
        self.ended = False
        self._rest = b""

    def wait(self, seconds: float) -> list[bytes]:
        """Whole lines, after at most so many seconds."""
        ready, _, _ = select.select([0], [], [], seconds)
        if not ready:
            return []
        read = os.read(0, 1 << 16)
        self.ended = not read
        *lines, self._rest = (self._rest + read).split(b"\n")
        return lines


def main() -> None:
    """Runs it; see the module."""
    child.live_with_parent()
    logs.write("dashboard")
    os.nice(_NICE)
    _keep(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
