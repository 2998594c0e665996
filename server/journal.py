"""The log's writing end: one transaction at a time, and what happens when one fails."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from server.store.errors import StoreDamaged, StoreError, StoreUnavailable
from server.store.protocol import Store
from server.telemetry.counts import Histogram

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.25


class Journal:
    """Makes events durable, for one event loop.

    After a failed commit nothing of it is known to be in the log: `trouble` says what is wrong until an append can
    work again, and then `on_back()` is called.
    """

    def __init__(self, store: Store, *, on_back: Callable[[], None], commits: Histogram) -> None:
        """`commits` is told how long each append took."""
        self.trouble: StoreError | None = None
        """Why the log takes no writes, or None."""
        self.busy = False
        """Whether a commit is under way."""
        self._store = store
        self._on_back = on_back
        self._commits = commits
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._recovery: asyncio.Task[None] | None = None
        self._damage: StoreDamaged | None = None

    def condemn(self, damage: StoreDamaged) -> None:
        """The log is damaged: it takes no more writes, whatever works again."""
        self.trouble = self._damage = damage

    def commit(self, append: Callable[[], object], ended: Callable[[StoreError | None], None], *, alone: bool) -> None:
        """Has events appended and then calls `ended`, with the error if they may be lost.

        With a lone caller there is nothing else to do meanwhile, so the loop itself waits and saves two changes of
        thread; otherwise a thread waits, and the loop takes in more requests.
        """
        self.busy = True
        if alone:
            self._committed(self._try(append), ended)
            return
        done = asyncio.get_running_loop().run_in_executor(self._thread, self._try, append)
        done.add_done_callback(lambda tried: self._committed(tried.result(), ended))

    def _try(self, append: Callable[[], object]) -> StoreError | None:
        began = time.perf_counter()
        try:
            append()
        except StoreError as error:
            return error
        except Exception as error:
            # A defect; those who wait are to be told all the same.
            _log.exception("events cannot be appended")
            return StoreUnavailable(str(error))
        self._commits.add(time.perf_counter() - began)
        return None

    def _committed(self, error: StoreError | None, ended: Callable[[StoreError | None], None]) -> None:
        self.busy = False
        if error is not None:
            _log.error("events could not be made durable, no more are taken: %s", error)
            if isinstance(error, StoreDamaged):
                self._damage = self._damage or error
            self.trouble = self._damage or error
            self._recovery = asyncio.get_running_loop().create_task(self._recover())
        ended(error)

    async def _recover(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_RETRY_SECONDS)
            try:
                await loop.run_in_executor(self._thread, self._store.recover)
                break
            except StoreUnavailable:
                continue
            except StoreError as error:
                _log.critical("the log is damaged and stays closed to writes: %s", error)
                return
        if self._damage is not None:
            return
        self.trouble = None
        _log.info("the log takes writes again")
        self._on_back()

    async def close(self) -> None:
        """Returns when the commit under way has ended; nothing may be committed after it."""
        if self._recovery is not None:
            self._recovery.cancel()
        await asyncio.to_thread(self._thread.shutdown)
