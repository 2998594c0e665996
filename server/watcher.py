"""Tells this replica of what the others have done: events that they have logged, and epochs that one has published.

The database notifies of both. That is a hint: what is there is looked at anyhow, now and then.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from bandit.epoch_file import EpochId
from bandit.learner import Learner
from server.engine import Engine
from server.routers import Router
from server.store.errors import StoreError
from server.store.place import PublishedEpochs

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_BREATH_SECONDS = 0.02
"""Between two looks: notifications come with every commit of every replica."""


class Watcher:
    """Looks again and again, adopts new epochs and has the engine take in new events."""

    def __init__(
        self, engine: Engine, epochs: PublishedEpochs, routers: Mapping[str, Router], hint: Callable[[], None]
    ) -> None:
        """`hint` is called when the log may have grown."""
        self._engine = engine
        self._epochs = epochs
        self._routers = routers
        self._hint = hint
        self._adopted: dict[str, EpochId] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="watcher")
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins."""
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Ends."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        away = False
        while True:
            published: list[tuple[EpochId, Learner]] = []
            pause_seconds = _BREATH_SECONDS
            try:
                published = await loop.run_in_executor(self._thread, self._look)
                away = False
            except StoreError as error:
                pause_seconds = _POLL_SECONDS
                if not away:
                    _log.warning("what other replicas do cannot be read now: %s", error)
                away = True
            # Also where they cannot: this is how a replica without callers notices that the database is away.
            with suppress(StoreError):
                await self._engine.current()
                self._hint()
                # An epoch is of what the log said before: the engine knows all of that now.
                for epoch, learner in published:
                    self._engine.between_rounds(functools.partial(self._adopt, epoch, learner))
            await asyncio.sleep(pause_seconds)

    def _look(self) -> list[tuple[EpochId, Learner]]:
        """Waits for news; the newest epochs that were not adopted yet."""
        self._epochs.news(_POLL_SECONDS)
        found = []
        for epoch in self._epochs.newest():
            if self._adopted.get(epoch.router) != epoch and (loaded := self._epochs.load(*epoch)) is not None:
                found.append((epoch, Learner.resume(loaded[1])))
        return found

    def _adopt(self, epoch: EpochId, learner: Learner) -> None:
        if (router := self._routers.get(epoch.router)) is not None:
            router.adopt(learner)
            self._adopted[epoch.router] = epoch
