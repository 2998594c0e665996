"""Watches canaries: what their sessions say, and what is to become of them.

The evidence is a fold over the log from the canary's start on (`bandit.canary`), read anew after a restart: it comes
to the same, however often it was interrupted, and so does the verdict, which becomes events like an operator's.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from bandit import record
from bandit.canary import Trial
from bandit.configuration import Configuration
from bandit.errors import PointsmanError
from bandit.evidence import Evidence
from bandit.session import Session
from server import sessions
from server.administration import Administration
from server.commands import TrialStands
from server.engine import Engine
from server.routers import Router
from server.store.errors import StoreError
from server.store.protocol import EventReader, StoredEvent

_log = logging.getLogger(__name__)

_PAGE = 500
_SLEEP_SECONDS = 0.2
_LONGEST_COURSE = 200
_READ = frozenset(("policy_put", "decided", "rewarded", "closed"))
"""The kinds of events that a trial takes in; others are not even decoded."""


class Watch:
    """One canary's trial, and how far the log has been read for it."""

    def __init__(self, reader: EventReader, router: str, began: int, configuration: Configuration) -> None:
        """`began` is the event that started the canary, `configuration` the router's as after it."""
        self.trial = Trial(configuration)
        self._reader = reader
        self._router = router
        self._read = began
        self.stands = self._stand()
        """As after the last page read."""
        self.course: list[Evidence] = []
        """How the evidence has grown, oldest first; none of the time before it says anything."""

    def step(self) -> bool:
        """Reads on by a page; whether there may be more."""
        events = self._reader.read(self._read, _PAGE)
        for stored in events:
            self._read = stored.seq
            if stored.router == self._router and stored.kind in _READ:
                self._feed(stored)
            if self.trial.over:
                break
        self.stands = self._stand()
        self._remember(self.stands.evidence)
        return len(events) == _PAGE and not self.trial.over

    def _remember(self, evidence: Evidence) -> None:
        grown = sum(evidence.told) - (sum(self.course[-1].told) if self.course else 0)
        if grown and evidence.differences():
            self.course.append(evidence)
        if len(self.course) > _LONGEST_COURSE:
            # The first looks were the closest together, and are the first to be thinned.
            del self.course[1::2]

    def _feed(self, stored: StoredEvent) -> None:
        def session() -> Session | None:
            return sessions.load(self._reader, stored.router, stored.session_id, stored.seq)

        self.trial.feed(record.decode(stored.kind, stored.body, stored.private).event, stored.session_id, session)

    def _stand(self) -> TrialStands:
        return TrialStands(evidence=self.trial.evidence, waiting=self.trial.waiting, verdict=self.trial.verdict)


class Guard:
    """Watches the canary of every router that has one, and carries out what its trial concludes."""

    def __init__(self, engine: Engine, reader: EventReader, routers: Mapping[str, Router]) -> None:
        self._engine = engine
        self._reader = reader
        self._routers = routers
        self._watches: dict[str, Watch] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="guard")
        self._running: asyncio.Task[None] | None = None

    def trial(self, router_id: str, policy_version: str) -> TrialStands | None:
        """How a canary does, as far as the log has been read; None before it has been looked at."""
        watch = self._watches.get(router_id)
        return watch.stands if watch is not None and watch.trial.version == policy_version else None

    def course(self, router_id: str, policy_version: str) -> Sequence[Evidence]:
        """How the evidence on a canary has grown since its start; empty where nothing is known."""
        watch = self._watches.get(router_id)
        return watch.course if watch is not None and watch.trial.version == policy_version else ()

    async def start(self, administration: Administration) -> None:
        """Begins. `administration` turns a verdict into events."""
        self._running = asyncio.get_running_loop().create_task(self._run(administration))

    async def stop(self) -> None:
        """Ends; what is still to be concluded is concluded after the next start."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._thread.shutdown()

    async def _run(self, administration: Administration) -> None:
        while True:
            for router_id, router in list(self._routers.items()):
                if router.configuration.canary is None:
                    self._watches.pop(router_id, None)
                    continue
                try:
                    await self._look(router_id, administration)
                except (StoreError, OSError) as error:
                    _log.warning("the canary of router %r cannot be watched now: %s", router_id, error)
                except Exception:
                    _log.exception("the canary of router %r cannot be watched", router_id)
            await asyncio.sleep(_SLEEP_SECONDS)

    async def _look(self, router_id: str, administration: Administration) -> None:
        loop = asyncio.get_running_loop()
        watch = self._watches.get(router_id)
        if watch is None:
            watch = await loop.run_in_executor(self._thread, self._begin, router_id)
            if watch is None:
                return
            self._watches[router_id] = watch
        while await loop.run_in_executor(self._thread, watch.step):
            # Whoever is served meanwhile goes first.
            await asyncio.sleep(0.0)
        trial = watch.trial
        if trial.over:
            del self._watches[router_id]
        elif trial.to_act:
            verdict = trial.verdict
            # Where it is refused, an operator has been quicker.
            with suppress(PointsmanError):
                await self._engine.answer(None, lambda: administration.conclude(router_id, trial.version, verdict))
                _log.info("canary %r of router %r: %s: %s", trial.version, router_id, verdict.conclusion, verdict.why)

    def _begin(self, router_id: str) -> Watch | None:
        """Finds the event by which the running canary was started."""
        configuration, after = Configuration(), 0
        found: tuple[int, Configuration] | None = None
        last = self._reader.last_seq
        while events := self._reader.configuring(after, _PAGE, last):
            after = events[-1].seq
            for stored in events:
                if stored.router == router_id:
                    event = record.decode(stored.kind, stored.body, stored.private).event
                    before, configuration = configuration, configuration.apply(event)
                    running = configuration.canary
                    if running is None:
                        found = None
                    elif before.canary is None or before.canary.version != running.version:
                        found = stored.seq, configuration
        return Watch(self._reader, router_id, *found) if found is not None else None
