"""What the engine knows of each router: its settings and arms by the log, and the epoch it decides under."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from bandit import canary, eligibility, promotion, record
from bandit.canary import Candidate, Deciding
from bandit.configuration import Configuration
from bandit.decision import Vintage
from bandit.events import AvailabilitySet, Event
from bandit.learner import Learner
from bandit.pacing import NO_PACE, Pace
from bandit.session import Session, apply
from bandit.types import Arm, Features, Offer, PolicyRecord, PolicyStage, Requirements, RouterSettings, Rule
from server import fold, sessions
from server.commands import ArmStands
from server.failover import Watch
from server.store.epochs import Epochs
from server.store.errors import StoreUnavailable
from server.store.protocol import CONFIGURING, EventReader, StoredEvent

_SPENDING = frozenset(("decided", "escalated", "rewarded"))
_PIECE = 1000
_MOST_OFFERS = 256
"""Kept for different demands and rules."""


class RouterState(NamedTuple):
    """What requests change of a router."""

    created_us: int
    configuration: Configuration
    pace: Pace
    watch: Watch


class Router:
    """One router. A new arm is offered as soon as an epoch knows it, a change of a known one at once; another policy's
    settings hold as soon as an epoch of it is there."""

    def __init__(self, router_id: str) -> None:
        self.id = router_id
        self.created_us = 0
        """When its first event was logged, UTC microseconds since 1970; 0: it has none."""
        self.configuration = Configuration()
        self.pace = NO_PACE
        self.vintage: Vintage | None = None
        """None before the first epoch."""
        self.learned_seq = 0
        """The last event that the vintage has learned from."""
        self.shadows: tuple[Candidate, ...] = ()
        """The policies that are asked beside the one that decides."""
        self._beside: Mapping[str, Vintage] = {}
        """By version, what the policies in shadow and the canary have learned."""
        self._canary: Candidate | None = None
        self._canary_share = 0.0
        self._known: frozenset[str] = frozenset()
        self._settings: RouterSettings | None = None
        """Those of the policy that decides now."""
        self._offers: dict[tuple[tuple[Rule, ...], Requirements], tuple[Offer, ...]] = {}
        self._unchanged = (0, 0)
        """From when (UTC microseconds) until before when those offers hold."""
        self._watch = Watch()
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    @property
    def current(self) -> Candidate:
        """What it decides by, a canary apart. Raises StoreUnavailable for a moment after its creation."""
        if self._settings is None or self.vintage is None:
            raise StoreUnavailable(f"router {self.id!r} is being made")
        return Candidate(self._settings, self.vintage)

    def deciding(self, session: Session | None, session_id: str) -> Deciding:
        """The policy that decides the next attempt of a session, which is None where it is new. Raises as `current`."""
        return canary.deciding(self.current, self._canary, self._canary_share, session=session, session_id=session_id)

    def beside(self, policy_version: str) -> tuple[Candidate, ...]:
        """Who is asked beside a decision of that policy: the shadows, and beside a canary's the live one."""
        current = self.current
        return self.shadows if current.vintage.policy_version == policy_version else (current, *self.shadows)

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
        self._renew()

    def _renew(self) -> None:
        self._offers.clear()
        self._unchanged = (0, 0)
        if self._policy_decides():
            self._settings = self.configuration.settings
        settings = self._settings
        self.shadows, self._canary = (), None
        if settings is not None:
            found = [self._candidate(settings, record) for record in self.configuration.shadows]
            self.shadows = tuple(candidate for candidate in found if candidate is not None)
            running = self.configuration.canary
            if running is not None and running.canary is not None:
                self._canary, self._canary_share = self._candidate(settings, running), running.canary.share

    def _candidate(self, settings: RouterSettings, policy: PolicyRecord) -> Candidate | None:
        """A policy with its own numbers, where it has learned what the live one has."""
        vintage = self._beside.get(policy.version)
        return Candidate(promotion.under(settings, policy), vintage) if vintage is not None else None

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
        self._beside = learner.beside
        self.learned_seq = learner.epoch_seq
        self._known = frozenset(arm.id for arm in learner.configuration.arms)
        self._renew()
        waiting, self._waiting = self._waiting, []
        for holds, waiter in waiting:
            if not holds():
                self._waiting.append((holds, waiter))
            else:
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)

    def state(self) -> "RouterState":
        """What requests change of it, as it is now."""
        return RouterState(self.created_us, self.configuration, self.pace, self._watch.copy())

    def put_back(self, state: "RouterState") -> None:
        """Makes it what it was then; the epoch in use stays."""
        self.created_us = state.created_us
        self._watch = state.watch
        self.restart(state.configuration, state.pace)

    def _policy_decides(self) -> bool:
        """Whether the epoch in use is of the policy that the log says decides."""
        settings, vintage = self.configuration.settings, self.vintage
        return (
            settings is not None
            and vintage is not None
            and (settings.policy, settings.policy_version) == (vintage.policy.spec, vintage.policy_version)
        )

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
        await self._until(lambda: arm in self._known)

    async def follows(self) -> None:
        """Returns when the policy that the log says decides does."""
        await self._until(self._policy_decides)

    async def learns(self, policy_version: str) -> None:
        """Returns when the policy has learned what the live one has, or is not tried any more."""
        await self._until(lambda: self.has_learned(policy_version) or not self._is_tried(policy_version))

    def _is_tried(self, policy_version: str) -> bool:
        policy = self.configuration.policy(policy_version)
        return policy is not None and policy.stage in (PolicyStage.SHADOW, PolicyStage.CANARY)

    def has_learned(self, policy_version: str) -> bool:
        """Whether the epoch in use has a state of the policy."""
        live = self.vintage
        return policy_version in self._beside or (live is not None and live.policy_version == policy_version)

    async def _until(self, holds: Callable[[], bool]) -> None:
        if not holds():
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append((holds, waiter))
            await waiter


