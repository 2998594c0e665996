"""One round: requests in their order of arrival become events of one transaction, and replies that wait for it.

Moves whose arm is yet to be drawn are gathered into a wave and drawn together. A request that may depend on the wave,
because it is about a session in it or repeats a request in it, is looked at after the wave was drawn, so that the
outcome is that of one request after the other.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from bandit import moves, record, shadows
from bandit.decision import Vintage
from bandit.errors import PointsmanError, WrongOrder
from bandit.events import (
    ArmPut,
    AvailabilitySet,
    Decided,
    Escalated,
    Event,
    PolicyPut,
    Progressed,
    Rewarded,
    RouterPut,
    Stuck,
    decision_of,
)
from bandit.session import Session, apply
from bandit.types import Arm
from server.commands import Accepted, Advised, Choice, Moved, PolicyStands, Reply, RouterStands, TakenIn
from server.ids import Entropy, Repeat
from server.intake import Admitted
from server.routers import Router, RouterState, arm_stands, configuration_at
from server.sessions import SessionCache, SessionKey
from server.store.errors import StoreDamaged, StoreError, StoreUnavailable
from server.store.protocol import CONFIGURING, NewEvent, Store, StoredEvent


class RepeatConflict(PointsmanError):
    """A request id was used before with another message."""


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """What a use case would do: nothing has happened yet."""

    router: Router
    reply: Reply
    session_id: str = ""
    session: Session | None = None
    """As before the events."""
    events: Sequence[Event] = ()
    at_once: bool = False
    """It may change what the router offers: those who came before are drawn for before it, those who come after are
    looked at after it. So are moves about no session."""


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """A move whose arm is yet to be drawn; what it replies follows from its events."""

    router: Router
    session_id: str
    session: Session | None
    """As before the events."""
    step: moves.Step
    vintage: Vintage
    """Of the policy that is to decide."""
    at_once: bool = False
    """As of a `Move`."""


class TakeIn(msgspec.Struct, frozen=True, kw_only=True):
    """Events of another log that are to enter this one as they are."""

    admit: Callable[[int, Sequence[NewEvent]], Admitted]
    """What of them is to be appended from the place given on, behind events that the log may not hold yet. Raises what
    is wrong with them."""
    router: Callable[[str], Router]
    """The router of that id, which may be new."""


class Happening(NamedTuple):
    """An event of a round."""

    router: str
    event: Event
    before: Session | None
    """Its session as it was before it; None where it had none, or is about none."""


class Asked(msgspec.Struct, kw_only=True):
    """A request, and what becomes of it."""

    repeat: Repeat | None
    case: Callable[[], Move | Draw | TakeIn]
    """Raises what is wrong with the request."""
    session: SessionKey | None = None
    """The session that the request names, if any: a round looks up all of its sessions at once."""
    begin_session: Callable[[], None] = lambda: None
    """Called when the request begins a session, before anything of it stands. Raises where it may not."""
    reply: Reply | Exception | None = None
    """What it is answered, or what the answer is refused with; to be told once its round has ended."""


class Round:
    """Let it `take` its line, make `events` durable, then `end` it.

    Where others append to the log too, it can be undone and taken again, until what they have appended since it was
    taken makes no difference to it.
    """

    def __init__(
        self,
        line: Sequence[Asked],
        *,
        store: Store,
        sessions: SessionCache,
        routers: dict[str, Router],
        at_us: int,
        entropy: Entropy,
        undoable: bool = False,
    ) -> None:
        """`at_us`: when it all happens, UTC microseconds since 1970. `undoable`: at a price, it can be undone."""
        self.events: list[NewEvent] = []
        self.happened: list[Happening] = []
        """Its events but those of another log."""
        self._line = line
        self._store = store
        self._cache = sessions
        self._routers = routers
        self._at_us = at_us
        self._entropy = entropy
        self._undoable = undoable
        self._repeats: dict[bytes, tuple[bytes, Reply | None]] = {}
        """Of this round's requests: their digests, and their replies once they are known."""
        self._logged: Mapping[bytes, tuple[bytes, int]] = {}
        """Of this round's requests, those that the log has: their digests, and their first events."""
        self._wave: list[tuple[Asked, Draw]] = []
        self._drawing: set[str] = set()
        """The wave's sessions."""
        self._changed: set[SessionKey] = set()
        """The sessions of which there are events."""
        self._found: dict[str, RouterState | None] = {}
        """The routers that it may have changed, as they were before; None: there was none of that name."""
        self._placed = False
        """Whether its events have to stand where they were to stand."""

    def take(self) -> None:
        """Carries out every request in line."""
        self._first_seq = self._store.last_seq + 1
        try:
            self._look_up()
        except StoreError as error:
            self._refuse(error)
            return
        for asked in self._line:
            try:
                self._take(asked)
            except Exception as error:
                asked.reply = error
        self._draw()

    @property
    def damage(self) -> StoreDamaged | None:
        """What it came upon that is not what was acknowledged, or None."""
        return next((asked.reply for asked in self._line if isinstance(asked.reply, StoreDamaged)), None)

    def contradicted_by(self, others: Iterable[StoredEvent]) -> bool:
        """Whether events that others appended since it was taken make a difference to its own.

        They do if they are of a session that its events are of, if they say what a router is, or if they answer a
        request that it answers: else its events are as they would be after them.
        """
        return self._placed or any(
            other.kind in CONFIGURING
            or (other.session_id and (other.router, other.session_id) in self._changed)
            or other.request_key in self._repeats
            for other in others
        )

    def undo(self) -> None:
        """Makes everything what it was before it was taken."""
        for key in self._changed:
            self._cache.forget(*key)
        for router_id, before in self._found.items():
            if before is None:
                self._routers.pop(router_id, None)
            else:
                self._routers[router_id].put_back(before)
        self.events.clear()
        self.happened.clear()
        for found in (self._repeats, self._changed, self._found):
            found.clear()
        self._placed = False

    def end(self, error: StoreError | None) -> None:
        """The events are durable (None) or may be lost: the replies stand."""
        if error is not None:
            self._refuse(StoreUnavailable(f"the log takes no writes: {error}"))

    def _refuse(self, error: StoreError) -> None:
        for asked in self._line:
            asked.reply = error

    def _look_up(self) -> None:
        """Asks the store once for all that the line needs of it: a query for each request would cost much more."""
        self._logged = self._store.requests([asked.repeat.key for asked in self._line if asked.repeat is not None])
        self._cache.look_up({asked.session for asked in self._line if asked.session is not None})

    def _take(self, asked: Asked) -> None:
        if asked.repeat is not None and (reply := self._stored(asked.repeat)) is not None:
            asked.reply = reply
            return
        try:
            move = asked.case()
        except PointsmanError:
            if not self._wave:
                raise
            # It may be about a session that the wave begins.
            self._draw()
            move = asked.case()
        else:
            if isinstance(move, TakeIn):
                self._draw()
                self._take_in(asked, move)
                return
            if move.session_id in self._drawing:
                self._draw()
                move = asked.case()
        assert not isinstance(move, TakeIn), "taking in is not refused before it is carried out"
        if isinstance(move, Move):
            if move.at_once or not move.session_id:
                self._draw()
            self._carry_out(asked, move)
            return
        if move.session is None:
            asked.begin_session()
        self._wave.append((asked, move))
        self._drawing.add(move.session_id)
        if asked.repeat is not None:
            self._repeats[asked.repeat.key] = (asked.repeat.digest, None)
        if move.at_once:
            self._draw()

    def _draw(self) -> None:
        wave, self._wave, self._drawing = self._wave, [], set()
        by_policy: dict[tuple[str, str], list[tuple[Asked, Draw]]] = {}
        for asked, draw in wave:
            by_policy.setdefault((draw.router.id, draw.vintage.policy_version), []).append((asked, draw))
        for together in by_policy.values():
            try:
                self._draw_together(together)
            except Exception:
                # What one of them trips over is not to fail the others.
                for one in together:
                    try:
                        self._draw_together([one])
                    except Exception as error:
                        one[0].reply = error

    def _draw_together(self, wave: Sequence[tuple[Asked, Draw]]) -> None:
        """For draws of one router's policy. Nothing is carried out where it raises."""
        router, vintage = wave[0][1].router, wave[0][1].vintage
        taken = moves.take(vintage, [draw.step for _, draw in wave])
        if others := router.beside(vintage.policy_version):
            taken = shadows.told(taken, others)
        for (asked, draw), events in zip(wave, taken, strict=True):
            move = Move(
                router=draw.router,
                session_id=draw.session_id,
                session=draw.session,
                events=events,
                reply=reply_to(events),
            )
            self._carry_out(asked, move)

    def _carry_out(self, asked: Asked, move: Move) -> None:
        repeat = asked.repeat
        if repeat is not None:
            self._repeats[repeat.key] = (repeat.digest, move.reply)
        session = move.session
        self._begin(move.router, self._at_us)
        for event in move.events:
            self._log(move.router, event, session, move.session_id, repeat)
            repeat = None
            if session is not None and (outage := move.router.observe(session, event, self._at_us)) is not None:
                self._log(move.router, outage, None)
            before, session = session, apply(session, event)
            if session is not None:
                move.router.keep_pace(self._at_us, before, session)
        if move.events and session is not None:
            self._cache.put(move.router.id, session)
            self._changed.add((move.router.id, session.session_id))
        asked.reply = move.reply

    def _begin(self, router: Router, at_us: int) -> None:
        """Makes a router known that has had no event."""
        if self._undoable and router.id not in self._found:
            self._found[router.id] = router.state() if router.id in self._routers else None
        if not router.created_us:
            self._routers[router.id] = router
            router.created_us = at_us

    def _log(
        self, router: Router, event: Event, before: Session | None, session_id: str = "", repeat: Repeat | None = None
    ) -> None:
        recorded = record.encode(event, salt=self._entropy(record.SALT_BYTES))
        self.events.append(
            NewEvent(
                at_us=self._at_us,
                kind=recorded.kind,
                router=router.id,
                session_id=session_id,
                decision_id=decision_of(event),
                request_key=repeat.key if repeat is not None else b"",
                request_digest=repeat.digest if repeat is not None else b"",
                body=recorded.body,
                private=recorded.private,
            )
        )
        self.happened.append(Happening(router.id, event, before))
        router.apply(event)

    def _take_in(self, asked: Asked, taking: TakeIn) -> None:
        admitted = taking.admit(self._first_seq + len(self.events), self.events)
        self._placed = True
        for news in admitted.news:
            router = taking.router(news.logged.router)
            self._begin(router, news.logged.at_us)
            self.events.append(news.logged)
            router.apply(news.event)
            if news.after is not None:
                router.keep_pace(news.logged.at_us, news.before, news.after)
                self._cache.put(router.id, news.after)
                self._changed.add((router.id, news.after.session_id))
        asked.reply = TakenIn(imported=len(admitted.news), skipped=admitted.skipped)

    # --- repeats ------------------------------------------------------------------------------------------------

    def _stored(self, repeat: Repeat) -> Reply | None:
        """The reply to the same request before, or None. Raises RepeatConflict."""
        if (here := self._repeats.get(repeat.key)) is not None:
            if here[1] is None:
                self._draw()
            digest, reply = self._repeats[repeat.key]
            _require_equal(digest, repeat)
            return reply
        if (found := self._logged.get(repeat.key)) is None:
            return None
        digest, seq = found
        _require_equal(digest, repeat)
        return self._recall(seq)

    def _recall(self, seq: int) -> Reply:
        """The reply to the request whose first event is `seq`."""
        stored = self._store.event(seq)
        assert stored is not None, "a request key leads to an event"
        event = record.decode(stored.kind, stored.body, stored.private).event
        match event:
            case Decided():
                return reply_to((event,))
            case Stuck(decision_id=decision_id, endpoint=endpoint):
                return Choice(decision=self._decided(decision_id).decision, endpoint=endpoint, sticky=True)
            case Escalated(next_decision_id=following):
                return reply_to((event, self._decided(following)) if following else (event,))
            case Progressed():
                return Advised(progressed=event)
            case Rewarded(revision=revision):
                return Accepted(revision=revision)
            case ArmPut(arm=Arm(id=arm)) | AvailabilitySet(arm=arm):
                return arm_stands(configuration_at(self._store, stored.router, seq), arm, stored.at_us)
            case RouterPut(settings=settings):
                return RouterStands(settings=settings)
            case PolicyPut(policy=policy):
                return PolicyStands(policy=policy)
        raise AssertionError(f"no request makes an event of kind {stored.kind}")

    def _decided(self, decision_id: str) -> Decided:
        stored = self._store.decision(decision_id)
        if stored is None:
            raise WrongOrder(f"decision {decision_id} is still to be imported")
        event = record.decode(stored.kind, stored.body, stored.private).event
        assert isinstance(event, Decided)
        return event


def reply_to(events: moves.Events) -> Reply:
    """What the agent is told of a move that it asked for."""
    match events:
        case (Decided(decision=decision, endpoint=endpoint),):
            return Choice(decision=decision, endpoint=endpoint)
        case (Escalated() as left, Decided(decision=decision, endpoint=endpoint)):
            return Moved(left=left, next=Choice(decision=decision, endpoint=endpoint))
        case (Escalated() as left,):
            return Moved(left=left, next=None)
    raise AssertionError("a move begins or leaves an attempt")


def _require_equal(digest: bytes, repeat: Repeat) -> None:
    if digest != repeat.digest:
        raise RepeatConflict("request_id was used before with another message")
