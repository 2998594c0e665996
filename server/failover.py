"""Failover: what agents report of an arm's endpoint takes it out for a while, and it returns by itself.

The windows live in memory and begin anew with the process. What they lead to is an event in the log, and stays.
"""

from collections import deque

import msgspec

from bandit.configuration import Configuration
from bandit.events import AvailabilitySet, Escalated, Event, Rewarded
from bandit.session import Session
from bandit.types import EscalationReason

_MOST_ENDS = 1024
"""Attempts remembered per endpoint: with more in a window, the last so many speak for all."""
_LONGEST_SECONDS = 3600.0


class _End(msgspec.Struct, frozen=True, gc=False):
    """An attempt that ended at an endpoint."""

    at_us: int
    failed: bool


class _Outage(msgspec.Struct, frozen=True, gc=False):
    """When an endpoint was last taken out: until when, and for how long."""

    until_us: int
    seconds: float


class Watch:
    """How attempts ended lately at each endpoint of one router's arms."""

    def __init__(self) -> None:
        self._ends: dict[tuple[str, str], deque[_End]] = {}
        self._outages: dict[tuple[str, str], _Outage] = {}

    def copy(self) -> "Watch":
        """Another one that has seen the same."""
        other = Watch()
        other._ends = {key: ends.copy() for key, ends in self._ends.items()}
        other._outages = dict(self._outages)
        return other

    def observe(
        self, configuration: Configuration, session: Session, event: Event, at_us: int
    ) -> AvailabilitySet | None:
        """Takes in an event of a session (as before it): what takes the endpoint out, or None.

        An attempt left with UNAVAILABLE has failed there. Any other Escalate, and a first reward of the attempt that
        runs, show that it was answered. The last arm that is up stays, whatever is reported: an agent is better off
        with an endpoint that may answer again than with no arm for certain.
        """
        settings = configuration.settings
        if settings is None or (end := _end(session, event)) is None:
            return None
        arm_id, endpoint, failed = end
        arm = configuration.arm(arm_id)
        if arm is None or arm.retired or endpoint not in (arm.endpoints or ("",)):
            return None
        down = configuration.down.get(arm_id, {})
        if any(name in down and down[name].until_us > at_us for name in (endpoint, "")):
            # It is out. Whatever ends there began before, and says nothing of how it will be after its return.
            return None
        key = arm_id, endpoint
        ends = self._ends.setdefault(key, deque(maxlen=_MOST_ENDS))
        ends.append(_End(at_us, failed))
        if not failed:
            return None
        failover = settings.failover
        window_us = int(failover.window_seconds * 1e6)
        # Neither too old nor, where the clock has jumped back, from the future.
        recent = [it.failed for it in ends if at_us - window_us < it.at_us <= at_us]
        errors = sum(recent)
        if errors < failover.errors or errors < failover.error_share * len(recent):
            return None
        seconds = failover.cool_down_seconds
        before = self._outages.get(key)
        if before is not None and at_us - before.until_us <= window_us:
            seconds = max(seconds, min(2 * before.seconds, _LONGEST_SECONDS))
        out = AvailabilitySet(
            arm=arm_id,
            endpoint=endpoint,
            until_us=at_us + int(seconds * 1e6),
            why=f"{errors} of {len(recent)} attempts in the last {failover.window_seconds:g} s failed",
        )
        unavailable = configuration.apply(out).unavailable(at_us)
        if all(other.retired or other.id in unavailable for other in configuration.arms):
            return None
        ends.clear()
        self._outages[key] = _Outage(out.until_us, seconds)
        return out


def _end(session: Session, event: Event) -> tuple[str, str, bool] | None:
    """Arm and endpoint at which an attempt ended with the event, and whether it failed there; None where none did."""
    if not session.attempts:
        return None
    last = session.attempts[-1]
    arm = last.decision.arm
    match event:
        case Escalated():
            return arm, event.endpoint or last.endpoint, event.reason is EscalationReason.UNAVAILABLE
        case Rewarded() if last.left is None and not last.reported.ranks and not session.reported.ranks:
            if event.decision_id in ("", last.decision.decision_id):
                return arm, last.endpoint, False
    return None
