"""Could this event have come about here? What passes can be folded and read back without an error.

For events from another log, which anybody may have written. An event that a Pointsman logged passes in its own place.
"""

import math
import re
import sys
from typing import Any

import msgspec

from bandit import policy as policies
from bandit import policy_file
from bandit.configuration import Configuration
from bandit.errors import InvalidInput
from bandit.events import (
    ArmPut,
    AvailabilitySet,
    Closed,
    Configured,
    Decided,
    Erased,
    Escalated,
    Event,
    PolicyPut,
    Progressed,
    Rewarded,
    RouterPut,
    Stuck,
)
from bandit.evidence import require_gate
from bandit.keys import MOST_ATTEMPTS, MOST_DRAWS
from bandit.promotion import MOST_SHADOWS
from bandit.session import Session
from bandit.types import Decision, PolicyRecord, PolicyStage, RouterSettings

_MOST = 1e12
"""Of dollars, seconds, tokens: far beyond any real one, and sums of them stay finite."""
_MOST_INTEGER = 2**63 - 1
_MOST_COUNT = 2**53
_MOST_ERRORS = 1_000_000
_MOST_US = 253_402_300_799_999_999
"""The end of the year 9999: the last time that a protobuf Timestamp can tell."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SHARES = frozenset(
    (
        "error_share",
        "exploration_floor",
        "missing_success",
        "propensities",
        "propensity",
        "quality_floor",
        "share",
        "stop_propensity",
        "success",
        "success_high",
        "success_low",
        "success_mean",
        "success_rate",
    )
)
_TOKENS = frozenset(("input_tokens", "output_tokens", "cached_tokens"))
_DERIVED = (".decision.scores.cost_usd", ".decision.situation.budget_price", ".shadows.cost_usd")
"""What was computed, from prices and counts at their greatest perhaps: any finite amount."""
_FREE = frozenset(("features", "metrics"))
"""Where numbers may have any size and sign."""


def check(
    event: Event,
    *,
    router: str,
    session_id: str,
    decision_id: str,
    session: Session | None,
    configuration: Configuration,
) -> None:
    """Raises InvalidInput naming the field of the event that is wrong.

    `router`, `session_id` and `decision_id` are what the log is to file it under; `session` and `configuration` are
    as before it.
    """
    _check_numbers("body", msgspec.to_builtins(event))
    _require(_is_name(router), "router", "must be a name")
    about, refers_to = "", ""
    match event:
        case Decided(decision=decision):
            about, refers_to = decision.session_id, decision.decision_id
            _check_decision(decision, router, session, configuration)
            _check_shadows(event)
            if event.left is not None:
                _require(session is not None, "body.left", "there is no attempt to leave")
        case Stuck(decision_id=refers_to) | Progressed(decision_id=refers_to) | Escalated(decision_id=refers_to):
            about = session_id
            _require_attempt(session, refers_to)
        case Rewarded(session_id=about, decision_id=refers_to):
            _require_session(session)
            if refers_to:
                _require_attempt(session, refers_to)
            # A report without a number gets the next one, also after the greatest that may be given.
            _require(event.revision <= 2 * _MOST_COUNT, "body.revision", "too large")
        case Closed(session_id=about) | Erased(session_id=about):
            _require_session(session)
        case _:
            _check_configuring(event, router, configuration)
    _require(session_id == about, "session_id", f"is {session_id!r}, the body's is {about!r}")
    _require(decision_id == refers_to, "decision_id", f"is {decision_id!r}, the body's is {refers_to!r}")


def _check_decision(decision: Decision, router: str, session: Session | None, configuration: Configuration) -> None:
    situation = decision.situation
    _require(configuration.settings is not None, "router", f"{router!r} has not been put")
    _require(_is_name(decision.decision_id), "decision_id", "must be a name")
    _require(_is_name(decision.session_id), "session_id", "must be a name")
    _require(situation.router == router, "body.decision.situation.router", f"is not {router!r}")
    attempts = len(session.attempts) if session is not None else 0
    _require(situation.attempt == attempts + 1, "body.decision.situation.attempt", f"must be {attempts + 1}")
    _require(situation.attempts_left <= MOST_ATTEMPTS, "body.decision.situation.attempts_left", "too large")
    _require(situation.draws <= MOST_DRAWS, "body.decision.situation.draws", "too large")
    offered = [offer.arm for offer in situation.offers]
    _require(len(set(offered)) == len(offered), "body.decision.situation.offers", "an arm is there twice")
    known = {arm.id for arm in configuration.arms}
    _require(known >= set(offered), "body.decision.situation.offers", "an arm has not been put")
    _require(decision.arm in offered, "body.decision.arm", "is not among the offers")
    scored = {score.arm for score in decision.scores}
    _require(known >= scored | set(decision.ladder), "body.decision.scores", "an arm has not been put")


def _check_shadows(event: Decided) -> None:
    decision = event.decision
    for shadow in event.shadows:
        lengths = (0, len(decision.situation.offers))
        _require(len(shadow.propensities) in lengths, "body.shadows.propensities", "are not one an offer")
        attempts = shadow.terms.attempts_left if shadow.terms is not None else 0
        _require(attempts <= MOST_ATTEMPTS, "body.shadows.terms.attempts_left", "too large")
        draws = shadow.terms.draws if shadow.terms is not None else 1
        _require(draws <= MOST_DRAWS, "body.shadows.terms.draws", "too large")
    if decision.assignment is not None:
        _require(0.0 < decision.assignment.share < 1.0, "body.decision.assignment.share", "must lie between 0 and 1")


def _check_configuring(event: Event, router: str, configuration: Configuration) -> None:
    match event:
        case RouterPut(settings=settings):
            _check_settings("body.settings", settings, router)
            _check_policy(settings, configuration)
        case Configured(settings=settings):
            _check_settings("body.settings", settings, router)
        case ArmPut(arm=arm):
            _require(_is_name(arm.id), "body.arm.id", "must be a name")
            there = configuration.arm(arm.id)
            _require(there is None or not there.retired or arm.retired, "body.arm.id", "is retired, and never reused")
        case PolicyPut(policy=policy):
            _require(_is_name(policy.version), "body.policy.version", "must be a name")
            _require(policy.created_us <= _MOST_US, "body.policy.created_us", "after the year 9999")
            _check_tried(policy, configuration)
        case AvailabilitySet(arm=arm_id):
            _require(configuration.arm(arm_id) is not None, "body.arm", f"there is no arm {arm_id!r}")
            _require(event.until_us <= _MOST_US, "body.until_us", "after the year 9999")


def _check_tried(record: PolicyRecord, configuration: Configuration) -> None:
    """A policy that is to be asked can be, and a canary has its terms."""
    if record.stage not in (PolicyStage.SHADOW, PolicyStage.CANARY):
        return
    try:
        policies.parse(record.policy).start(configuration.arms)
        if record.definition:
            policy_file.parse(record.definition)
    except InvalidInput as error:
        raise InvalidInput("body.policy", str(error)) from error
    if record.stage is PolicyStage.SHADOW:
        others = [shadow for shadow in configuration.shadows if shadow.version != record.version]
        _require(len(others) < MOST_SHADOWS, "body.policy.stage", "too many are in shadow")
        return
    _require(configuration.settings is not None, "router", "has not been put")
    running = configuration.canary
    _require(running in (None, configuration.policy(record.version)), "body.policy.stage", "another canary runs")
    _require(record.canary is not None, "body.policy.canary", "is missing")
    if record.canary is not None:
        _require(0.0 < record.canary.share < 1.0, "body.policy.canary.share", "must lie between 0 and 1")
        require_gate(record.canary.gate, "body.policy.canary.gate")


def _check_settings(field: str, settings: RouterSettings, router: str) -> None:
    _require(settings.id == router, f"{field}.id", f"is not {router!r}")
    _require(_is_name(settings.policy_version), f"{field}.policy_version", "must be a name")
    _require(len(settings.policy_version) <= 64, f"{field}.policy_version", "longer than 64 characters")
    _require(1 <= settings.draws <= MOST_DRAWS, f"{field}.draws", f"must lie in 1 to {MOST_DRAWS}")
    _require(1 <= settings.max_attempts <= MOST_ATTEMPTS, f"{field}.max_attempts", "must lie in 1 to 16")
    _require(settings.alpha > 0, f"{field}.alpha", "must be above 0")
    _require(settings.objective.value_usd > 0, f"{field}.objective.value_usd", "must be above 0")
    errors = settings.failover.errors
    _require(1 <= errors <= _MOST_ERRORS, f"{field}.failover.errors", f"must lie in 1 to {_MOST_ERRORS}")
    budget = settings.objective.budget_usd, settings.objective.budget_period_seconds
    _require((budget[0] is None) == (budget[1] is None), f"{field}.objective.budget_usd", "needs its period")
    _require(0 not in budget, f"{field}.objective.budget_usd", "must be above 0, and its period too")


def _check_policy(settings: RouterSettings, configuration: Configuration) -> None:
    there = configuration.settings
    if there is not None and there.policy == settings.policy:
        return
    try:
        policies.parse(settings.policy).start(configuration.arms)
    except InvalidInput as error:
        raise InvalidInput("body.settings.policy", str(error)) from error


def _require_session(session: Session | None) -> None:
    _require(session is not None, "session_id", "no such session has begun")


def _require_attempt(session: Session | None, decision_id: str) -> None:
    _require_session(session)
    assert session is not None
    _require(session.index_of(decision_id) is not None, "decision_id", "is no attempt of the session")


def _is_name(value: str) -> bool:
    return value != "" and _CONTROL.search(value) is None


def _check_numbers(field: str, value: Any, name: str = "") -> None:
    match value:
        case bool() | None | str():
            return
        case dict():
            for key, item in value.items():
                if key in _FREE:
                    _check_numbers_finite(f"{field}.{key}", item)
                else:
                    _check_numbers(f"{field}.{key}", item, key)
        case list() | tuple():
            for item in value:
                _check_numbers(field, item, name)
        case int() | float():
            most = _most(field, name, value)
            _require(math.isfinite(value) and 0 <= value <= most, field, f"must lie in 0 to {most:g}")


def _most(field: str, name: str, value: float) -> float:
    """The greatest that a number of that name may be."""
    if name in _SHARES:
        return 1
    if name in _TOKENS:
        return _MOST_COUNT
    if field.endswith(_DERIVED):
        return sys.float_info.max
    return _MOST_INTEGER if isinstance(value, int) else _MOST


def _check_numbers_finite(field: str, value: Any) -> None:
    match value:
        case bool() | None | str():
            return
        case dict():
            for item in value.values():
                _check_numbers_finite(field, item)
        case list() | tuple():
            for item in value:
                _check_numbers_finite(field, item)
        case int() | float():
            _require(math.isfinite(value), field, "must be a finite number")


def _require(holds: bool, field: str, why: str) -> None:
    if not holds:
        raise InvalidInput(field, why)
