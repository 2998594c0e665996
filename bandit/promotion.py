"""Which policy decides: a router's policies, and the events that create one, try it, promote it and roll it back.

Exactly one policy of a router is live. With it goes what its decisions depend on beside the log: the objective and
the numbers of `policy_file`. A policy that returns brings back those it decided by last. Some may be asked beside it
(shadow), and one may decide for a share of new sessions (canary): as long as it does, the live one stays what it is,
for it is what the canary is compared with.
"""

import msgspec

from bandit import policy as policies
from bandit import policy_file
from bandit.configuration import Configuration
from bandit.errors import InvalidInput, Unknown, WrongOrder
from bandit.events import PolicyPut, RouterPut
from bandit.types import Canary, Mode, PolicyRecord, PolicyStage, RouterSettings

_NUMBERS = ("objective", "alpha", "exploration_floor", "draws", "max_attempts")
"""The settings that go with a policy."""

MOST_SHADOWS = 4
"""At a time: each takes as long as a decision does."""


def create(configuration: Configuration, *, policy: str, definition: str = "", at_us: int) -> PolicyPut:
    """Adds a policy, which decides nothing yet, under the next number as its version.

    Give its specification, or its `definition` as a policy file, or both where they agree.
    Raises InvalidInput naming `policy` or `definition`.
    """
    if definition:
        try:
            named = policy_file.parse(definition).policy
            policies.parse(named).start(configuration.arms)
        except InvalidInput as error:
            raise InvalidInput("definition", f"{error.field}: {error.why}" if error.field else error.why) from error
        if policy not in ("", named):
            raise InvalidInput("policy", f"the definition says {named!r}")
    else:
        named = policy
        policies.parse(named).start(configuration.arms)
    versions = [int(record.version) for record in configuration.policies if record.version.isdecimal()]
    version = str(max(versions, default=0) + 1)
    return PolicyPut(policy=PolicyRecord(version=version, policy=named, definition=definition, created_us=at_us))


def start_shadow(configuration: Configuration, version: str) -> PolicyPut:
    """Has a policy asked beside the live one; it is the same again where it is asked already.

    Raises Unknown where the router has no such policy, and WrongOrder where it decides or others enough are asked.
    """
    record = _idle(configuration, version)
    others = [shadow for shadow in configuration.shadows if shadow.version != version]
    if len(others) >= MOST_SHADOWS:
        raise WrongOrder(f"{MOST_SHADOWS} policies are in shadow, and each takes its time at every decision")
    return PolicyPut(policy=msgspec.structs.replace(record, stage=PolicyStage.SHADOW, why=""))


def start_canary(configuration: Configuration, version: str, canary: Canary) -> PolicyPut:
    """Gives a policy a share of new sessions.

    Raises Unknown where the router has no such policy, and WrongOrder where it decides, another canary runs, or the
    baseline takes every session in apprentice mode.
    """
    record = _idle(configuration, version)
    if (running := configuration.canary) is not None:
        raise WrongOrder(f"policy {running.version!r} is a canary: only one runs at a time")
    if _settings(configuration).mode is Mode.APPRENTICE:
        raise WrongOrder("in apprentice mode the baseline arm takes every session, so that a canary has none to decide")
    return PolicyPut(policy=msgspec.structs.replace(record, stage=PolicyStage.CANARY, canary=canary, why=""))


def _idle(configuration: Configuration, version: str) -> PolicyRecord:
    """The policy, where it decides nothing."""
    record = _known(configuration, version)
    if record.stage is PolicyStage.LIVE:
        raise WrongOrder(f"policy {version!r} is the live one")
    if record.stage is PolicyStage.CANARY:
        raise WrongOrder(f"policy {version!r} is a canary already")
    return record


def promote(configuration: Configuration, version: str, *, why: str = "") -> tuple[PolicyPut | RouterPut, ...]:
    """Makes a policy the live one: first the event of that policy, then what else changes; nothing where it is live.

    Raises Unknown where the router has no such policy, and WrongOrder where another one is a canary.
    """
    settings = _settings(configuration)
    record = _known(configuration, version)
    live = _live(configuration)
    if record.version == live.version:
        return (PolicyPut(policy=record),)
    _require_no_canary_but(version, configuration)
    promoted = msgspec.structs.replace(record, stage=PolicyStage.LIVE, before=live.version, why=why)
    superseded = msgspec.structs.replace(live, stage=PolicyStage.SUPERSEDED, settings=settings)
    return PolicyPut(policy=promoted), PolicyPut(policy=superseded), RouterPut(settings=under(settings, record))


def roll_back(configuration: Configuration, version: str = "", *, why: str = "") -> tuple[PolicyPut | RouterPut, ...]:
    """Takes a policy out of shadow, canary or live; without a version the canary, else the live one.

    First comes the event of the policy that decides then: the live one, or the one before it, which returns. Then
    comes what else changes.
    Raises Unknown where the router has no policy of that version, and WrongOrder where it decides nothing, where none
    is there to return, or where a canary is compared with the one that would go.
    """
    settings = _settings(configuration)
    live, canary = _live(configuration), configuration.canary
    version = version or (canary or live).version
    record = _known(configuration, version)
    if record.stage in (PolicyStage.SHADOW, PolicyStage.CANARY):
        # The one before the live one goes on to be there to roll back to.
        kept = record.stage is PolicyStage.SHADOW and record.version == live.before
        stage = PolicyStage.SUPERSEDED if kept else PolicyStage.ROLLED_BACK
        return PolicyPut(policy=live), PolicyPut(policy=msgspec.structs.replace(record, stage=stage, why=why))
    if version != live.version:
        raise WrongOrder(f"policy {version!r} does not decide: the live one is {live.version!r}")
    _require_no_canary_but("", configuration)
    before = configuration.policy(live.before)
    if before is None or before.stage not in (PolicyStage.SUPERSEDED, PolicyStage.SHADOW):
        raise WrongOrder(f"there is no policy to return to from {live.version!r}")
    returned = msgspec.structs.replace(before, stage=PolicyStage.LIVE, why=why)
    taken_out = msgspec.structs.replace(live, stage=PolicyStage.ROLLED_BACK, why=why, settings=settings)
    return PolicyPut(policy=returned), PolicyPut(policy=taken_out), RouterPut(settings=under(settings, before))


def _require_no_canary_but(version: str, configuration: Configuration) -> None:
    running = configuration.canary
    if running is not None and running.version != version:
        raise WrongOrder(
            f"policy {running.version!r} is a canary beside the live one: promote it or roll it back first"
        )


def _known(configuration: Configuration, version: str) -> PolicyRecord:
    record = configuration.policy(version)
    if record is None:
        raise Unknown("policy_version", "policy", version)
    return record


def _settings(configuration: Configuration) -> RouterSettings:
    assert configuration.settings is not None, "a router has settings"
    return configuration.settings


def _live(configuration: Configuration) -> PolicyRecord:
    record = configuration.policy(_settings(configuration).policy_version)
    assert record is not None, "settings name a policy of the router"
    return record


def under(settings: RouterSettings, record: PolicyRecord) -> RouterSettings:
    """The settings with a policy and its numbers: those it decided by last, or those of its definition."""
    if record.settings is not None:
        numbers = {name: getattr(record.settings, name) for name in _NUMBERS}
        settings = msgspec.structs.replace(settings, **numbers)
    elif record.definition:
        settings = policy_file.parse(record.definition).over(settings)
    return msgspec.structs.replace(settings, policy=record.policy, policy_version=record.version)
