"""Closes sessions whose reward did not come within their router's wait.

A cursor goes through the log at the distance of the wait. Where it comes upon a session's last event, and the session
has no final reward, the session is closed. So nothing is kept in memory for an open session, and to look twice does no
harm: the cursors that are written down at `DATA_DIR/closing` save work, and mean nothing else.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from bandit.errors import PointsmanError
from bandit.session import Session
from server.engine import Engine
from server.ids import Clock
from server.routers import Router
from server.sessions import folded
from server.store.errors import StoreError
from server.store.files import replace_file
from server.store.protocol import EventReader, StoredEvent

_log = logging.getLogger(__name__)

_PAGE = 500
_AT_ONCE = 64
_LONGEST_SLEEP_SECONDS = 1.0
_SHORTEST_SLEEP_SECONDS = 0.1
_SLEEPS_A_WAIT = 10
_LONGEST_AHEAD_SECONDS = 86_400.0
_OVER = frozenset(("closed", "erased"))


class Silent(NamedTuple):
    """A session that nothing has happened to for long enough."""

    router: str
    session_id: str
    session: Session
    """As after its last event."""


class Patience:
    """What time it is for those who wait: never later than the clock says, and after a jump of the clock not at once.

    It goes at most at twice the pace of real time, so that a clock that was set wrong for an hour closes nothing early.
    """

    def __init__(self, clock: Clock, monotonic: Callable[[], float]) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._now = clock()
        self._at = monotonic()

    def now(self) -> float:
        """Seconds since 1970."""
        at = self._monotonic()
        self._now = min(self._clock(), self._now + 2 * (at - self._at))
        self._at = at
        return self._now


class Sweep:
    """One wait's way through the log."""

    def __init__(self, reader: EventReader, wait_seconds: float, cursor: int = 0) -> None:
        self._reader = reader
        self._wait_us = wait_seconds * 1e6
        self.cursor = cursor if cursor <= reader.last_seq else 0
        """The last event that was looked at."""

    def overdue(self, routers: Iterable[str], now: float) -> tuple[list[Silent], bool]:
        """Goes on by a page: sessions to be closed, and whether there may be more."""
        found, more = self.silent(routers, now, _OVER)
        return [silent for silent in found if not silent.session.final], more

    def silent(self, routers: Iterable[str], now: float, over: Collection[str]) -> tuple[list[Silent], bool]:
        """Goes on by a page: sessions that have been silent for the wait, but those whose last event is of a kind in
        `over`; and whether there may be more."""
        first = self._reader.read(self.cursor, 1)
        if not first or not self._is_past(first[0], now):
            return [], False
        events = self._reader.read(self.cursor, _PAGE)
        due = list(itertools.takewhile(lambda event: self._is_past(event, now), events))
        self.cursor = due[-1].seq
        wanted = set(routers)
        last = {
            (event.router, event.session_id): event
            for event in due
            if event.session_id and event.router in wanted and event.at_us <= now * 1e6
        }
        found = [self._look_at(event) for event in last.values() if event.kind not in over]
        return [silent for silent in found if silent is not None], len(due) == _PAGE

    def _is_past(self, event: StoredEvent, now: float) -> bool:
        """Whether its wait is over. What lies far in the future is passed by: nobody waits for it."""
        return event.at_us + self._wait_us <= now * 1e6 or event.at_us > (now + _LONGEST_AHEAD_SECONDS) * 1e6

    def _look_at(self, event: StoredEvent) -> Silent | None:
        events = self._reader.session(event.router, event.session_id)
        if events[-1].seq != event.seq:
            return None
        session, _ = folded(events)
        return Silent(event.router, event.session_id, session) if session is not None else None


class Closing:
    """Sweeps again and again, one sweep for each wait that a router has."""

    def __init__(
        self,
        engine: Engine,
        reader: EventReader,
        routers: Mapping[str, Router],
        data_dir: Path,
        *,
        clock: Clock = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._reader = reader
        self._routers = routers
        self._path = data_dir / "closing"
        self._patience = Patience(clock, monotonic)
        self._sweeps: dict[float, Sweep] = {}
        self._noted = self._read_cursors()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="closing")
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins."""
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Ends; what is still to be closed is closed after the next start."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._thread.shutdown()

    async def _run(self) -> None:
        while True:
            waits: dict[float, list[str]] = {}
            for router in list(self._routers.values()):
                if router.configuration.settings is not None:
                    waits.setdefault(router.configuration.settings.reward_wait_seconds, []).append(router.id)
            try:
                for wait_seconds, routers in waits.items():
                    await self._sweep(wait_seconds, routers)
                await asyncio.get_running_loop().run_in_executor(self._thread, self._note_cursors)
            except (StoreError, OSError) as error:
                _log.warning("sessions cannot be closed now: %s", error)
            shortest = min(waits, default=_LONGEST_SLEEP_SECONDS) / _SLEEPS_A_WAIT
            await asyncio.sleep(min(max(shortest, _SHORTEST_SLEEP_SECONDS), _LONGEST_SLEEP_SECONDS))

    async def _sweep(self, wait_seconds: float, routers: list[str]) -> None:
        sweep = self._sweeps.get(wait_seconds)
        if sweep is None:
            cursor = self._noted.get(str(wait_seconds), 0)
            sweep = self._sweeps[wait_seconds] = Sweep(self._reader, wait_seconds, cursor)
        more = True
        while more:
            before = sweep.cursor
            found, more = await asyncio.get_running_loop().run_in_executor(
                self._thread, sweep.overdue, routers, self._patience.now()
            )
            for i in range(0, len(found), _AT_ONCE):
                answers = await asyncio.gather(*map(self._close, found[i : i + _AT_ONCE]), return_exceptions=True)
                failed = [answer for answer in answers if isinstance(answer, StoreError)]
                if failed:
                    sweep.cursor = before
                    raise failed[0]

    async def _close(self, overdue: Silent) -> None:
        # Where it is refused, the session or its router is not what it was.
        with suppress(PointsmanError):
            await self._engine.answer(None, lambda: self._engine.close_session(*overdue))

    def _read_cursors(self) -> dict[str, int]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, int])
        except (OSError, msgspec.MsgspecError):
            return {}

    def _note_cursors(self) -> None:
        cursors = {str(wait_seconds): sweep.cursor for wait_seconds, sweep in self._sweeps.items()}
        if cursors != self._noted:
            replace_file(self._path, msgspec.json.encode(cursors))
            self._noted = cursors
