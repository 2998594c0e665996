"""Which policy decides: a router's policies, and the events that create one, promote it and roll it back.

Exactly one policy of a router is live. With it goes what its decisions depend on beside the log: the objective and
the numbers of `policy_file`. A policy that returns brings back those it decided by last.
"""

import msgspec

from bandit import policy as policies
from bandit import policy_file
from bandit.configuration import Configuration
from bandit.errors import InvalidInput, Unknown, WrongOrder
from bandit.events import PolicyPut, RouterPut
from bandit.types import PolicyRecord, PolicyStage, RouterSettings

_NUMBERS = ("objective", "alpha", "exploration_floor", "draws", "max_attempts")
"""The settings that go with a policy."""


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


def promote(configuration: Configuration, version: str) -> tuple[PolicyPut | RouterPut, ...]:
    """Makes a policy the live one: first the event of that policy, then what else changes; nothing where it is live.

    Raises Unknown where the router has no such policy.
    """
    settings = _settings(configuration)
    record = configuration.policy(version)
    if record is None:
        raise Unknown("policy_version", "policy", version)
    live = _live(configuration)
    if record.version == live.version:
        return (PolicyPut(policy=record),)
    promoted = msgspec.structs.replace(record, stage=PolicyStage.LIVE, before=live.version, why="")
    superseded = msgspec.structs.replace(live, stage=PolicyStage.SUPERSEDED, settings=settings)
    return PolicyPut(policy=promoted), PolicyPut(policy=superseded), RouterPut(settings=_under(settings, record))


def roll_back(configuration: Configuration, version: str = "", *, why: str = "") -> tuple[PolicyPut | RouterPut, ...]:
    """Takes the live policy out: first the event of the policy before it, which returns, then what else changes.

    Raises Unknown where the router has no policy of that version, and WrongOrder where it is not the live one or
    none is there to return.
    """
    settings = _settings(configuration)
    live = _live(configuration)
    if version and configuration.policy(version) is None:
        raise Unknown("policy_version", "policy", version)
    if version not in ("", live.version):
        raise WrongOrder(f"policy {version!r} does not decide: the live one is {live.version!r}")
    before = configuration.policy(live.before)
    if before is None or before.stage is not PolicyStage.SUPERSEDED:
        raise WrongOrder(f"there is no policy to return to from {live.version!r}")
    returned = msgspec.structs.replace(before, stage=PolicyStage.LIVE, why=why)
    taken_out = msgspec.structs.replace(live, stage=PolicyStage.ROLLED_BACK, why=why, settings=settings)
    return PolicyPut(policy=returned), PolicyPut(policy=taken_out), RouterPut(settings=_under(settings, before))


def _settings(configuration: Configuration) -> RouterSettings:
    assert configuration.settings is not None, "a router has settings"
    return configuration.settings


def _live(configuration: Configuration) -> PolicyRecord:
    record = configuration.policy(_settings(configuration).policy_version)
    assert record is not None, "settings name a policy of the router"
    return record


def _under(settings: RouterSettings, record: PolicyRecord) -> RouterSettings:
    """The settings with a policy and its numbers: those it decided by last, or those of its definition."""
    if record.settings is not None:
        numbers = {name: getattr(record.settings, name) for name in _NUMBERS}
        settings = msgspec.structs.replace(settings, **numbers)
    elif record.definition:
        settings = policy_file.parse(record.definition).over(settings)
    return msgspec.structs.replace(settings, policy=record.policy, policy_version=record.version)
