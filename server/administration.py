"""The use cases of operators: what the calls of the Admin service do to routers, arms and policies.

Like the engine's, they read the state and return moves; each change is an event, also where it says what holds
already, so that a repeat of its request is known. The answer may be given once the change is in force.
"""

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from bandit import promotion
from bandit.configuration import Configuration
from bandit.errors import AlreadyThere, Unknown, WrongOrder
from bandit.events import ArmPut, AvailabilitySet, PolicyPut, RouterPut
from bandit.evidence import Verdict
from bandit.types import Mode, PolicyRecord, PolicyStage, RouterSettings
from server.commands import (
    ArmStands,
    CreatePolicy,
    CreateRouter,
    PolicyStands,
    PromotePolicy,
    PutArm,
    RetireArm,
    RollBackPolicy,
    RouterStands,
    RouterView,
    SetAvailability,
    SetMode,
    StartCanary,
    StartShadow,
    TrialStands,
    UpdateRouter,
)
from server.ids import Clock
from server.rounds import Move
from server.routers import Router, arm_stands
from server.store.errors import StoreUnavailable
from server.store.protocol import EventReader

_EPOCH_SECONDS = 30.0


class Administration:
    """Changes and shows what routers are. Methods that name a router raise Unknown where there is none of that name."""

    def __init__(
        self,
        routers: Mapping[str, Router],
        reader: EventReader,
        clock: Clock,
        round_us: Callable[[], int],
        trial: Callable[[str, str], TrialStands | None] = lambda _router, _version: None,
    ) -> None:
        """`round_us` tells when the round happens that a use case is called in, `trial` (by router and policy version)
        how a canary does, where that is known."""
        self._routers = routers
        self._reader = reader
        self._clock = clock
        self._round_us = round_us
        self._trial = trial

    # --- routers ------------------------------------------------------------------------------------------------

    def create_router(self, command: CreateRouter) -> Move:
        """Raises AlreadyThere, InvalidInput where the policy names arms, and what `require_sound` raises."""
        settings = command.settings
        if settings.id in self._routers:
            raise AlreadyThere("router", settings.id)
        nothing = Configuration()
        require_sound(nothing, settings)
        promotion.create(nothing, policy=settings.policy, at_us=0)
        put = RouterPut(settings=settings)
        return Move(router=Router(settings.id), events=(put,), reply=RouterStands(settings=settings))

    def update_router(self, command: UpdateRouter) -> Move:
        """Raises what `require_sound` raises."""
        router = self._router(command.router)
        return self._put(router, msgspec.structs.replace(_settings(router), **command.fields))

    def set_mode(self, command: SetMode) -> Move:
        """Raises WrongOrder where apprentice mode has no baseline arm."""
        router = self._router(command.router)
        return self._put(router, msgspec.structs.replace(_settings(router), mode=command.mode))

    def _put(self, router: Router, settings: RouterSettings) -> Move:
        require_sound(router.configuration, settings)
        return Move(router=router, events=(RouterPut(settings=settings),), reply=RouterStands(settings=settings))

    def created_us(self, router_id: str) -> int:
        """When a router was made, UTC microseconds since 1970."""
        return self._router(router_id).created_us

    def routers(self) -> list[RouterView]:
        """Every router, by id."""
        there = sorted(
            name for name, router in list(self._routers.items()) if router.configuration.settings is not None
        )
        return [self.router(router_id) for router_id in there]

    def router(self, router_id: str) -> RouterView:
        """A router and how far it has learned."""
        router = self._router(router_id)
        settings, vintage, now_us = _settings(router), router.vintage, self._now_us()
        return RouterView(
            settings=settings,
            created_us=router.created_us,
            epoch=vintage.epoch if vintage is not None else 0,
            epoch_hash=vintage.epoch_hash if vintage is not None else "",
            last_seq=self._reader.last_seq,
            learned_seq=router.learned_seq,
            budget_price=router.pace.price(settings.objective, now_us),
            budget_spent_usd=router.pace.spent(settings.objective, now_us),
            candidates=tuple(
                self._stands(router, policy)
                for policy in router.configuration.policies
                if policy.stage in (PolicyStage.SHADOW, PolicyStage.CANARY)
            ),
        )

    # --- arms ---------------------------------------------------------------------------------------------------

    def put_arm(self, command: PutArm) -> Move:
        """Raises WrongOrder where the arm is retired, and Unknown where there is no such predecessor of a new one."""
        router, arm = self._router(command.router), command.arm
        there = router.configuration.arm(arm.id)
        if there is None:
            if arm.predecessor and router.configuration.arm(arm.predecessor) is None:
                raise Unknown("arm.predecessor", "arm", arm.predecessor)
        elif there.retired:
            raise WrongOrder(f"arm {there.id!r} is retired, and an id is never reused")
        else:
            # Where learning started is looked at when an arm is added only.
            arm = msgspec.structs.replace(arm, predecessor=there.predecessor)
        return self._changed(router, arm.id, ArmPut(arm=arm))

    def retire_arm(self, command: RetireArm) -> Move:
        """Raises Unknown, and WrongOrder where the arm is the router's baseline."""
        router = self._router(command.router)
        arm = router.configuration.arm(command.arm)
        if arm is None:
            raise Unknown("arm", "arm", command.arm)
        if arm.id == _settings(router).baseline_arm:
            raise WrongOrder(f"arm {arm.id!r} is the baseline of the router")
        return self._changed(router, arm.id, ArmPut(arm=msgspec.structs.replace(arm, retired=True)))

    def set_availability(self, command: SetAvailability) -> Move:
        """Raises Unknown for an arm or endpoint that is not there."""
        router = self._router(command.router)
        arm = router.configuration.arm(command.arm)
        if arm is None:
            raise Unknown("arm", "arm", command.arm)
        if command.endpoint and command.endpoint not in arm.endpoints:
            raise Unknown("endpoint", f"endpoint of arm {arm.id!r}", command.endpoint)
        down = command.down_seconds > 0
        said = AvailabilitySet(
            arm=arm.id,
            endpoint=command.endpoint,
            until_us=self._round_us() + int(command.down_seconds * 1e6) if down else 0,
            why=command.why if down else "",
        )
        return self._changed(router, arm.id, said)

    def _changed(self, router: Router, arm_id: str, event: ArmPut | AvailabilitySet) -> Move:
        configuration = router.configuration.apply(event)
        return Move(router=router, events=(event,), reply=arm_stands(configuration, arm_id, self._round_us()))

    def arms(self, router_id: str) -> list[ArmStands]:
        """A router's arms, retired ones included, in the order in which they were put."""
        configuration = self._router(router_id).configuration
        return [arm_stands(configuration, arm.id, self._now_us()) for arm in configuration.arms]

    # --- policies -----------------------------------------------------------------------------------------------

    def create_policy(self, command: CreatePolicy) -> Move:
        """Raises InvalidInput."""
        router = self._router(command.router)
        created = promotion.create(
            router.configuration, policy=command.policy, definition=command.definition, at_us=self._round_us()
        )
        return self._policies(router, (created,))

    def start_shadow(self, command: StartShadow) -> Move:
        """Raises Unknown and WrongOrder."""
        router = self._router(command.router)
        return self._policies(router, (promotion.start_shadow(router.configuration, command.policy_version),))

    def start_canary(self, command: StartCanary) -> Move:
        """Raises Unknown and WrongOrder."""
        router = self._router(command.router)
        started = promotion.start_canary(router.configuration, command.policy_version, command.canary)
        return self._policies(router, (started,))

    def conclude(self, router_id: str, policy_version: str, verdict: Verdict) -> Move:
        """What a verdict on a canary makes of it. Raises Unknown, and WrongOrder where it is no canary any more."""
        router = self._router(router_id)
        running = router.configuration.canary
        if running is None or running.version != policy_version:
            raise WrongOrder(f"policy {policy_version!r} is no canary")
        act = promotion.promote if verdict.conclusion == "promote" else promotion.roll_back
        return self._policies(router, act(router.configuration, policy_version, why=f"by the guard: {verdict.why}"))

    def promote_policy(self, command: PromotePolicy) -> Move:
        """Raises Unknown."""
        router = self._router(command.router)
        return self._policies(router, promotion.promote(router.configuration, command.policy_version))

    def roll_back_policy(self, command: RollBackPolicy) -> Move:
        """Raises Unknown and WrongOrder."""
        router = self._router(command.router)
        return self._policies(
            router, promotion.roll_back(router.configuration, command.policy_version, why=command.why)
        )

    def _policies(self, router: Router, events: tuple[PolicyPut | RouterPut, ...]) -> Move:
        first = events[0]
        assert isinstance(first, PolicyPut), "the policy that is asked about comes first"
        return Move(router=router, events=events, reply=PolicyStands(policy=first.policy))

    def policies(self, router_id: str) -> list[PolicyStands]:
        """A router's policies in the order of their creation."""
        router = self._router(router_id)
        return [self._stands(router, policy) for policy in router.configuration.policies]

    def _stands(self, router: Router, policy: PolicyRecord) -> PolicyStands:
        tried = policy.stage in (PolicyStage.SHADOW, PolicyStage.CANARY)
        if tried and router.vintage is not None and not router.has_learned(policy.version):
            # For a moment after its start; or for good, where it cannot.
            policy = msgspec.structs.replace(policy, why="it has no epoch: it has just begun, or an error keeps it")
        trial = self._trial(router.id, policy.version) if policy.stage is PolicyStage.CANARY else None
        return PolicyStands(policy=policy, trial=trial)

    # --- in force -----------------------------------------------------------------------------------------------

    async def decides(self, router_id: str) -> None:
        """Returns when the policy that is to decide does. Raises StoreUnavailable where no epoch comes for long."""
        try:
            await asyncio.wait_for(self._router(router_id).follows(), _EPOCH_SECONDS)
        except TimeoutError as error:
            raise StoreUnavailable("the policy is in the log, but no epoch of it has come yet") from error

    async def learns(self, router_id: str, policy_version: str) -> None:
        """Returns when the policy has an epoch. Raises StoreUnavailable where none comes for long."""
        try:
            await asyncio.wait_for(self._router(router_id).learns(policy_version), _EPOCH_SECONDS)
        except TimeoutError as error:
            raise StoreUnavailable(
                f"policy {policy_version!r} is in the log, but no epoch of it has come yet"
            ) from error

    async def offered(self, router_id: str, arm: str) -> None:
        """Returns when the router offers the arm. Raises StoreUnavailable where no epoch comes for long."""
        try:
            await asyncio.wait_for(self._router(router_id).knows(arm), _EPOCH_SECONDS)
        except TimeoutError as error:
            raise StoreUnavailable(f"arm {arm!r} is in the log, but no epoch that knows it has come yet") from error

    def _now_us(self) -> int:
        return int(self._clock() * 1e6)

    def _router(self, router_id: str) -> Router:
        router = self._routers.get(router_id)
        # Of one that is being imported the settings may be still to come.
        if router is None or router.configuration.settings is None:
            raise Unknown("router", "router", router_id)
        return router


