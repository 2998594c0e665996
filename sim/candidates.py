"""Policies in question: what each would have done at the steps of a log.

Fixed rules are worked out for whole arrays. Whatever has learned something is asked, frozen, with the very situations
of the log, in which only what the policy itself sets is changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np

from bandit import policy as policies
from bandit.baselines import Always, Ladder, Uniform
from bandit.decision import Vintage, must_stop, situate
from bandit.errors import InvalidInput, NoEligibleArm
from bandit.events import Decided, Escalated
from bandit.session import Session, apply
from bandit.types import Mode, Offer, RouterSettings, Situation
from sim.log_reader import Reader
from sim.piece import Piece
from sim.world import Floats


class Candidate(Protocol):
    """A policy that stays as it is over the sessions it is scored on."""

    @property
    def name(self) -> str:
        """As given."""
        ...

    @property
    def begins(self) -> int:
        """The first session that it may be scored on: what came before it has learned from."""
        ...

    @property
    def learned(self) -> int:
        """Sessions from `begins` on that it may have learned from all the same, and on which it looks too good."""
        ...

    def targets(self, piece: Piece) -> Floats:
        """How likely it takes each action at each step, shape (n_sessions, n_steps, n_arms + 1), sum 1 where there is
        a step and 0 elsewhere."""
        ...


def rule(name: str, policy: policies.AnyPolicy, arms: Sequence[str], max_attempts: int) -> Candidate | None:
    """A fixed rule as a candidate; None where the policy is none.

    Raises InvalidInput where it names an arm that the log never offered.
    """
    named = (policy.arm,) if isinstance(policy, Always) else policy.rungs if isinstance(policy, Ladder) else ()
    for arm in named:
        if arm not in arms:
            raise InvalidInput("policy", f"the log never offered {arm!r}; it has {', '.join(arms)}")
    if isinstance(policy, Uniform):
        return _UniformRule(name=name, max_attempts=max_attempts)
    if isinstance(policy, Always):
        # A first attempt that fails is left alone: it never climbs.
        return _LadderRule(name=name, rungs=(arms.index(policy.arm),), max_attempts=1)
    if isinstance(policy, Ladder):
        return _LadderRule(name=name, rungs=tuple(map(arms.index, policy.rungs)), max_attempts=max_attempts)
    return None


@dataclass(frozen=True, kw_only=True)
class _UniformRule:
    name: str
    max_attempts: int
    begins: int = 0
    learned: int = 0

    def targets(self, piece: Piece) -> Floats:
        return _with_stop(piece, piece.open_arms / np.maximum(piece.open_arms.sum(axis=2, keepdims=True), 1), 0.0, self)


@dataclass(frozen=True, kw_only=True)
class _LadderRule:
    """The first rung that is open; after the last it gives up. Where it cannot: the first arm that is open."""

    name: str
    rungs: tuple[int, ...]
    max_attempts: int
    begins: int = 0
    learned: int = 0

    def targets(self, piece: Piece) -> Floats:
        arms = np.zeros(piece.open_arms.shape, order="F")
        found = np.zeros(piece.there.shape, bool, order="F")
        for rung in self.rungs:
            takes = piece.open_arms[:, :, rung] & ~found
            arms[:, :, rung] = takes
            found |= takes
        beyond = np.nonzero(~found & piece.open_arms.any(axis=2))
        arms[(*beyond, piece.open_arms[beyond].argmax(axis=1))] = 1.0
        return _with_stop(piece, arms, (~found).astype(float), self)


def _with_stop(piece: Piece, arms: Floats, stop: Floats | float, rule: "_UniformRule | _LadderRule") -> Floats:
    """Targets from a distribution over arms, (…, n_arms), and the chance of giving up where that is an answer."""
    nothing_left = ~piece.open_arms.any(axis=2) | (piece.alarms >= rule.max_attempts)
    stopping = np.where(piece.may_stop, np.where(nothing_left, 1.0, stop), 0.0)
    there = piece.there
    targets = np.empty(piece.propensities.shape, order="F")
    targets[:, :, :-1] = arms * ((1.0 - stopping) * there)[:, :, None]
    targets[:, :, -1] = stopping * there
    return targets


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned:
    """A policy with what it has learned, frozen."""

    name: str
    begins: int
    settings: RouterSettings
    """What it decides by: its objective, floor, draws and attempts."""
    vintage: Vintage
    log: Reader
    learned: int = 0

    def targets(self, piece: Piece) -> Floats:
        """What `Candidate` says. Raises InvalidInput where an event cannot be read."""
        n, steps, k = piece.open_arms.shape
        targets = np.zeros((n, steps, k + 1))
        policy = self.vintage.policy
        asked: list[tuple[int, int, Situation]] = []
        for row, step, situation in self._situations(piece):
            if must_stop(policy, situation):
                targets[row, step, k] = 1.0
            else:
                asked.append((row, step, situation))
        position = {arm: at for at, arm in enumerate(self.log.arms)}
        for (row, step, situation), (stop, chances) in zip(asked, self._answers([s for *_, s in asked]), strict=True):
            at = [position[offer.arm] for offer in situation.offers]
            targets[row, step, at] = (1.0 - stop) * chances
            targets[row, step, k] = stop
        return targets

    def _answers(self, situations: Sequence[Situation]) -> list[tuple[float, Floats]]:
        """The chance of giving up and the distribution over the offers, for each situation."""
        try:
            found = self.vintage.policy.distributions(self.vintage.state, situations)
        except NoEligibleArm:
            if len(situations) > 1:
                return [answer for situation in situations for answer in self._answers([situation])]
            # Too dear for the caps, all of them: it would give up.
            return [(1.0, np.zeros(len(situations[0].offers)))]
        return [
            (answer.stop_propensity if situation.may_stop else 0.0, answer.propensities)
            for situation, answer in zip(situations, found, strict=True)
        ]

    def _situations(self, piece: Piece) -> Sequence[tuple[int, int, Situation]]:
        """Every step's situation: the session's position in the piece, the step's number, the situation."""
        found: list[tuple[int, int, Situation]] = []
        offers_known: dict[tuple[Offer, ...], tuple[Offer, ...]] = {}
        session: Session | None = None
        at, step = -1, 0
        first = int(piece.numbers[0])
        for number, event in self.log.events_of(first, first + len(piece.numbers)):
            if number - first != at:
                session, at, step = None, number - first, 0
            session = apply(session, event)
            if isinstance(event, Decided):
                found.append((at, step, self._under_own(event.decision.situation, offers_known)))
                step += 1
            elif isinstance(event, Escalated) and event.reason.is_alarm and not event.next_decision_id and session:
                found.append((at, step, self._at_the_end(session, offers_known)))
        return found

    def _under_own(self, logged: Situation, known: dict[tuple[Offer, ...], tuple[Offer, ...]]) -> Situation:
        settings = self.settings
        return msgspec.structs.replace(
            logged,
            # The same object for equal offers: situations are worked on together where these are identical.
            offers=known.setdefault(logged.offers, logged.offers),
            attempts_left=max(0 if logged.may_stop else 1, settings.max_attempts - len(logged.alarmed)),
            mode=Mode.LIVE,
            baseline_arm="",
            objective=settings.objective,
            exploration_floor=settings.exploration_floor,
            draws=settings.draws,
            alpha=settings.alpha,
        )

    def _at_the_end(self, session: Session, known: dict[tuple[Offer, ...], tuple[Offer, ...]]) -> Situation:
        """The situation in which the session was given up, which the log does not hold: as at its last decision."""
        last = session.attempts[-1].decision.situation
        situation = situate(
            msgspec.structs.replace(self.settings, seed=last.seed, id=last.router),
            session,
            session_id=session.session_id,
            features=session.features,
            offers=last.offers,
            requirements=session.requirements,
            may_stop=True,
            budget_price=last.budget_price,
        )
        return self._under_own(situation, known)
