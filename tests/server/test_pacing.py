"""The budget's price in the server: what it knows of spending survives everything, for the log knows."""

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bandit import record
from bandit.events import ArmPut, Decided, Event, Rewarded, RouterPut
from bandit.moves import select
from bandit.session import apply
from bandit.types import NO_REQUIREMENTS, Arm, Figure, Objective, Outcome, RouterSettings
from pointsman.v1 import admin_pb2
from pointsman.v1 import routing_pb2 as pb
from server.fold import Fitter
from server.routers import Router, refresh
from server.sessions import SessionCache
from server.store.epochs import EpochFiles
from server.store.protocol import NewEvent
from server.store.sqlite import SqliteStore
from tests.server.conftest import Serve, Server

SETTINGS = RouterSettings(
    draws=16, objective=Objective(budget_usd=20.0, budget_period_seconds=3600.0), policy="thompson-single"
)
ARMS = [Arm(id=name, figures=(Figure(success_rate=0.5, cost_usd=usd),)) for name, usd in (("a", 0.2), ("b", 2.0))]


class Writer:
    """A router as the engine keeps it, and the log."""

    def __init__(self, folder: Path, settings: RouterSettings = SETTINGS) -> None:
        self.store = SqliteStore.open(folder)
        self.epochs = EpochFiles(folder)
        self.router = Router(SETTINGS.id)
        self.fitter = Fitter(self.store, self.epochs)
        self.sessions = SessionCache(self.store, 1000)
        for arm in ARMS:
            self.write(0, ArmPut(arm=arm))
        self.write(0, RouterPut(settings=settings))
        self.learn()

    def write(self, at_us: int, event: Event, session_id: str = "") -> None:
        recorded = record.encode(event, salt=os.urandom(record.SALT_BYTES))
        before = self.sessions.get(SETTINGS.id, session_id) if session_id else None
        named = event.decision.decision_id if isinstance(event, Decided) else ""
        self.store.append(
            [
                NewEvent(
                    at_us=at_us,
                    kind=recorded.kind,
                    router=SETTINGS.id,
                    session_id=session_id,
                    decision_id=named,
                    body=recorded.body,
                    private=recorded.private,
                )
            ]
        )
        self.router.apply(event)
        if (after := apply(before, event)) is not None:
            self.router.keep_pace(at_us, before, after)
            self.sessions.put(SETTINGS.id, after)

    def learn(self) -> None:
        self.fitter.catch_up()
        self.router.adopt(self.fitter.learners[SETTINGS.id])

    def restarted(self) -> Router:
        routers = {"another": Router("another")}
        refresh(routers, self.store, self.epochs)
        assert list(routers) == [SETTINGS.id], "a router without an event is none"
        return routers[SETTINGS.id]


def test_a_restart_continues_the_pace_from_the_newest_epoch_and_the_log_after_it(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    rng = np.random.default_rng(0)
    now, waiting = 0, []
    for i in range(60):
        now += int(rng.integers(1, 200_000_000))
        settings, vintage = writer.router.current
        event = select(
            settings,
            vintage,
            None,
            session_id=f"s{i}",
            features={"size": float(i)},
            offers=writer.router.offers(NO_REQUIREMENTS, {}, now),
            decision_id=f"d{i}",
            budget_price=writer.router.budget_price(now),
        )
        assert isinstance(event, Decided)
        writer.write(now, event, f"s{i}")
        waiting.append(i)
        if rng.random() < 0.7:
            done = waiting.pop(int(rng.integers(len(waiting))))
            outcome = Outcome(cost_usd=float(rng.exponential(1.0)), success=float(rng.random() < 0.5))
            reward = Rewarded(session_id=f"s{done}", outcome=outcome, revision=1, final=True)
            writer.write(now, reward, f"s{done}")
        if rng.random() < 0.2:
            writer.learn()
        again = writer.restarted()
        assert again.pace == writer.router.pace
        assert again.budget_price(now) == writer.router.budget_price(now)
    assert writer.router.pace.told_usd > 0.0
    assert max(writer.fitter.learners[SETTINGS.id].pace.log_price, writer.router.pace.log_price) > 0.0
    writer.learn()
    assert writer.fitter.learners[SETTINGS.id].pace == writer.router.pace
    writer.store.close()


def test_a_killed_server_goes_on_at_the_price_and_spending_it_had(serving: Serve, tmp_path: Path) -> None:
    """Through gRPC: most of a budget that is to last for thirty years, spent at once, makes dollars dear."""
    lasting = Objective(budget_usd=100.0, budget_period_seconds=1e9)
    folder = tmp_path / "data"
    Writer(folder, msgspec.structs.replace(SETTINGS, objective=lasting)).store.close()
    server = serving(folder, None)
    assert router_of(server).HasField("budget_spent_usd")
    spent_usd, decisions = 0.0, []
    for i in range(40):
        choice = server.routing.Select(pb.SelectRequest(session_id=f"s{i}"))
        decisions.append(choice.decision_id)
        expected = next(score.cost_usd for score in choice.scores if score.arm == choice.arm)
        spent_usd += expected
        if i % 2:
            server.routing.Reward(pb.RewardRequest(session_id=f"s{i}", success=1.0, cost_usd=expected, final=True))
    before = router_of(server)
    assert before.budget_spent_usd == pytest.approx(spent_usd, rel=1e-9)
    assert before.budget_price > 1.0
    server.kill()
    server = serving(folder, None)
    after = router_of(server)
    assert after.budget_spent_usd == before.budget_spent_usd
    assert after.budget_price == pytest.approx(before.budget_price, rel=1e-4)
    choice = server.routing.Select(pb.SelectRequest(session_id="later"))
    prices = []
    for decision_id in (*decisions, choice.decision_id):
        shown = server.routing.GetDecision(pb.GetDecisionRequest(decision_id=decision_id))
        assert shown.confirmed, shown.unconfirmed_reason
        prices.append(shown.budget_price)
    assert prices[0] == 0.0
    assert prices[-1] == pytest.approx(after.budget_price, rel=1e-4)
    assert server.stop() == 0


def router_of(server: Server) -> admin_pb2.Router:
    return server.admin.GetRouter(admin_pb2.GetRouterRequest()).router
