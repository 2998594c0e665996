"""What an edited configuration file changes, as events: a merge of what it said, what it says, and what holds.

What the file says as it did when it was last looked at is left as it is, whatever has become of it since: a price that
was changed at run time stays, until somebody edits that price in the file.
"""

from typing import TypeVar

import msgspec

from bandit import promotion
from bandit.configuration import Configuration
from bandit.events import ArmPut, Configured, Event, RouterPut
from bandit.types import Arm, Failover, Mode, Objective, RouterSettings

_Part = TypeVar("_Part", Arm, RouterSettings, Objective, Failover)


def changes(configuration: Configuration, file: Configured, *, at_us: int) -> list[Event]:
    """The events that bring a router up to the file, the file itself last; none where it says what it said before.

    Arms come before the policy, which may name them. What the file does not mention stays, and a retired arm retired.
    Raises InvalidInput where the policy names an arm that is not there.
    """
    said = configuration.configured
    if said == file:
        return []
    events: list[Event] = []
    for arm in file.arms:
        there = configuration.arm(arm.id)
        before = next((one for one in said.arms if one.id == arm.id), None) if said is not None else None
        put = arm if there is None else _edited(there, before, arm, keep=("id", "retired"))
        if put != there:
            events.append(ArmPut(arm=put))
    configuration = _after(configuration, events)
    if configuration.settings is None:
        return [*events, RouterPut(settings=file.settings), file]
    return [*events, *_settings(configuration, said.settings if said is not None else None, file.settings, at_us), file]


def _settings(
    configuration: Configuration, before: RouterSettings | None, file: RouterSettings, at_us: int
) -> list[Event]:
    events: list[Event] = []
    settings = configuration.settings
    assert settings is not None, "the router is there"
    if file.policy != (before if before is not None else settings).policy and file.policy != settings.policy:
        events = _without_canary(configuration, f"the configuration file names the policy {file.policy!r}")
        configuration = _after(configuration, events)
        created = promotion.create(configuration, policy=file.policy, at_us=at_us)
        events += [created, *promotion.promote(_after(configuration, [created]), created.policy.version)]
        settings = _after(configuration, events).settings
        assert settings is not None, "it was there before"
    put = _edited(settings, before, file, keep=("id", "policy", "policy_version"))
    if (put.objective.budget_usd is None) != (put.objective.budget_period_seconds is None):
        # A part of the file's budget alone is no budget: it comes whole.
        budget_usd, period_seconds = file.objective.budget_usd, file.objective.budget_period_seconds
        objective = msgspec.structs.replace(put.objective, budget_usd=budget_usd, budget_period_seconds=period_seconds)
        put = msgspec.structs.replace(put, objective=objective)
    if put != settings:
        if put.mode is Mode.APPRENTICE:
            events += _without_canary(_after(configuration, events), "the configuration file says apprentice mode")
        events.append(RouterPut(settings=put))
    return events


def _without_canary(configuration: Configuration, why: str) -> list[Event]:
    """What ends a running canary, which would keep the file from being followed."""
    running = configuration.canary
    return list(promotion.roll_back(configuration, running.version, why=why)) if running is not None else []


def _after(configuration: Configuration, events: list[Event]) -> Configuration:
    for event in events:
        configuration = configuration.apply(event)
    return configuration


def _edited(there: _Part, before: _Part | None, file: _Part, *, keep: tuple[str, ...] = ()) -> _Part:
    """What is there with what the file says now and did not say before."""
    fields = {}
    for name in file.__struct_fields__:
        said, says = getattr(before, name, None), getattr(file, name)
        if name in keep:
            continue
        if isinstance(says, Objective | Failover):
            fields[name] = _edited(getattr(there, name), said, says)
        elif before is None or says != said:
            fields[name] = says
    return msgspec.structs.replace(there, **fields)
