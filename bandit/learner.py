"""The fold: blocks of events become epochs.

A block is cut by what the log holds, never by time, so the same prefix of the log always gives the same epochs,
whoever folds it and whenever. It ends where a sixteenth as many outcomes as all before it have come, at least 1 and
at most 64: early on every outcome counts at once, later the posterior is never more than about 6 % behind. Where a
session is erased that taught something in the block at hand, the block ends early.

Policies in shadow and the canary learn beside the live one: each has a state of its own in every epoch, by the same
blocks. One that begins starts from all that the live one has learned from, so that it is level with it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeAlias

import msgspec

from bandit import policy as policies
from bandit.configuration import Configuration
from bandit.decision import Vintage
from bandit.events import (
    ArmPut,
    Closed,
    Decided,
    Erased,
    Escalated,
    Event,
    PolicyPut,
    Progressed,
    Rewarded,
    RouterPut,
)
from bandit.pacing import NO_PACE, Pace
from bandit.session import AttemptRow, Session, SessionChange, apply
from bandit.types import Arm, Mode, PolicyStage, RouterSettings

_LARGEST_BLOCK = 64
_BLOCK_SHARE = 16


class Sessions(Protocol):
    """Where a learner keeps the sessions it has seen: a dictionary, or a cache in front of a store."""

    def get(self, session_id: str, /) -> Session | None:
        """The session as after the last event fed, or None where it had none."""
        ...

    def put(self, session_id: str, session: Session, /) -> None:
        """The session as after the event being fed."""
        ...

    def everything(self) -> Iterable[Session]:
        """All sessions fed so far, in order of their first event."""
        ...


class InMemory:
    """Sessions in a dictionary, for simulation and for folding a log that fits into memory."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def get(self, session_id: str, /) -> Session | None:
        """The session as after the last event fed, or None."""
        return self._sessions.get(session_id)

    def put(self, session_id: str, session: Session, /) -> None:
        """The session as after the event being fed."""
        self._sessions[session_id] = session

    def everything(self) -> Iterable[Session]:
        """All sessions fed so far, in order of their first event."""
        return self._sessions.values()


