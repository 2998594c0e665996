"""One policy, one seed, one pass through a world: the moves that the server makes, with the world as the agent.

Every event is numbered and fed to the learner at once, and only what the chosen arm did is ever told. Randomness of
the world is keyed by (seed, session, arm), so two policies that take the same arm on the same session see the same
truth and the same alarm.

A world of running attempts reports on each as it goes, and leaves it as it is advised to.

A session a second begins, in simulated time, the first at 0: a budget's period of N seconds has N sessions.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from bandit import eligibility, moves, progress, sampling
from bandit.events import ArmPut, Decided, Event, Progressed, Rewarded, RouterPut
from bandit.learner import InMemory, Learner
from bandit.types import Arm, Decision, EscalationReason, Objective, Outcome, ProgressAction, RouterSettings, Signals
from sim import attempts as noted
from sim.struggling import Struggling
from sim.world import Floats, Terms, World, every_arm, phases

Log: TypeAlias = Callable[[int, int, Event, str], None]
"""Told of every event: its number, when it happened (UTC microseconds since 1970), and its session's id, if any."""
Advise: TypeAlias = Callable[..., Progressed]
"""What answers a report on a running attempt, as `progress.report` does."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What came of one policy's sessions under one seed, in their order; arrays have shape (n_sessions,)."""

    task: npt.NDArray[np.int64]
    """Position of the session's task in the world."""
    success: Floats
    """Whether the last attempt was good, 0 or 1."""
    cost_usd: Floats
    """Dollars of all attempts together."""
    attempts: npt.NDArray[np.int64]
    wall_seconds: float
    """Time that deciding and learning took, the world's own work included."""
    tried: noted.Attempts = field(default_factory=noted.none)
    """Every attempt; none where nobody noted them."""


def tasks_of(seed: int, world: World, sessions: int | None) -> npt.NDArray[np.int64]:
    """The tasks of a run, in order: each once, or `sessions` of them drawn with replacement; each in its own time."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    return np.concatenate(
        [
            tasks.start + (rng.permutation(len(tasks)) if sessions is None else rng.integers(len(tasks), size=len(run)))
            for run, tasks in phases(world, sessions)
        ]
    )


def plain(policy: str, terms: Terms) -> RouterSettings:
    """The router that a policy's specification alone makes under these terms."""
    return RouterSettings(
        policy=policy, objective=Objective(value_usd=terms.value_usd), max_attempts=terms.max_attempts
    )


def run(
    world: World,
    terms: Terms,
    policy: str | RouterSettings,
    seed: int,
    sessions: int | None = None,
    *,
    log: Log | None = None,
    advise: Advise = progress.report,
) -> Run:
    """Runs a policy from nothing: named by its specification, or with all that a router may be set to.

    `log` is called with every event, in order. `advise` answers the reports on running attempts.
    Raises InvalidInput where there is no such policy or it names an arm that the world has not.
    """
    order = tasks_of(seed, world, sessions)
    settings = plain(policy, terms) if isinstance(policy, str) else policy
    router = _Router(world, terms, msgspec.structs.replace(settings, seed=seed), log, advise)
    success = np.empty(len(order))
    cost = np.empty(len(order))
    attempts = np.empty(len(order), np.int64)
    began = time.perf_counter()
    for i, task in enumerate(order.tolist()):
        success[i], cost[i], attempts[i] = router.session(f"{seed}-{i}", task)
    router.tell_all()
    seconds = time.perf_counter() - began
    return Run(
        task=order,
        success=success,
        cost_usd=cost,
        attempts=attempts,
        wall_seconds=seconds,
        tried=router.notes.all(),
    )


