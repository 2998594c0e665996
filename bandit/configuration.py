"""What a router is, as a fold over the events that say so: settings, arms, policies, and which arms are down.

The engine, the learner and the simulator fold with the same `apply`, as they do with sessions.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from bandit.events import ArmPut, AvailabilitySet, Configured, Event, PolicyPut, RouterPut
from bandit.types import Arm, PolicyRecord, PolicyStage, RouterSettings

_NEVER_US = 2**63 - 1


class Down(msgspec.Struct, frozen=True):
    """An arm or endpoint is out until then, UTC microseconds since 1970."""

    until_us: int
    why: str


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """One router as the log says it is."""

    settings: RouterSettings | None = None
    """None before its first RouterPut."""
    arms: tuple[Arm, ...] = ()
    """In the order in which they were first put, retired ones included."""
    policies: tuple[PolicyRecord, ...] = ()
    """In the order of their creation."""
    down: dict[str, dict[str, Down]] = {}
    """Arm -> endpoint (empty: the arm as a whole) -> how long it is out; times that have passed may still stand."""
    configured: Configured | None = None
    """What the configuration file said last."""

    def apply(self, event: Event) -> "Configuration":
        """The configuration after an event; those that configure nothing change nothing."""
        match event:
            case RouterPut(settings=settings):
                changed = msgspec.structs.replace(self, settings=settings)
                if self.policy(settings.policy_version) is not None:
                    return changed
                # A router's first policy has no event of its own.
                first = PolicyRecord(version=settings.policy_version, policy=settings.policy, stage=PolicyStage.LIVE)
                return msgspec.structs.replace(changed, policies=_put(self.policies, first, lambda it: it.version))
            case ArmPut(arm=arm):
                return msgspec.structs.replace(self, arms=_put(self.arms, arm, lambda it: it.id))
            case PolicyPut(policy=policy):
                return msgspec.structs.replace(self, policies=_put(self.policies, policy, lambda it: it.version))
            case AvailabilitySet(arm=arm_id, endpoint=endpoint):
                there = {name: down for name, down in self.down.get(arm_id, {}).items() if name != endpoint}
                if event.until_us:
                    there[endpoint] = Down(event.until_us, event.why)
                return msgspec.structs.replace(self, down={**self.down, arm_id: there})
            case Configured():
                return msgspec.structs.replace(self, configured=event)
        return self

    def arm(self, arm_id: str) -> Arm | None:
        """The arm of that id, retired or not."""
        return next((arm for arm in self.arms if arm.id == arm_id), None)

    def policy(self, version: str) -> PolicyRecord | None:
        """The policy of that version."""
        return next((policy for policy in self.policies if policy.version == version), None)

    @property
    def canary(self) -> PolicyRecord | None:
        """The policy that runs as a canary, if one does."""
        return next((policy for policy in self.policies if policy.stage is PolicyStage.CANARY), None)

    @property
    def shadows(self) -> tuple[PolicyRecord, ...]:
        """The policies that are asked beside the one that decides."""
        return tuple(policy for policy in self.policies if policy.stage is PolicyStage.SHADOW)

    def outages(self, arm_id: str, now_us: int) -> dict[str, Down]:
        """What of an arm is down at `now_us`: by endpoint, empty for the arm as a whole."""
        arm = self.arm(arm_id)
        there = ("", *arm.endpoints) if arm is not None else ()
        down = self.down.get(arm_id, {})
        return {name: down[name] for name in there if name in down and down[name].until_us > now_us}

    def unavailable(self, now_us: int) -> Mapping[str, str]:
        """The arms that are down at `now_us`, as a whole or at each of their endpoints, and why."""
        found: dict[str, str] = {}
        for arm_id, down in self.down.items():
            arm = self.arm(arm_id)
            out = {endpoint: state.why for endpoint, state in down.items() if state.until_us > now_us}
            if arm is None or not out:
                continue
            if "" in out:
                found[arm_id] = out[""] or "down"
            elif arm.endpoints and all(endpoint in out for endpoint in arm.endpoints):
                found[arm_id] = "; ".join(f"{endpoint}: {out[endpoint] or 'down'}" for endpoint in arm.endpoints)
        return found

    def unchanged(self, now_us: int) -> tuple[int, int]:
        """From when until before when the same is down as at `now_us`, if nothing else is said."""
        ends = [state.until_us for down in self.down.values() for state in down.values()]
        return max((end for end in ends if end <= now_us), default=0), min(
            (end for end in ends if end > now_us), default=_NEVER_US
        )

    def endpoint(self, arm_id: str, now_us: int) -> str:
        """The arm's preferred endpoint among those that are up; empty where it has no named ones or none is up."""
        arm = self.arm(arm_id)
        if arm is None:
            return ""
        down = self.down.get(arm_id, {})
        return next((e for e in arm.endpoints if e not in down or down[e].until_us <= now_us), "")


T = TypeVar("T")


def _put(items: tuple[T, ...], item: T, key: Callable[[T], str]) -> tuple[T, ...]:
    """The items with the one of equal key replaced, or the item at their end."""
    if any(key(there) == key(item) for there in items):
        return tuple(item if key(there) == key(item) else there for there in items)
    return (*items, item)
