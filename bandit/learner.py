"""The fold: blocks of events become epochs.

A block is cut by what the log holds, never by time, so the same prefix of the log always gives the same epochs,
whoever folds it and whenever. It ends where a sixteenth as many outcomes as all before it have come, at least 1 and
at most 64: early on every outcome counts at once, later the posterior is never more than about 6 % behind.
"""

import hashlib
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from bandit import policy as policies
from bandit.decision import Vintage
from bandit.events import ArmPut, Decided, Escalated, Event, Rewarded, RouterPut
from bandit.session import AttemptRow, Session, SessionChange, apply
from bandit.types import Arm, RouterSettings

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


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A learner at the end of a block, as data: what an epoch file holds."""

    settings: RouterSettings
    arms: tuple[Arm, ...]
    policy_version: int
    epoch: int
    seq: int
    """Sequence number of the last event folded."""
    outcomes: int
    state: bytes


class Learner:
    """Folds one router's events, in sequence order, into epochs.

    Feed it every event of the router; after each, `vintage` is the newest epoch.
    """

    def __init__(self, sessions: Sessions | None = None) -> None:
        self.settings: RouterSettings | None = None
        self.arms: dict[str, Arm] = {}
        self.vintage: Vintage | None = None
        self.seq = 0
        """Last sequence number fed."""
        self.epoch_seq = 0
        """Last sequence number folded into the newest epoch."""
        self._sessions = sessions if sessions is not None else InMemory()
        self._policy_version = 0
        self._outcomes = 0
        self._pending = 0
        self._dirty: dict[str, tuple[AttemptRow, ...]] = {}

    def feed(self, seq: int, event: Event, session_id: str = "") -> bool:
        """Takes in the router's next event; `session_id` names its session, if any. True where an epoch ended with it.

        Raises ValueError where `seq` does not come after the last one fed.
        """
        if seq <= self.seq:
            raise ValueError(f"event {seq} was fed after {self.seq}")
        self.seq = seq
        match event:
            case RouterPut(settings=settings):
                return self._configure(settings)
            case ArmPut(arm=arm):
                self.arms[arm.id] = arm
                return self._end_block()
            case Decided() | Escalated() | Rewarded():
                return self._observe(event, session_id)
        return False

    def _configure(self, settings: RouterSettings) -> bool:
        changed = self.settings is None or settings.policy != self.settings.policy
        self.settings = settings
        if not changed:
            return False
        # A policy that takes over learns from all that was logged before it.
        self._policy_version += 1
        policy = policies.parse(settings.policy)
        arms = tuple(self.arms.values())
        state = policy.start(arms)
        past = [SessionChange(session_id=s.session_id, before=(), after=s.rows()) for s in self._sessions.everything()]
        if past := [change for change in past if change.after]:
            state = policy.fold(state, arms, past)
        self._dirty, self._pending = {}, 0
        self._publish(policy, state)
        return True

    def _observe(self, event: Event, session_id: str) -> bool:
        before = self._sessions.get(session_id)
        after = apply(before, event)
        if after is None:
            return False
        self._sessions.put(session_id, after)
        if isinstance(event, Decided) and event.left is None:
            return False
        told = before.rows() if before is not None else ()
        if after.rows() == told:
            # Nothing new, a repeated report say: it must not move the ends of blocks.
            return False
        self._dirty.setdefault(session_id, told)
        self._pending += 1
        if self._pending < max(1, min(_LARGEST_BLOCK, self._outcomes // _BLOCK_SHARE)):
            return False
        return self._end_block()

    def _end_block(self) -> bool:
        if self.vintage is None:
            return False
        changes = []
        for session_id, before in self._dirty.items():
            session = self._sessions.get(session_id)
            after = session.rows() if session is not None else ()
            if after != before:
                changes.append(SessionChange(session_id=session_id, before=before, after=after))
        self._outcomes += self._pending
        self._dirty, self._pending = {}, 0
        policy = self.vintage.policy
        self._publish(policy, policy.fold(self.vintage.state, tuple(self.arms.values()), changes))
        return True

    def _publish(self, policy: policies.AnyPolicy, state: Any) -> None:
        self.epoch_seq = self.seq
        self.vintage = Vintage(
            policy=policy,
            policy_version=str(self._policy_version),
            epoch=self.vintage.epoch + 1 if self.vintage is not None else 0,
            epoch_hash=state_hash(policy.dump(state)),
            state=state,
        )

    def snapshot(self) -> bytes:
        """The learner at the end of its newest block, as bytes. Raises ValueError where there is no epoch yet."""
        if self.vintage is None or self.settings is None:
            raise ValueError("nothing has been folded yet")
        return msgspec.msgpack.encode(
            Snapshot(
                settings=self.settings,
                arms=tuple(self.arms.values()),
                policy_version=self._policy_version,
                epoch=self.vintage.epoch,
                seq=self.epoch_seq,
                outcomes=self._outcomes,
                state=self.vintage.policy.dump(self.vintage.state),
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
        learner.settings = snapshot.settings
        learner.arms = {arm.id: arm for arm in snapshot.arms}
        learner.seq = learner.epoch_seq = snapshot.seq
        learner._policy_version = snapshot.policy_version
        learner._outcomes = snapshot.outcomes
        policy = policies.parse(snapshot.settings.policy)
        learner.vintage = Vintage(
            policy=policy,
            policy_version=str(snapshot.policy_version),
            epoch=snapshot.epoch,
            epoch_hash=state_hash(snapshot.state),
            state=policy.load(snapshot.state),
        )
        return learner


def state_hash(blob: bytes) -> str:
    """The hash by which an epoch is known: 128 bits of BLAKE2b over the dumped state, in hex."""
    return hashlib.blake2b(blob, digest_size=16).hexdigest()
