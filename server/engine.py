"""The use cases: what Select, Escalate, ReportProgress and Reward do to the state, and what of it becomes durable.

A use case reads the state and returns a move, or a move whose arm is yet to be drawn; rounds carry moves out, so that
repeats, times, durability and failure are thought of once. Replies wait until all that they rest on is durable.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence

from bandit import eligibility, moves, progress
from bandit.errors import InvalidInput, Unknown
from bandit.events import Closed, Erased, Rewarded
from bandit.features import without_texts
from bandit.session import Session
from bandit.types import EscalationReason, Features
from server.commands import (
    Accepted,
    Advised,
    Choice,
    Closure,
    Erasing,
    Escalate,
    Reply,
    Report,
    Reward,
    Select,
)
from server.ids import Clock, DecisionIds, Entropy, Repeat, derived_session_id
from server.intake import Intake, Offered
from server.journal import Journal
from server.rounds import Asked, Draw, Move, Round, TakeIn, reply_to
from server.routers import Router, refresh
from server.sessions import SessionCache, SessionKey
from server.shared import Shared
from server.store.epochs import Epochs
from server.store.errors import StoreDamaged, StoreError, StoreUnavailable
from server.store.protocol import SharedStore, Store
from server.telemetry.counts import Counts
from server.telemetry.tracing import begin_part

_LINGER_SECONDS = 0.002


class Engine:
    """The state of the service between the log and its callers, for one event loop.

    Requests are worked on in rounds: all that came in while one round's events were made durable are the next round.
    """

    def __init__(
        self,
        *,
        store: Store,
        epochs: Epochs,
        routers: dict[str, Router],
        cached_sessions: int,
        hint: Callable[[], None],
        on_health: Callable[[bool], None],
        clock: Clock = time.time,
        entropy: Entropy = os.urandom,
        shared: SharedStore | None = None,
    ) -> None:
        """`hint` is called when the log has grown, `on_health` when writes fail or work again. `shared` is the store,
        where others append to it too; then rounds are carried out in a thread, for each has to ask what is new.
        """
        self._store = store
        self._epochs = epochs
        self._routers = routers
        self._hint = hint
        self._on_health = on_health
        self._clock = clock
        self._entropy = entropy
        self._ids = DecisionIds(clock, entropy)
        self._sessions = SessionCache(store, cached_sessions)
        self._shared = Shared(shared, self._sessions, routers) if shared is not None else None
        self.counts = Counts()
        """What has happened since it was made."""
        self._journal = Journal(store, on_back=self._back, commits=self.counts.commits)
        self._line: list[tuple[asyncio.Future[None], Sequence[Asked]]] = []
        """Those who wait, and for what."""
        self._waiting = 0
        """How many requests are in line."""
        self._begins: asyncio.Handle | None = None
        self._lingers: asyncio.TimerHandle | None = None
        self.round_us = 0
        """When the round began: every request in it is looked at as of then."""
        self._crowd = 1
        """How many requests were in the last round."""
        self._between: list[Callable[[], None]] = []
        """What is to be done when the round under way has ended."""

    # --- rounds -------------------------------------------------------------------------------------------------

    async def answer(
        self, repeat: Repeat | None, case: Callable[[], Move | Draw | TakeIn], session: SessionKey | None = None
    ) -> Reply:
        """The reply of a use case, durable with all that it rests on, or the stored one where the request is a repeat.

        Requests are looked at in the order in which they came. `session` is the one that the request names, if any.
        Raises what the case raises, RepeatConflict and StoreUnavailable.
        """
        asked = Asked(repeat=repeat, case=case, session=session)
        await self.answer_all([asked])
        return reply_of(asked)

    async def answer_all(self, asked: Sequence[Asked]) -> None:
        """Returns when each request has its reply, as `answer` gives or raises it. They are looked at in the same
        round."""
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((answered, asked))
        self._waiting += len(asked)
        self._schedule()
        waiting = begin_part("round of group commit")
        try:
            await answered
        finally:
            if waiting is not None:
                waiting.end()

    @property
    def trouble(self) -> str:
        """Why the log takes no writes now; empty where it does."""
        return str(self._journal.trouble or "")

    def condemn(self, damage: StoreDamaged) -> None:
        """The log is not what was acknowledged: from now on nothing is answered that would be added to it."""
        self._journal.condemn(damage)
        self._on_health(False)

    async def current(self) -> None:
        """Returns when all that was appended before, by whomever, is taken in. Raises StoreUnavailable."""
        if self._shared is not None:
            await self.answer_all(())
            if self._journal.trouble is not None:
                raise StoreUnavailable(f"the log cannot be read: {self._journal.trouble}")

    def between_rounds(self, change: Callable[[], None]) -> None:
        """Has something changed while no round is under way."""
        if self._journal.busy:
            self._between.append(change)
        else:
            change()

    async def close(self) -> None:
        """Ends it; nothing may be asked after it."""
        await self._journal.close()

    def _schedule(self) -> None:
        """A lone caller's round begins at once; under load a little later, unless as many as last time are there."""
        if self._journal.busy or not self._line:
            return
        loop = asyncio.get_running_loop()
        if self._waiting >= self._crowd:
            self._begins = self._begins or loop.call_soon(self._round)
        else:
            self._lingers = self._lingers or loop.call_later(_LINGER_SECONDS, self._round)

    def _round(self) -> None:
        for handle in (self._begins, self._lingers):
            if handle is not None:
                handle.cancel()
        self._begins = self._lingers = None
        # For those who have gone, their time having passed, nothing is decided and nothing stored.
        there = [(answered, asked) for answered, asked in self._line if not answered.done()]
        self._line, self._waiting = [], 0
        callers = [answered for answered, _ in there]
        line = [one for _, asked in there for one in asked]
        self._crowd = len(line) or self._crowd
        self.round_us = self.now_us()
        began = time.perf_counter()
        round_ = Round(
            line,
            store=self._store,
            sessions=self._sessions,
            routers=self._routers,
            at_us=self.round_us,
            entropy=self._entropy,
            undoable=self._shared is not None,
        )
        if self._journal.trouble is not None:
            self._end(round_, callers, self._journal.trouble)
            return

        def ended(error: StoreError | None) -> None:
            self._ended(round_, callers, error, len(line), time.perf_counter() - began)

        if (shared := self._shared) is not None:
            self._journal.commit(lambda: shared.carry_out(round_), ended, alone=False)
            return
        round_.take()
        if (damage := round_.damage) is not None:
            self.condemn(damage)
            self._end(round_, callers, damage)
        elif round_.events:
            self._journal.commit(lambda: self._store.append(round_.events), ended, alone=len(line) == 1)
        else:
            self._end(round_, callers, None)

    def _ended(
        self,
        round_: Round,
        callers: Iterable[asyncio.Future[None]],
        error: StoreError | None,
        requests: int,
        seconds: float,
    ) -> None:
        if error is not None:
            self.counts.failed_rounds += 1
            # What the cache holds may never have reached the log.
            self._sessions.clear()
            self._on_health(False)
        else:
            self._sessions.trim()
            if round_.events:
                self.counts.round(round_.happened, requests=requests, events=len(round_.events), seconds=seconds)
                self._hint()
        self._end(round_, callers, error)
        between, self._between = self._between, []
        for change in between:
            change()
        self._schedule()

    def _end(self, round_: Round, callers: Iterable[asyncio.Future[None]], error: StoreError | None) -> None:
        round_.end(error)
        for caller in callers:
            if not caller.done():  # else it has gone
                caller.set_result(None)

    def _back(self) -> None:
        if self._shared is None:
            refresh(self._routers, self._store, self._epochs)
        self._hint()
        self._on_health(True)

    # --- use cases ----------------------------------------------------------------------------------------------

    def select(self, command: Select) -> Move | Draw:
        """Raises Unknown, NoEligibleArm and WrongOrder."""
        router = self._router(command.router)
        requirements, now_us = command.requirements, self.round_us
        _require_arms(router, "allow", requirements.allow)
        _require_arms(router, "deny", requirements.deny)
        session_id = command.session_id
        if not session_id and command.request_id:
            session_id = derived_session_id(router.id, command.request_id)
        session = self._sessions.get(router.id, session_id) if session_id else None
        if not session_id:
            session_id = self._entropy(16).hex()
        deciding = router.deciding(session, session_id)
        begun = moves.begin_select(
            deciding.settings,
            session,
            session_id=session_id,
            features=_kept(router, command.features),
            offers=router.offers(requirements, _merged(session, command.features), now_us),
            decision_id=self._ids.next(),
            pinned_arm=command.pinned_arm,
            requirements=requirements,
            endpoint_of=lambda arm: router.endpoint(arm, now_us),
            budget_price=router.budget_price(now_us),
            assignment=deciding.assignment,
        )
        if isinstance(begun, moves.Step):
            return Draw(router=router, session_id=session_id, session=session, step=begun, vintage=deciding.vintage)
        assert session is not None, "it has a decision to stick to"
        endpoint = router.endpoint(begun.arm, now_us)
        stuck = moves.stuck(session, requirements=requirements, endpoint=endpoint, repeatable=bool(command.request_id))
        return Move(
            router=router,
            session_id=session_id,
            session=session,
            events=(stuck,) if stuck is not None else (),
            reply=Choice(decision=begun, endpoint=endpoint, sticky=True),
        )

    def escalate(self, command: Escalate) -> Move | Draw:
        """Raises Unknown and WrongOrder, and InvalidInput where session and decision do not belong together."""
        router = self._router(command.router)
        session = self._session(router, command.session_id, command.decision_id)
        requirements = eligibility.further(session.requirements, command.required_capabilities, command.context_tokens)
        now_us = self.round_us
        deciding = router.deciding(session, session.session_id)
        begun = moves.begin_escalate(
            deciding.settings,
            session,
            decision_id=command.decision_id or session.attempts[-1].decision.decision_id,
            reason=command.reason,
            offers=router.offers(requirements, _merged(session, command.features), now_us),
            next_decision_id=self._ids.next(),
            outcome=command.outcome,
            features=_kept(router, command.features),
            requirements=requirements,
            endpoint=command.endpoint,
            endpoint_of=lambda arm: router.endpoint(arm, now_us),
            budget_price=router.budget_price(now_us),
            assignment=deciding.assignment,
        )
        if command.endpoint:
            _require_endpoint(router, session.attempts[-1].decision.arm, command.endpoint)
        session_id = session.session_id
        # Enough of these take an endpoint out.
        at_once = command.reason is EscalationReason.UNAVAILABLE
        if isinstance(begun, moves.Step):
            return Draw(
                router=router,
                session_id=session_id,
                session=session,
                step=begun,
                vintage=deciding.vintage,
                at_once=at_once,
            )
        reply = reply_to(begun)
        return Move(router=router, session_id=session_id, session=session, events=begun, reply=reply, at_once=at_once)

    def report_progress(self, command: Report) -> Move:
        """Raises Unknown and WrongOrder, and InvalidInput where session and decision do not belong together."""
        router = self._router(command.router)
        session = self._session(router, command.session_id, command.decision_id)
        settings, vintage, _ = router.deciding(session, session.session_id)
        progressed = progress.report(
            settings,
            vintage,
            session,
            decision_id=command.decision_id or session.attempts[-1].decision.decision_id,
            signals=command.signals,
            offers=router.offers(session.requirements, session.features, self.round_us),
            budget_price=router.budget_price(self.round_us),
        )
        return Move(
            router=router,
            session_id=session.session_id,
            session=session,
            events=(progressed,),
            reply=Advised(progressed=progressed),
        )

    def reward(self, command: Reward) -> Move:
        """Raises Unknown."""
        router = self._router(command.router)
        session = self._session(router, command.session_id, command.decision_id)
        if command.outcome.served_arm is not None:
            _require_arms(router, "served_arm", (command.outcome.served_arm,))
        revision = command.revision if command.revision is not None else session.revision + 1
        told = Rewarded(
            session_id=session.session_id,
            decision_id=command.decision_id,
            outcome=command.outcome,
            metrics=dict(command.metrics),
            revision=revision,
            final=command.final,
        )
        return Move(
            router=router,
            session_id=session.session_id,
            session=session,
            events=(told,),
            reply=Accepted(revision=revision),
        )

    def close_session(self, router_id: str, session_id: str, overdue: Session) -> Move:
        """Closes a session whose reward is overdue, unless something has happened to it since. Raises Unknown."""
        router = self._router(router_id)
        session = self._sessions.get(router.id, session_id)
        settings = router.current.settings
        closed = (Closed(session_id=session_id, success=settings.missing_success),) if session == overdue else ()
        return Move(
            router=router, session_id=session_id, session=session, events=closed, reply=Closure(closed=bool(closed))
        )

    def erase(self, router_id: str, session_id: str, silent: Session | None = None) -> Move:
        """Says that a session's features are erased, unless it has none, or is not as it was when it was `silent`.

        Raises Unknown.
        """
        router = self._router(router_id)
        session = self._session(router, session_id, "")
        has_any = session.features or any(event.private for event in self._store.session(router.id, session_id))
        erased = (Erased(session_id=session_id),) if has_any and silent in (None, session) else ()
        return Move(
            router=router, session_id=session_id, session=session, events=erased, reply=Erasing(logged=bool(erased))
        )

    def has_router(self, router_id: str) -> None:
        """Raises Unknown where it is not there."""
        self._router(router_id)

    def has_sessions(self, router_id: str, session_ids: Iterable[str]) -> Move:
        """Raises Unknown where the router or one of the sessions is not there."""
        router = self._router(router_id)
        for session_id in session_ids:
            self._session(router, session_id, "")
        return Move(router=router, reply=Erasing(logged=False))

    def take_in(self, offered: Sequence[Offered], first: int) -> TakeIn:
        """Takes in events of another log, of which `first` were offered before in the same message.

        What of them is refused is raised as `Intake.admit` does.
        """
        new: dict[str, Router] = {}

        def router(router_id: str) -> Router:
            return self._routers.get(router_id) or new.setdefault(router_id, Router(router_id))

        intake = Intake(self._store, self._sessions.get, lambda router_id: router(router_id).configuration)
        return TakeIn(admit=lambda place, pending: intake.admit(offered, place, pending, first), router=router)

    def now_us(self) -> int:
        """The time, UTC microseconds since 1970."""
        return int(self._clock() * 1e6)

    def _router(self, router_id: str) -> Router:
        router = self._routers.get(router_id)
        # Of one that is being imported the settings may be still to come.
        if router is None or router.configuration.settings is None:
            raise Unknown("router", "router", router_id)
        return router

    def _session(self, router: Router, session_id: str, decision_id: str) -> Session:
        """The session named, or that of the decision named."""
        field, what, name = ("session_id", "session", session_id)
        if decision_id and not session_id:
            field, what, name = ("decision_id", "decision", decision_id)
            stored = self._store.decision(decision_id)
            session_id = stored.session_id if stored is not None and stored.router == router.id else ""
        session = self._sessions.get(router.id, session_id) if session_id else None
        if session is None:
            raise Unknown(field, what, name)
        if decision_id and session.index_of(decision_id) is None:
            stored = self._store.decision(decision_id)
            if stored is None or stored.router != router.id:
                raise Unknown("decision_id", "decision", decision_id)
            raise InvalidInput("decision_id", f"it belongs to another session than {session_id!r}")
        return session


def reply_of(asked: Asked) -> Reply:
    """The reply to a request that was answered. Raises what it was refused with."""
    assert asked.reply is not None, "its round has ended"
    if isinstance(asked.reply, Exception):
        raise asked.reply
    return asked.reply


def _kept(router: Router, features: Features) -> Features:
    """The features as the router may keep them."""
    return features if router.current.settings.store_text else without_texts(features)


def _merged(session: Session | None, features: Features) -> Features:
    """The session's features as the request changes them."""
    return {**session.features, **features} if session is not None else features


def _require_endpoint(router: Router, arm_id: str, endpoint: str) -> None:
    arm = router.configuration.arm(arm_id)
    if arm is None or endpoint not in arm.endpoints:
        raise Unknown("endpoint", f"endpoint of arm {arm_id!r}", endpoint)


def _require_arms(router: Router, field: str, arms: Iterable[str]) -> None:
    for arm in sorted(arms):
        if router.configuration.arm(arm) is None:
            raise Unknown(field, "arm", arm)