def refresh(routers: dict[str, Router], reader: EventReader, epochs: Epochs) -> None:
    """Brings routers up to the log: all of its routers, each with its newest epoch and what was logged since."""
    last = reader.last_seq
    firsts = fold.first_events(reader, last)
    for router_id in routers.keys() - firsts.keys():
        # It was to be made, but that never became durable.
        del routers[router_id]
    since = {}
    for router_id, first in firsts.items():
        router = routers.setdefault(router_id, Router(router_id))
        router.created_us = first.at_us
        since[router_id] = _resume(router, reader, epochs) or first.seq - 1
    paced = _follow(routers, since, reader, reader.configuring, last)
    if paced:
        # What they spend depends on all that was logged since.
        for router_id in paced:
            _resume(routers[router_id], reader, epochs)
        _follow(routers, {router_id: since[router_id] for router_id in paced}, reader, reader.read, last)


def _resume(router: Router, reader: EventReader, epochs: Epochs) -> int:
    """Puts a router back to its newest epoch: the last event that it knows of then, 0 where it has no epoch."""
    blob = fold.newest(epochs, router.id, reader.last_seq)
    if blob is None:
        router.restart(Configuration())
        return 0
    learner = Learner.resume(blob)
    router.restart(learner.configuration, learner.pace)
    router.adopt(learner)
    return learner.seq


def _follow(
    routers: Mapping[str, Router],
    since: Mapping[str, int],
    reader: EventReader,
    read: Callable[[int, int, int], Sequence[StoredEvent]],
    last: int,
) -> set[str]:
    """Tells routers of what `read` finds after the events given: those of them that had a budget at some time."""
    paced = {router_id for router_id in since if routers[router_id].has_budget}
    after = min(since.values(), default=last)
    while events := read(after, _PIECE, last):
        after = events[-1].seq
        for stored in events:
            if stored.seq > since.get(stored.router, last):
                router = routers[stored.router]
                follow(router, stored, reader)
                if router.has_budget:
                    paced.add(router.id)
    return paced


def follow(router: Router, stored: StoredEvent, reader: EventReader) -> None:
    """Tells a router of its next event, which is in the log."""
    if stored.kind in CONFIGURING:
        router.apply(record.decode(stored.kind, stored.body, stored.private).event)
    elif stored.kind in _SPENDING and router.has_budget:
        _keep_pace(router, stored, reader)


def _keep_pace(router: Router, stored: StoredEvent, reader: EventReader) -> None:
    before = sessions.load(reader, router.id, stored.session_id, stored.seq - 1)
    after = apply(before, record.decode(stored.kind, stored.body, stored.private).event)
    if after is not None:
        router.keep_pace(stored.at_us, before, after)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def configuration_at(reader: EventReader, router_id: str, upto: int) -> Configuration:
    """What a router was right after event `upto`."""
    configuration, after = Configuration(), 0
    while events := reader.configuring(after, _PIECE, upto):
        after = events[-1].seq
        for stored in events:
            if stored.router == router_id:
                configuration = configuration.apply(record.decode(stored.kind, stored.body, stored.private).event)
    return configuration


def arm_stands(configuration: Configuration, arm_id: str, now_us: int) -> ArmStands:
    """An arm of a router and what of it is down at `now_us`."""
    arm = configuration.arm(arm_id)
    assert arm is not None, "the caller knows that it is there"
    return ArmStands(arm=arm, down=configuration.outages(arm_id, now_us))