_States: TypeAlias = dict[str, tuple[policies.AnyPolicy, Any]]
"""By version, policies and what they have learned."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy has learned, as data."""

    policy: str
    """Its specification."""
    policy_version: str
    state: bytes


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A learner at the end of a block, as data: what an epoch file holds."""

    configuration: Configuration
    policy: str
    """Specification of the policy whose state this is."""
    policy_version: str
    epoch: int
    seq: int
    """Sequence number of the last event folded."""
    outcomes: int
    """Outcomes learned from so far."""
    waiting: int = 0
    """Outcomes that came while the router was frozen, …"""
    unlearned: tuple[tuple[str, tuple[AttemptRow, ...]], ...] = ()
    """… their sessions, and what each had taught before them."""
    pace: Pace = NO_PACE
    """How spending stood against the budget."""
    state: bytes
    beside: tuple[State, ...] = ()
    """What the policies in shadow and the canary have learned from the same."""


class Learner:
    """Folds one router's events, in sequence order, into epochs.

    Feed it every event of the router; after each, `vintage` is the newest epoch.
    """

    def __init__(self, sessions: Sessions | None = None) -> None:
        self.configuration = Configuration()
        self.pace = NO_PACE
        """How spending stands after the last event fed."""
        self.vintage: Vintage | None = None
        self.beside: Mapping[str, Vintage] = {}
        """By version, the policies in shadow and the canary at the same epoch. One that has raised an error is missing:
        it must not hold up the others."""
        self.seq = 0
        """Last sequence number fed."""
        self.epoch_seq = 0
        """Last sequence number folded into the newest epoch."""
        self._sessions = sessions if sessions is not None else InMemory()
        self._outcomes = 0
        self._pending = 0
        self._dirty: dict[str, tuple[AttemptRow, ...]] = {}
        # What was pending when the newest epoch was published: nothing, unless the router was frozen.
        self._waiting = 0
        self._unlearned: tuple[tuple[str, tuple[AttemptRow, ...]], ...] = ()
        self._epoch_pace = NO_PACE

    def feed(self, seq: int, event: Event, session_id: str = "", at_us: int = 0) -> bool:
        """Takes in the router's next event, which happened at `at_us`, UTC microseconds since 1970. `session_id` names
        its session, if any. True where an epoch ended with it.

        Raises ValueError where `seq` does not come after the last one fed.
        """
        if seq <= self.seq:
            raise ValueError(f"event {seq} was fed after {self.seq}")
        self.seq = seq
        frozen = self._frozen
        self.configuration = self.configuration.apply(event)
        match event:
            case RouterPut(settings=settings):
                if self._is_new(settings):
                    self._take_over(settings)
                    return True
                return frozen and not self._frozen and self._end_block_if_full()
            case PolicyPut():
                return self._follow()
            case ArmPut():
                return self._end_block()
            case Decided() | Escalated() | Rewarded() | Closed():
                return self._observe(event, session_id, at_us)
            case Progressed():
                self._remember(event, session_id)
            case Erased():
                return self._erase(event, session_id)
        return False

    @property
    def _frozen(self) -> bool:
        settings = self.configuration.settings
        return settings is not None and settings.mode is Mode.FROZEN

    def _is_new(self, settings: RouterSettings) -> bool:
        """Whether the policy that is to decide is another than the one that does."""
        vintage = self.vintage
        return vintage is None or (settings.policy, settings.policy_version) != (
            vintage.policy.spec,
            vintage.policy_version,
        )

    def _take_over(self, settings: RouterSettings) -> None:
        """A policy that takes over learns from all that was logged before it."""
        version = settings.policy_version
        ready = self.beside.get(version)
        if ready is not None and ready.policy.spec == settings.policy:
            others = {other: vintage for other, vintage in self.beside.items() if other != version}
            self._publish(ready.policy, version, ready.state, _states(others))
            return
        beside = self._fold_beside(self._changes())
        policy = policies.parse(settings.policy)
        state = policy.start(self._arms)
        self._dirty, self._pending = {}, 0
        if past := self._past():
            state = policy.fold(state, self._arms, past)
        self._publish(policy, version, state, beside)

    def _follow(self) -> bool:
        """Begins and ends what is learned beside the live policy. One that is to be live is kept until it is."""
        stages = {record.version: record.stage for record in self.configuration.policies}
        followed = (PolicyStage.SHADOW, PolicyStage.CANARY, PolicyStage.LIVE)
        self.beside = {version: at for version, at in self.beside.items() if stages.get(version) in followed}
        begun = [
            record
            for record in self.configuration.policies
            if record.stage in followed[:2] and record.version not in self.beside
        ]
        if not begun or self.vintage is None:
            return False
        past = self._past()
        beside = _states(self.beside)
        for record in begun:
            try:
                policy = policies.parse(record.policy)
                state = policy.start(self._arms)
                beside[record.version] = policy, policy.fold(state, self._arms, past) if past else state
            except Exception:
                continue
        self._publish(self.vintage.policy, self.vintage.policy_version, self.vintage.state, beside)
        return True

    def _past(self) -> list[SessionChange]:
        """All that was learned from so far, as if it were new."""
        past = []
        for session in self._sessions.everything():
            dirty = self._dirty.get(session.session_id)
            past.append(
                SessionChange(
                    session_id=session.session_id, before=(), after=session.rows() if dirty is None else dirty
                )
            )
        return [change for change in past if change.after]

    @property
    def _arms(self) -> tuple[Arm, ...]:
        return self.configuration.arms

    def _observe(self, event: Event, session_id: str, at_us: int) -> bool:
        before = self._sessions.get(session_id)
        after = apply(before, event)
        if after is None:
            return False
        self._sessions.put(session_id, after)
        if self.configuration.settings is not None:
            self.pace = self.pace.observe(self.configuration.settings.objective, at_us, before, after)
        if isinstance(event, Decided) and event.left is None:
            return False
        told = before.rows() if before is not None else ()
        if after.rows() == told:
            # Nothing new, a repeated report say: it must not move the ends of blocks.
            return False
        self._dirty.setdefault(session_id, told)
        self._pending += 1
        return not self._frozen and self._end_block_if_full()

    def _remember(self, event: Progressed, session_id: str) -> None:
        """What was reported of a running attempt teaches once it has ended."""
        session = apply(self._sessions.get(session_id), event)
        if session is not None:
            self._sessions.put(session_id, session)

    def _erase(self, event: Erased, session_id: str) -> bool:
        """What the session has taught becomes part of an epoch, so that nobody who goes on from the newest one needs
        the features that are gone."""
        ended = session_id in self._dirty and self._end_block()
        erased = apply(self._sessions.get(session_id), event)
        if erased is not None:
            self._sessions.put(session_id, erased)
        return ended

    def _end_block_if_full(self) -> bool:
        if self._pending < max(1, min(_LARGEST_BLOCK, self._outcomes // _BLOCK_SHARE)):
            return False
        return self._end_block()

    def _end_block(self) -> bool:
        if self.vintage is None:
            return False
        policy, version = self.vintage.policy, self.vintage.policy_version
        if self._frozen:
            # The arms count at once; what was reported meanwhile has to wait.
            changes = []
        else:
            changes = self._changes()
            self._outcomes += self._pending
            self._dirty, self._pending = {}, 0
        beside = self._fold_beside(changes)
        self._publish(policy, version, policy.fold(self.vintage.state, self._arms, changes), beside)
        return True

    def _changes(self) -> list[SessionChange]:
        """What the block at hand has changed."""
        changes = []
        for session_id, before in self._dirty.items():
            session = self._sessions.get(session_id)
            after = session.rows() if session is not None else ()
            if after != before:
                changes.append(SessionChange(session_id=session_id, before=before, after=after))
        return changes

    def _fold_beside(self, changes: list[SessionChange]) -> _States:
        folded: _States = {}
        for version, (policy, state) in _states(self.beside).items():
            try:
                folded[version] = policy, policy.fold(state, self._arms, changes)
            except Exception:
                continue
        return folded

    def _publish(self, policy: policies.AnyPolicy, version: str, state: Any, beside: _States) -> None:
        self.epoch_seq = self.seq
        self._waiting, self._unlearned = self._pending, tuple(self._dirty.items())
        self._epoch_pace = self.pace
        epoch = self.vintage.epoch + 1 if self.vintage is not None else 0
        self.vintage = _vintage(policy, version, epoch, state)
        self.beside = {other: _vintage(its, other, epoch, state) for other, (its, state) in beside.items()}

    def vintages(self) -> dict[str, Vintage]:
        """The newest epoch of each policy that learns, by version."""
        return {**self.beside, **({self.vintage.policy_version: self.vintage} if self.vintage is not None else {})}

    def snapshot(self) -> bytes:
        """The learner at the end of its newest block, as bytes. Raises ValueError where there is no epoch yet."""
        if self.vintage is None:
            raise ValueError("nothing has been folded yet")
        return msgspec.msgpack.encode(
            Snapshot(
                configuration=self.configuration,
                policy=self.vintage.policy.spec,
                policy_version=self.vintage.policy_version,
                epoch=self.vintage.epoch,
                seq=self.epoch_seq,
                outcomes=self._outcomes,
                waiting=self._waiting,
                unlearned=self._unlearned,
                pace=self._epoch_pace,
                state=self.vintage.policy.dump(self.vintage.state),
                beside=tuple(
                    State(policy=at.policy.spec, policy_version=version, state=at.policy.dump(at.state))
                    for version, at in self.beside.items()
                ),
            ),
            order="sorted",
        )

    @classmethod
    def resume(cls, blob: bytes, sessions: Sessions | None = None) -> "Learner":
        """A learner that goes on from a snapshot: feed it the events after `epoch_seq`.

        Raises ValueError where the bytes are no snapshot.
        """
        try:
            snapshot = msgspec.msgpack.decode(blob, type=Snapshot)
        except msgspec.MsgspecError as error:
            raise ValueError(f"not a learner's snapshot: {error}") from error
        learner = cls(sessions)
        learner.configuration = snapshot.configuration
        learner.seq = learner.epoch_seq = snapshot.seq
        learner._outcomes = snapshot.outcomes
        learner._waiting, learner._unlearned = snapshot.waiting, snapshot.unlearned
        learner.pace = learner._epoch_pace = snapshot.pace
        learner._pending, learner._dirty = snapshot.waiting, dict(snapshot.unlearned)
        learner.vintage = _loaded(snapshot.policy, snapshot.policy_version, snapshot.epoch, snapshot.state)
        learner.beside = {
            other.policy_version: _loaded(other.policy, other.policy_version, snapshot.epoch, other.state)
            for other in snapshot.beside
        }
        return learner


def _states(vintages: Mapping[str, Vintage]) -> _States:
    return {version: (vintage.policy, vintage.state) for version, vintage in vintages.items()}


def _vintage(policy: policies.AnyPolicy, version: str, epoch: int, state: Any) -> Vintage:
    return Vintage(
        policy=policy,
        policy_version=version,
        epoch=epoch,
        epoch_hash=state_hash(policy.dump(state)),
        state=state,
    )


def _loaded(spec: str, version: str, epoch: int, blob: bytes) -> Vintage:
    policy = policies.parse(spec)
    return Vintage(
        policy=policy, policy_version=version, epoch=epoch, epoch_hash=state_hash(blob), state=policy.load(blob)
    )


def state_hash(blob: bytes) -> str:
    """The hash by which an epoch is known: 128 bits of BLAKE2b over the dumped state, in hex."""
    return hashlib.blake2b(blob, digest_size=16).hexdigest()
