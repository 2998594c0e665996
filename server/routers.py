"""What the engine knows of each router: its settings and arms by the log, and the epoch it decides under."""

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from bandit import eligibility, record
from bandit.configuration import Configuration
from bandit.decision import Vintage
from bandit.events import ArmPut, AvailabilitySet, Event, RouterPut
from bandit.learner import Learner
from bandit.pacing import NO_PACE, Pace
from bandit.session import Session, apply
from bandit.types import Arm, Features, Offer, Requirements, RouterSettings, Rule
from server import fold, sessions
from server.failover import Watch
from server.store.epochs import EpochFiles
from server.store.protocol import EventReader, StoredEvent

_CONFIGURING = frozenset(("router_put", "arm_put", "policy_put", "availability_set", "configured"))
_SPENDING = frozenset(("decided", "escalated", "rewarded"))
_PIECE = 1000
_MOST_OFFERS = 256
"""Kept for different demands and rules."""


class RouterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator wants a router to be."""

    settings: RouterSettings
    arms: tuple[Arm, ...]


class Current(NamedTuple):
    """What a router decides by."""

    settings: RouterSettings
    vintage: Vintage


class Router:
    """One router. A new arm is offered as soon as an epoch knows it, a change of a known one at once."""

    def __init__(self, router_id: str) -> None:
        self.id = router_id
        self.configuration = Configuration()
        self.pace = NO_PACE
        self.vintage: Vintage | None = None
        """None before the first epoch; never while the service is ready."""
        self.learned_seq = 0
        """The last event that the vintage has learned from."""
        self._known: frozenset[str] = frozenset()
        self._offers: dict[tuple[tuple[Rule, ...], Requirements], tuple[Offer, ...]] = {}
        self._unchanged = (0, 0)
        """From when (UTC microseconds) until before when those offers hold."""
        self._watch = Watch()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    @property
    def current(self) -> Current:
        """What it decides by. There always is something while the service is ready."""
        settings = self.configuration.settings
        assert settings is not None and self.vintage is not None, "the service was not ready"
        return Current(settings, self.vintage)

    @property
    def has_budget(self) -> bool:
        """Whether spending is paced."""
        settings = self.configuration.settings
        return settings is not None and settings.objective.budget_usd is not None

    def budget_price(self, now_us: int) -> float:
        """What a dollar costs beyond itself."""
        return self.pace.price(self.current.settings.objective, now_us)

    def restart(self, configuration: Configuration, pace: Pace = NO_PACE) -> None:
        """Goes on from what the log said earlier; it is to be told what was said since."""
        self.pace = pace
        self._configure(configuration)

    def _configure(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self._forget_offers()

    def _forget_offers(self) -> None:
        self._offers.clear()
        self._unchanged = (0, 0)

    def apply(self, event: Event) -> None:
        """Takes in an event of the router."""
        configuration = self.configuration.apply(event)
        if configuration is not self.configuration:
            self._configure(configuration)

    def keep_pace(self, at_us: int, before: Session | None, after: Session) -> None:
        """Takes in what an event has changed about a session's spending."""
        if self.configuration.settings is not None:
            self.pace = self.pace.observe(self.configuration.settings.objective, at_us, before, after)

    def adopt(self, learner: Learner) -> None:
        """Decides under the learner's newest epoch from now on, unless the one in use has learned more."""
        if learner.vintage is None or (self.vintage is not None and learner.epoch_seq < self.learned_seq):
            return
        self.vintage = learner.vintage
        self.learned_seq = learner.epoch_seq
        self._known = frozenset(arm.id for arm in learner.configuration.arms)
        self._forget_offers()
        waiting, self._waiting = self._waiting, []
        for arm, waiter in waiting:
            if arm not in self._known:
                self._waiting.append((arm, waiter))
            elif not waiter.done():
                waiter.set_result(None)

    def offers(self, requirements: Requirements, features: Features, now_us: int) -> tuple[Offer, ...]:
        """The arms that the epoch in use knows, in the order in which they were put, under what a request demands and
        the rules that hold for its session's features.
        """
        if not self._unchanged[0] <= now_us < self._unchanged[1]:
            self._offers.clear()
            self._unchanged = self.configuration.unchanged(now_us)
        # Most routers have no rules and most requests no demands.
        rules = self.current.settings.rules
        asked = eligibility.holding(rules, features) if rules else (), requirements
        found = self._offers.get(asked)
        if found is None:
            if len(self._offers) >= _MOST_OFFERS:
                self._offers.clear()
            found = self._offers[asked] = eligibility.offers(
                self._offered(),
                requirements=requirements,
                rules=asked[0],
                unavailable=self.configuration.unavailable(now_us),
            )
        return found

    def endpoint(self, arm: str, now_us: int) -> str:
        """Where to call an arm; empty where it has no endpoints of a name."""
        return self.configuration.endpoint(arm, now_us)

    def observe(self, session: Session, event: Event, at_us: int) -> AvailabilitySet | None:
        """Watches how attempts end; what takes out an endpoint that fails, or None. `session` is as before."""
        return self._watch.observe(self.configuration, session, event, at_us)

    def _offered(self) -> list[Arm]:
        return [arm for arm in self.configuration.arms if arm.id in self._known]

    async def knows(self, arm: str) -> None:
        """Returns when the epoch in use knows the arm."""
        if arm not in self._known:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append((arm, waiter))
            await waiter


def refresh(routers: Iterable[Router], reader: EventReader, epochs: EpochFiles) -> None:
    """Brings routers up to the log: the newest epoch's settings and arms, and the configuration events after it."""
    by_id = {router.id: router for router in routers}
    last = reader.last_seq
    since: dict[str, int] = {}
    for router in by_id.values():
        router.restart(Configuration())
        since[router.id] = 0
        if (blob := fold.newest(epochs, router.id, last)) is not None:
            learner = Learner.resume(blob)
            since[router.id] = learner.seq
            router.restart(learner.configuration, learner.pace)
            router.adopt(learner)
    after = min(since.values(), default=last)
    while events := reader.read(after, _PIECE, last):
        after = events[-1].seq
        for stored in events:
            if stored.seq <= since.get(stored.router, last):
                continue
            router = by_id[stored.router]
            if stored.kind in _CONFIGURING:
                router.apply(record.decode(stored.kind, stored.body, stored.private).event)
            elif stored.kind in _SPENDING and router.has_budget:
                _keep_pace(router, stored, reader)


def _keep_pace(router: Router, stored: StoredEvent, reader: EventReader) -> None:
    before = sessions.load(reader, router.id, stored.session_id, stored.seq - 1)
    after = apply(before, record.decode(stored.kind, stored.body, stored.private).event)
    if after is not None:
        router.keep_pace(stored.at_us, before, after)


def differences(router: Router, wanted: RouterConfig) -> list[Event]:
    """The events that make a router what the configuration says: arms first, so that its policy finds them.

    What the configuration does not mention stays: arms that were put at run time, and retirements.
    """
    events: list[Event] = []
    for arm in wanted.arms:
        there = router.configuration.arm(arm.id)
        put = arm if there is None else msgspec.structs.replace(arm, retired=there.retired)
        if put != there:
            events.append(ArmPut(arm=put))
    if wanted.settings != router.configuration.settings:
        events.append(RouterPut(settings=wanted.settings))
    return events