class _Router:
    """A router in a process of its own: its learner, and the sessions it was asked for."""

    def __init__(self, world: World, terms: Terms, settings: RouterSettings, log: Log | None, advise: Advise) -> None:
        self._world = world
        self._terms = terms
        self._settings = settings
        self._log = log
        self._advise = advise
        self.notes = noted.Notes()
        self._sessions = InMemory()
        self._untold: deque[tuple[int, Rewarded]] = deque()
        """Outcomes that are told later, and the number of sessions begun at which each is due."""
        self._begun = 0
        self._at_us = 0
        self._learner = Learner(self._sessions)
        self._arm = {arm.id: k for k, arm in enumerate(every_arm(world))}
        # The arms come first: a policy that names an arm cannot start without it.
        self._put(world.arms)
        self._changes = deque(world.changes)
        self._feed(RouterPut(settings=self._settings))

    def session(self, session_id: str, task: int) -> tuple[float, float, int]:
        """Plays one session to its end: its success (0 or 1), its dollars and its number of attempts."""
        self._at_us = self._begun * 1_000_000
        while self._changes and self._changes[0].at <= self._begun:
            self._put(self._changes.popleft().put)
        self._begun += 1
        vintage = self._learner.vintage
        assert vintage is not None, "the router has been put"
        event = moves.select(
            self._settings,
            vintage,
            None,
            session_id=session_id,
            features=self._world.tasks[task].features,
            offers=self._offers,
            decision_id=f"{session_id}-1",
            budget_price=self._budget_price(),
        )
        assert isinstance(event, Decided), "a new session has nothing to stick to"
        spent = 0.0
        attempt = 1
        while True:
            self._feed(event, session_id)
            decision = event.decision
            truth, reason, seen = self._attempt(session_id, task, decision, attempt)
            spent += truth.cost_usd or 0.0
            following = self._escalate(session_id, decision.decision_id, attempt, reason, seen) if reason else None
            if following is None:
                break
            event = following
            attempt += 1
        known = sampling.uniform(b"sim verdict", self._settings.seed, session_id, 0)
        told = known < self._world.verdicts[truth.success == 1.0]
        last = truth if told else msgspec.structs.replace(truth, success=None)
        self._tell_later(session_id, decision.decision_id, last, final=True)
        self._tell_due()
        return truth.success or 0.0, spent, attempt

    def _attempt(
        self, session_id: str, task: int, decision: Decision, attempt: int
    ) -> tuple[Outcome, EscalationReason | None, Outcome]:
        """How an attempt went, why it is left (None: it ends the session), and what is told of it where it is."""
        arm = self._arm[decision.arm]
        good, truth, reason, told = self._play(session_id, task, arm, decision, attempt)
        score = next(score for score in decision.scores if score.arm == decision.arm)
        self.notes.add(
            session=self._begun - 1,
            number=attempt,
            arm=arm,
            foretold_success=score.success_mean,
            foretold_usd=score.cost_usd,
            success=float(good),
            cost_usd=truth.cost_usd or 0.0,
            left=reason is not None,
        )
        return truth, reason, told

    def _play(
        self, session_id: str, task: int, arm: int, decision: Decision, attempt: int
    ) -> tuple[bool, Outcome, EscalationReason | None, Outcome]:
        """As `_attempt`, and before all whether it is good where it goes on to its end."""
        would = self._world.outcome(task, arm, attempt)
        key = f"{session_id}\0{decision.arm}"
        good = sampling.uniform(b"sim success", self._settings.seed, key, 0) < (would.success or 0.0)
        truth = msgspec.structs.replace(would, success=float(good))
        if isinstance(self._world, Struggling):
            course = self._world.course(
                task, arm, sampling.generator(b"sim course", self._settings.seed, key), good=good
            )
            if (left := self._watch(session_id, decision, course.reports)) is not None:
                return good, msgspec.structs.replace(left, success=0.0), EscalationReason.STRUGGLING, left
            truth = course.outcome
        chance = self._terms.false_alarm if good else self._terms.detect
        alarm = sampling.uniform(b"sim alarm", self._settings.seed, key, 0) < chance
        told = msgspec.structs.replace(truth, success=None)
        return good, truth, EscalationReason.VERIFIED_FAILURE if alarm else None, told

    def _watch(self, session_id: str, decision: Decision, reports: Sequence[Signals]) -> Outcome | None:
        """Reports on an attempt as it runs: its outcome where it is to be left, None where it goes on to its end."""
        for signals in reports:
            vintage, session = self._learner.vintage, self._sessions.get(session_id)
            assert vintage is not None and session is not None, "the session has begun"
            event = self._advise(
                self._settings,
                vintage,
                session,
                decision_id=decision.decision_id,
                signals=signals,
                offers=self._offers,
                budget_price=self._budget_price(),
            )
            self._feed(event, session_id)
            if event.action is not ProgressAction.CONTINUE:
                return Outcome(cost_usd=signals.cost_usd, usage=signals.usage)
        return None

    def _escalate(
        self, session_id: str, decision_id: str, attempt: int, reason: EscalationReason, seen: Outcome
    ) -> Decided | None:
        """Raises the alarm: the next attempt, or None where the session is exhausted."""
        vintage, session = self._learner.vintage, self._sessions.get(session_id)
        assert vintage is not None and session is not None, "the session has begun"
        events = moves.escalate(
            self._settings,
            vintage,
            session,
            decision_id=decision_id,
            reason=reason,
            offers=self._offers,
            next_decision_id=f"{session_id}-{attempt + 1}",
            outcome=Outcome() if self._terms.delay else seen,
            budget_price=self._budget_price(),
        )
        self._feed(events[0], session_id)
        if self._terms.delay:
            self._tell_later(session_id, decision_id, seen, final=False)
        return events[1] if len(events) == 2 else None

    def _put(self, arms: Sequence[Arm]) -> None:
        """Adds, changes or retires arms."""
        for arm in arms:
            self._feed(ArmPut(arm=arm))
        self._offers = eligibility.offers(self._learner.configuration.arms)

    def tell_all(self) -> None:
        """Tells what is still to be told: no more sessions begin."""
        while self._untold:
            self._tell(self._untold.popleft()[1])

    def _tell_later(self, session_id: str, decision_id: str, outcome: Outcome, *, final: bool) -> None:
        told = Rewarded(session_id=session_id, decision_id=decision_id, outcome=outcome, revision=0, final=final)
        self._untold.append((self._begun + self._terms.delay, told))

    def _tell_due(self) -> None:
        while self._untold and self._untold[0][0] <= self._begun:
            self._tell(self._untold.popleft()[1])

    def _tell(self, told: Rewarded) -> None:
        session = self._sessions.get(told.session_id)
        assert session is not None, "it has an attempt"
        self._feed(msgspec.structs.replace(told, revision=session.revision + 1), told.session_id)

    def _budget_price(self) -> float:
        return self._learner.pace.price(self._settings.objective, self._at_us)

    def _feed(self, event: Event, session_id: str = "") -> None:
        seq = self._learner.seq + 1
        self._learner.feed(seq, event, session_id, self._at_us)
        if self._log is not None:
            self._log(seq, self._at_us, event, session_id)