def require_sound(configuration: Configuration, settings: RouterSettings) -> None:
    """Raises Unknown where settings name an arm that the router does not have, and WrongOrder where the baseline arm is
    retired, or missing although the mode needs one, or where the mode leaves a running canary no session.
    """
    if settings.mode is Mode.APPRENTICE and (running := configuration.canary) is not None:
        raise WrongOrder(
            f"policy {running.version!r} is a canary, and in apprentice mode the baseline takes all sessions"
        )
    for i, rule in enumerate(settings.rules):
        for field, arms in (("allow", rule.allow), ("deny", rule.deny)):
            for name in sorted(arms):
                if configuration.arm(name) is None:
                    raise Unknown(f"settings.rules.rules[{i}].{field}", "arm", name)
    if settings.baseline_arm is not None:
        arm = configuration.arm(settings.baseline_arm)
        if arm is None:
            raise Unknown("settings.baseline_arm", "arm", settings.baseline_arm)
        if arm.retired:
            raise WrongOrder(f"arm {arm.id!r} is retired and cannot be the baseline")
    elif settings.mode is Mode.APPRENTICE:
        raise WrongOrder("apprentice mode needs a baseline arm")


def _settings(router: Router) -> RouterSettings:
    assert router.configuration.settings is not None, "a router begins with its settings"
    return router.configuration.settings
