"""Reading back: everything the log knows about a session or a decision, and whether a decision can be confirmed."""

from collections import OrderedDict
from collections.abc import Mapping

from bandit import record, shadows
from bandit.decision import Vintage, confirm
from bandit.errors import NoEligibleArm, Unknown
from bandit.events import Decided, Escalated, Rewarded
from bandit.learner import Learner
from bandit.session import Session, apply
from bandit.types import Decision
from server import fold
from server.commands import DecisionView, SessionView, Told
from server.routers import Router
from server.store.epochs import Epochs
from server.store.protocol import EventReader, StoredEvent

_KEPT = 32
_PIECE = 1000


class Views:
    """What GetSession and GetDecision show. Reads nothing but the log and the epochs; use it from one thread."""

    def __init__(self, reader: EventReader, epochs: Epochs, routers: Mapping[str, Router]) -> None:
        self._reader = reader
        self._epochs = epochs
        self._routers = routers
        self._vintages: OrderedDict[tuple[str, int], dict[str, Vintage]] = OrderedDict()
        """By router and epoch, of each policy that learned."""

    def session(self, router: str, session_id: str) -> SessionView:
        """Raises Unknown."""
        if router not in self._routers:
            raise Unknown("router", "router", router)
        session: Session | None = None
        attempts: list[_Attempt] = []
        for stored in self._reader.session(router, session_id):
            event = record.decode(stored.kind, stored.body, stored.private).event
            session = apply(session, event)
            if session is None:
                continue
            match event:
                case Decided():
                    attempts.append(_Attempt(stored.at_us))
                case Escalated(decision_id=left) if (i := session.index_of(left)) is not None:
                    attempts[i].leave(event, session.revision)
                case Rewarded(decision_id=decision_id):
                    i = session.index_of(decision_id) if decision_id else len(attempts) - 1
                    if i is not None:
                        attempts[i].reward(event)
        if session is None or not session_id:
            raise Unknown("session_id", "session", session_id)
        return SessionView(router=router, session=session, told=tuple(attempt.told() for attempt in attempts))

    def decision(self, router: str, decision_id: str) -> DecisionView:
        """Raises Unknown."""
        if router not in self._routers:
            raise Unknown("router", "router", router)
        stored = self._reader.decision(decision_id)
        if stored is None or stored.router != router:
            raise Unknown("decision_id", "decision", decision_id)
        event, erased = record.decode(stored.kind, stored.body, stored.private)
        assert isinstance(event, Decided)
        view = self.session(router, stored.session_id)
        index = view.session.index_of(decision_id)
        assert index is not None, "a session holds its decisions"
        return DecisionView(
            view=view,
            index=index,
            decision=event.decision,
            unconfirmed="its features are erased" if erased else self._confirm(stored, event),
            erased=erased,
            shadows=event.shadows,
            event_json=stored.body.decode(),
        )

    def _confirm(self, stored: StoredEvent, event: Decided) -> str:
        decision = event.decision
        vintages = self._epoch(stored, decision)
        vintage = vintages.get(decision.policy_version)
        if vintage is None:
            return f"epoch {decision.epoch} can be neither found nor recomputed; what it learned from may be erased"
        try:
            return confirm(vintage, decision) or shadows.confirm(vintages, event)
        except NoEligibleArm as error:
            return f"recomputed, there is {error}"

    def _epoch(self, stored: StoredEvent, decision: Decision) -> dict[str, Vintage]:
        """What each policy had learned that decided or was asked beside: published, or folded anew from the newest
        epoch before. Empty where it cannot be had."""
        key = (stored.router, decision.epoch)
        vintages = self._vintages.get(key)
        if vintages is None:
            found = fold.published(self._epochs, stored.router, decision.epoch)
            vintages = Learner.resume(found).vintages() if found is not None else self._refold(stored, decision)
            if not vintages:
                return {}
            self._vintages[key] = vintages
        self._vintages.move_to_end(key)
        if len(self._vintages) > _KEPT:
            self._vintages.popitem(last=False)
        return vintages

    def _refold(self, stored: StoredEvent, decision: Decision) -> dict[str, Vintage]:
        base = fold.before(self._epochs, stored.router, decision.epoch)
        again = fold.Fold(self._reader, stored.router, base)
        after = again.learner.seq
        # An epoch is published before it decides, so its events lie before the decision's.
        while events := self._reader.read(after, _PIECE, stored.seq - 1):
            after = events[-1].seq
            for event in events:
                if event.router == stored.router and again.feed(event):
                    vintages = again.learner.vintages()
                    vintage = vintages.get(decision.policy_version)
                    if vintage is not None and vintage.epoch == decision.epoch:
                        same = vintage.epoch_hash == decision.epoch_hash
                        return vintages if same or not again.erased else {}
        return {}


class _Attempt:
    """What is told about an attempt, while its session's events are read in order."""

    def __init__(self, at_us: int) -> None:
        self._at_us = at_us
        self._escalated: Escalated | None = None
        self._revision: int | None = None
        self._metrics: dict[str, float] = {}
        self._revisions: dict[str, int] = {}

    def leave(self, event: Escalated, revision: int) -> None:
        self._escalated = event
        self._revision = max(revision, self._revision or 0)

    def reward(self, event: Rewarded) -> None:
        """By name of a metric the highest revision wins, ties go to the later one, as with outcomes."""
        self._revision = max(event.revision, self._revision or 0)
        for name, value in event.metrics.items():
            if event.revision >= self._revisions.get(name, event.revision):
                self._metrics[name] = value
                self._revisions[name] = event.revision

    def told(self) -> Told:
        return Told(at_us=self._at_us, escalated=self._escalated, metrics=self._metrics, revision=self._revision)
