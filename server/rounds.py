"""One round: requests in their order of arrival become events of one transaction, and replies that wait for it.

Moves whose arm is yet to be drawn are gathered into a wave and drawn together. A request that may depend on the wave,
because it is about a session in it or repeats a request in it, is looked at after the wave was drawn, so that the
outcome is that of one request after the other.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from bandit import moves, record
from bandit.errors import PointsmanError
from bandit.events import ArmPut, Decided, Escalated, Event, Progressed, Rewarded, Stuck
from bandit.session import Session, apply
from server.commands import Accepted, Advised, ArmStands, Choice, Moved, Reply
from server.ids import Entropy, Repeat
from server.routers import Router
from server.sessions import SessionCache
from server.store.errors import StoreError, StoreUnavailable
from server.store.protocol import NewEvent, Store


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
    at_once: bool = False
    """As of a `Move`."""


class Asked(msgspec.Struct, frozen=True):
    """A request in line."""

    repeat: Repeat | None
    case: Callable[[], Move | Draw]
    """Raises what is wrong with the request."""
    answer: "asyncio.Future[Reply]"


class Round:
    """Give it the line with `take`, make `events` durable, then `end` it."""

    def __init__(self, store: Store, sessions: SessionCache, at_us: int, entropy: Entropy) -> None:
        """`at_us`: when it all happens, UTC microseconds since 1970."""
        self.events: list[NewEvent] = []
        self._store = store
        self._sessions = sessions
        self._at_us = at_us
        self._entropy = entropy
        self._replies: list[tuple[asyncio.Future[Reply], Reply | Exception]] = []
        self._repeats: dict[bytes, tuple[bytes, Reply | None]] = {}
        """Of this round's requests: their digests, and their replies once they are known."""
        self._wave: list[tuple[Asked, Draw]] = []
        self._drawing: set[str] = set()
        """The wave's sessions."""

    def take(self, line: Sequence[Asked]) -> None:
        """Carries out every request in line."""
        for asked in line:
            try:
                self._take(asked)
            except Exception as error:
                self._replies.append((asked.answer, error))
        self._draw()

    def refuse(self, line: Sequence[Asked], trouble: StoreError) -> None:
        """Answers everything in line with UNAVAILABLE."""
        for asked in line:
            self._replies.append((asked.answer, _unavailable(trouble)))
        self.end(None)

    def end(self, error: StoreError | None) -> None:
        """The events are durable (None) or may be lost: everybody in line gets an answer."""
        for answer, reply in self._replies:
            if answer.done():  # its caller has gone
                continue
            if error is not None:
                answer.set_exception(_unavailable(error))
            elif isinstance(reply, Exception):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)

    def _take(self, asked: Asked) -> None:
        if asked.repeat is not None and (reply := self._stored(asked.repeat)) is not None:
            self._replies.append((asked.answer, reply))
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
            if move.session_id in self._drawing:
                self._draw()
                move = asked.case()
        if isinstance(move, Move):
            if move.at_once or not move.session_id:
                self._draw()
            self._carry_out(asked, move)
            return
        self._wave.append((asked, move))
        self._drawing.add(move.session_id)
        if asked.repeat is not None:
            self._repeats[asked.repeat.key] = (asked.repeat.digest, None)
        if move.at_once:
            self._draw()

    def _draw(self) -> None:
        wave, self._wave, self._drawing = self._wave, [], set()
        by_router: dict[str, list[tuple[Asked, Draw]]] = {}
        for asked, draw in wave:
            by_router.setdefault(draw.router.id, []).append((asked, draw))
        for together in by_router.values():
            try:
                self._draw_together(together)
            except Exception:
                # What one of them trips over is not to fail the others.
                for one in together:
                    try:
                        self._draw_together([one])
                    except Exception as error:
                        self._replies.append((one[0].answer, error))

    def _draw_together(self, wave: Sequence[tuple[Asked, Draw]]) -> None:
        """For draws of one router. Nothing is carried out where it raises."""
        vintage = wave[0][1].router.current.vintage
        taken = moves.take(vintage, [draw.step for _, draw in wave])
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
        for event in move.events:
            self._log(move.router, event, move.session_id, repeat)
            repeat = None
            if session is not None and (outage := move.router.observe(session, event, self._at_us)) is not None:
                self._log(move.router, outage)
            before, session = session, apply(session, event)
            if session is not None:
                move.router.keep_pace(self._at_us, before, session)
        if move.events and session is not None:
            self._sessions.put(move.router.id, session)
        self._replies.append((asked.answer, move.reply))

    def _log(self, router: Router, event: Event, session_id: str = "", repeat: Repeat | None = None) -> None:
        recorded = record.encode(event, salt=self._entropy(record.SALT_BYTES))
        self.events.append(
            NewEvent(
                at_us=self._at_us,
                kind=recorded.kind,
                router=router.id,
                session_id=session_id,
                decision_id=_decision_of(event),
                request_key=repeat.key if repeat is not None else b"",
                request_digest=repeat.digest if repeat is not None else b"",
                body=recorded.body,
                private=recorded.private,
            )
        )
        router.apply(event)

    # --- repeats ------------------------------------------------------------------------------------------------

    def _stored(self, repeat: Repeat) -> Reply | None:
        """The reply to the same request before, or None. Raises RepeatConflict."""
        if (here := self._repeats.get(repeat.key)) is not None:
            if here[1] is None:
                self._draw()
            digest, reply = self._repeats[repeat.key]
            _require_equal(digest, repeat)
            return reply
        if (found := self._store.request(repeat.key)) is None:
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
            case ArmPut(arm=arm):
                return ArmStands(arm=arm)
        raise AssertionError(f"no request makes an event of kind {stored.kind}")

    def _decided(self, decision_id: str) -> Decided:
        stored = self._store.decision(decision_id)
        assert stored is not None, "events refer to decisions that were logged before"
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


def _decision_of(event: Event) -> str:
    """The decision that an event introduces or refers to; empty for those about none."""
    match event:
        case Decided(decision=decision):
            return decision.decision_id
        case Stuck() | Progressed() | Escalated() | Rewarded():
            return event.decision_id
    return ""


def _require_equal(digest: bytes, repeat: Repeat) -> None:
    if digest != repeat.digest:
        raise RepeatConflict("request_id was used before with another message")


def _unavailable(trouble: StoreError) -> StoreUnavailable:
    return StoreUnavailable(f"the log takes no writes: {trouble}")
