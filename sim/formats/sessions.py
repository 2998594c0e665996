"""The sessions of a folder of events, folded one after the other, for writers of other formats.

What counts of revised outcomes, what an alarm means and what was erased is decided by `bandit.session` alone. The
events are brought into the order of their sessions by DuckDB, out of core, so a log of any length takes the memory
of its longest session.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from bandit import record
from bandit.errors import InvalidInput
from bandit.events import Decided
from bandit.session import Session, apply
from bandit.types import Decision, SelectReason
from sim import duck

_MEMORY_MB = 512
_ROWS = 500


@dataclass(frozen=True, kw_only=True)
class Told:
    """A decision and what came of it."""

    decision: Decision
    at_us: int
    """When it was made, UTC microseconds since 1970."""
    success: float
    """In [0, 1]."""
    cost_usd: float
    """0 where it was never told."""

    def reward(self, kind: str, value_usd: float | None) -> float:
        """``success``; or ``utility``, in dollars: value x success - cost.

        `value_usd` is what a success is worth; None: what the router said at the decision.
        """
        if kind == "success":
            return self.success
        value = self.decision.situation.objective.value_usd if value_usd is None else value_usd
        return value * self.success - self.cost_usd


@dataclass(frozen=True, kw_only=True)
class Past:
    """One session as the whole log tells it."""

    session: Session
    at_us: tuple[int, ...]
    """When each attempt's decision was made."""

    def attempts(self) -> Iterator[tuple[Decision, Told | None]]:
        """Every attempt by itself; None where its success is unknown.

        As policies learn from it: an alarm without truth is a failure, and leaving for another reason censors.
        """
        for i, attempt in enumerate(self.session.attempts):
            success = self.session.outcome(i).success
            if attempt.left is not None:
                success = (success or 0.0) if attempt.left.is_alarm else None
            yield attempt.decision, self._told(i, success, self.session.dollars(i) or 0.0)

    def whole(self) -> tuple[Decision, Told | None]:
        """The first decision, with what the session came to in the end; None where its success is unknown.

        A session that was given up after an alarm did not succeed unless somebody says otherwise.
        """
        last = len(self.session.attempts) - 1
        left, success = self.session.attempts[last].left, self.session.outcome(last).success
        if success is None and self.session.exhausted and left is not None and left.is_alarm:
            success = 0.0
        spent = sum(self.session.dollars(i) or 0.0 for i in range(last + 1))
        return self.session.attempts[0].decision, self._told(0, success, spent)

    def _told(self, i: int, success: float | None, cost_usd: float) -> Told | None:
        if success is None:
            return None
        decision = self.session.attempts[i].decision
        return Told(decision=decision, at_us=self.at_us[i], success=success, cost_usd=cost_usd)


def is_lottery(decision: Decision) -> bool:
    """Whether its propensity is that of a policy's choice; a pinned arm is the user's."""
    return decision.reason is not SelectReason.PINNED


class Sessions(AbstractContextManager["Sessions"]):
    """One router's sessions in a folder of Parquet files, in the order in which they began; to be used as a context."""

    def __init__(self, root: Path, router: str = "") -> None:
        """Raises InvalidInput naming `--events`, or `--router` where there are several and none is named."""
        self._root = root
        self._folder = tempfile.TemporaryDirectory(prefix="pointsman-")
        try:
            self._duck = duck.connect_out_of_core(Path(self._folder.name), threads=1, memory_mb=_MEMORY_MB)
            self._files = _files(root)
            self._router = self._one_router(router)
        except BaseException:
            self._close()
            raise

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._close()

    def __iter__(self) -> Iterator[Past]:
        """Raises InvalidInput naming `--events` where an event cannot be read."""
        rows = self._query(
            f"SELECT {', '.join(record.LOGGED)} FROM read_parquet($1) AS held "
            "JOIN (SELECT session_id, min(seq) AS first FROM read_parquet($1) "
            "WHERE router = $2 AND session_id <> '' GROUP BY session_id) AS began USING (session_id) "
            "WHERE router = $2 ORDER BY first, seq",
            [self._files, self._router],
        )
        session: Session | None = None
        session_id, at_us = "", list[int]()
        while batch := rows.fetchmany(_ROWS):
            for values in batch:
                try:
                    logged = record.unflatten(values)
                    event = record.decode(logged["kind"], logged["body"], logged["private"]).event
                except (ValueError, TypeError, AttributeError) as error:
                    raise InvalidInput("--events", f"{self._root}: event {values[0]}: {error}") from error
                if logged["session_id"] != session_id:
                    if session is not None:
                        yield Past(session=session, at_us=tuple(at_us))
                    session, session_id, at_us = None, logged["session_id"], []
                session = apply(session, event)
                if isinstance(event, Decided):
                    at_us.append(logged["at_us"])
        if session is not None:
            yield Past(session=session, at_us=tuple(at_us))

    def _one_router(self, named: str) -> str:
        found = self._query("SELECT DISTINCT router FROM read_parquet($1) ORDER BY 1", [self._files]).fetchall()
        there = [str(router) for (router,) in found]
        if named and named not in there:
            raise InvalidInput("--router", f"no events of {named!r}; there are those of {', '.join(there) or 'none'}")
        if not named and len(there) > 1:
            raise InvalidInput("--router", f"name one of {', '.join(there)}")
        return named or (there[0] if there else "")

    def _query(self, statement: str, given: list[Any]) -> duck.Connection:
        try:
            return self._duck.execute(statement, given)
        except duck.Error as error:
            why = str(error).partition("\n")[0]
            raise InvalidInput("--events", f"{self._root}: not events of an archive: {why}") from error

    def _close(self) -> None:
        if hasattr(self, "_duck"):
            self._duck.close()
        self._folder.cleanup()


def _files(root: Path) -> list[str]:
    """The files of one log: its own, or those of its days."""
    files = sorted(root.rglob("*.parquet")) if root.is_dir() else [root] if root.is_file() else []
    if not files:
        raise InvalidInput("--events", f"{root} holds no Parquet files")
    logs = {file.parent.parent if re.match("day=", file.parent.name) else file.parent for file in files}
    if len(logs) > 1:
        raise InvalidInput("--events", f"{root} holds {len(logs)} logs; name one of them, {min(logs)} say")
    return [str(file) for file in files]
