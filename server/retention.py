"""Erases the features of sessions that have been silent for long, as if somebody had asked for it.

As in `server.closing` a cursor goes through the log at a distance. What it has passed is done, so `DATA_DIR/retention`
holds it only to save work: to look again does no harm.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from bandit.errors import PointsmanError
from server.closing import Patience, Silent, Sweep
from server.commands import Erasing
from server.engine import Engine
from server.erasure import Erasure
from server.ids import Clock
from server.routers import Router
from server.store.errors import StoreError
from server.store.files import read_number, replace_number
from server.store.protocol import ERASED, EventReader

_log = logging.getLogger(__name__)

_DAY_SECONDS = 86_400.0
_SLEEPS_A_WAIT = 10
_LONGEST_SLEEP_SECONDS = 3600.0
"""Seldom: after each time the archive is rewritten where it holds what was erased."""
_SHORTEST_SLEEP_SECONDS = 0.1
_AT_ONCE = 64


class Retention:
    """Sweeps again and again."""

    def __init__(
        self,
        engine: Engine,
        reader: EventReader,
        routers: Mapping[str, Router],
        data_dir: Path,
        erasure: Erasure,
        on_erased: Callable[[], None],
        *,
        features_days: float,
        clock: Clock = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_erased` is called when features were erased from the log. 0 days: nothing is erased."""
        self._engine = engine
        self._routers = routers
        self._path = data_dir / "retention"
        self._erasure = erasure
        self._on_erased = on_erased
        self._wait_seconds = features_days * _DAY_SECONDS
        self._patience = Patience(clock, monotonic)
        self._sweep = Sweep(reader, self._wait_seconds, self._noted())
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="retention")
        self._owed = False
        """An erasure is logged and not done yet."""
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins, where anything is to be erased ever."""
        if self._wait_seconds:
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Ends; what is still to be erased is erased after the next start."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._thread.shutdown()

    async def _run(self) -> None:
        sleep_seconds = min(max(self._wait_seconds / _SLEEPS_A_WAIT, _SHORTEST_SLEEP_SECONDS), _LONGEST_SLEEP_SECONDS)
        while True:
            before = self._sweep.cursor
            try:
                while await self._page():
                    before = self._sweep.cursor
            except (StoreError, OSError) as error:
                self._sweep.cursor = before
                _log.warning("features cannot be erased now: %s", error)
            await asyncio.sleep(sleep_seconds)

    async def _page(self) -> bool:
        """Erases what a page of the log asks for; whether there may be more."""
        loop = asyncio.get_running_loop()
        before = self._sweep.cursor
        found, more = await loop.run_in_executor(
            self._thread, self._sweep.silent, tuple(self._routers), self._patience.now(), (ERASED,)
        )
        for i in range(0, len(found), _AT_ONCE):
            answers = await asyncio.gather(*map(self._erase, found[i : i + _AT_ONCE]), return_exceptions=True)
            self._owed |= True in answers
            for failed in (answer for answer in answers if isinstance(answer, StoreError)):
                raise failed
        if self._owed:
            await loop.run_in_executor(self._thread, self._erasure.complete)
            self._owed = False
            self._on_erased()
        if self._sweep.cursor != before:
            await loop.run_in_executor(self._thread, self._note)
        return more

    async def _erase(self, silent: Silent) -> bool:
        """Whether there was anything to erase."""
        # Where it is refused, the session or its router is not what it was.
        with suppress(PointsmanError):
            answer = await self._engine.answer(None, lambda: self._engine.erase(*silent))
            return isinstance(answer, Erasing) and answer.logged
        return False

    def _noted(self) -> int:
        try:
            return read_number(self._path)
        except ValueError:
            return 0

    def _note(self) -> None:
        replace_number(self._path, self._sweep.cursor)
