"""kill -9 in mid-work: what was acknowledged is there once, and the posterior is a function of the log."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from bandit import record
from bandit.events import Decided, Escalated, Rewarded
from bandit.learner import Learner
from pointsman import AsyncClient
from pointsman.v1 import admin_pb2
from pointsman.v1 import routing_pb2 as pb
from server.fold import one_blas_thread
from server.store.epochs import EpochFiles
from server.store.sqlite import SqliteStore

AGENTS = 64
KILLS = 3
ACKS_PER_LIFE = 120

THOMPSON = """
[router]
policy = "thompson"
draws = 32
max_attempts = 2
[[arms]]
id = "cheap"
figures = [{ success_rate = 0.5, cost_usd = 0.1 }]
[[arms]]
id = "middle"
figures = [{ success_rate = 0.6, cost_usd = 0.4 }]
[[arms]]
id = "dear"
figures = [{ success_rate = 0.8, cost_usd = 1.5 }]
"""


@dataclass
class Acknowledged:
    """What agents were told, each once."""

    decisions: dict[str, pb.SelectResponse] = field(default_factory=dict)
    rewards: Counter = field(default_factory=Counter)
    escalations: set = field(default_factory=set)

    @property
    def count(self) -> int:
        return len(self.decisions) + self.rewards.total() + len(self.escalations)


async def until_answered(call):
    """Sends a call, the same each time, until the server is there and answers it."""
    while True:
        try:
            return await call()
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), error
            await asyncio.sleep(0.05)


async def agent(client: AsyncClient, name: int, told: Acknowledged, ending: asyncio.Event) -> None:
    rng = random.Random(name)
    number = 0
    while not ending.is_set():
        number += 1
        session = f"agent-{name}-{number}"
        features = {"category": rng.choice(["bug", "docs", "test"]), "files": float(rng.randrange(9))}
        choice = await until_answered(
            lambda session=session, features=features: client.select(
                features, session_id=session, request_id=f"select-{session}"
            )
        )
        told.decisions[choice.decision_id] = choice
        if rng.random() < 0.4:
            left = choice
            following = await until_answered(
                lambda left=left, session=session: client.escalate(
                    left, reason=pb.ESCALATION_REASON_VERIFIED_FAILURE, cost_usd=0.3, request_id=f"leave-{session}"
                )
            )
            told.escalations.add(left.decision_id)
            if following is not None:
                told.decisions[following.decision_id] = choice = following
        success = float(rng.random() < 0.6)
        await until_answered(
            lambda choice=choice, success=success: client.reward(
                decision_id=choice.decision_id,
                success=success,
                cost_usd=0.5,
                final=True,
                request_id=f"reward-{choice.decision_id}",
            )
        )
        told.rewards[choice.decision_id] += 1


async def work_through_kills(serving, data_dir: Path) -> tuple[object, Acknowledged]:
    server = serving(data_dir, THOMPSON)
    told, ending = Acknowledged(), asyncio.Event()
    async with AsyncClient(server.grpc, retries=2, timeout_seconds=5.0) as client:
        agents = [asyncio.create_task(agent(client, i, told, ending)) for i in range(AGENTS)]
        for _ in range(KILLS):
            before = told.count
            while told.count < before + ACKS_PER_LIFE:
                assert not any(task.done() for task in agents), "an agent was refused"
                await asyncio.sleep(0.005)
            server.kill()
            server = await asyncio.to_thread(serving, data_dir, THOMPSON, "--listen", server.grpc)
        ending.set()
        await asyncio.gather(*agents)
    return server, told


def wait_until_learned(server) -> None:
    """Until the fitter has folded all but the last block, at most 30 seconds."""
    deadline = time.monotonic() + 30
    while True:
        router = server.admin.GetRouter(admin_pb2.GetRouterRequest()).router
        if router.last_sequence - router.learned_sequence < 300:
            return
        assert time.monotonic() < deadline, router
        time.sleep(0.05)


def log_of(data_dir: Path):
    reader = SqliteStore.open_reader(data_dir)
    try:
        assert reader.verify() == []
        return [
            (stored, record.decode(stored.kind, stored.body, stored.private).event)
            for stored in reader.read(0, 1_000_000)
        ]
    finally:
        reader.close()


@pytest.mark.timeout(80)
def test_what_was_acknowledged_is_there_exactly_once(serving, tmp_path):
    data_dir = tmp_path / "data"
    server, told = asyncio.run(work_through_kills(serving, data_dir))
    assert told.count > KILLS * ACKS_PER_LIFE

    wait_until_learned(server)

    # Open sessions go on: each running decision still stands.
    for choice in list(told.decisions.values())[-20:]:
        shown = server.routing.GetDecision(pb.GetDecisionRequest(decision_id=choice.decision_id))
        assert (shown.arm, shown.propensity, shown.epoch) == (choice.arm, choice.propensity, choice.epoch)
        assert shown.confirmed, shown.unconfirmed_reason
    assert server.stop() == 0

    log = log_of(data_dir)
    decided = Counter(event.decision.decision_id for _, event in log if isinstance(event, Decided))
    rewarded = Counter(event.decision_id for _, event in log if isinstance(event, Rewarded))
    escalated = Counter(event.decision_id for _, event in log if isinstance(event, Escalated))
    # Every agent sent each call until it was answered, so the log holds what was acknowledged and nothing else.
    assert decided == Counter(list(told.decisions))
    assert rewarded == told.rewards
    assert escalated == Counter(list(told.escalations))

    # The epochs published over several lives are those of one uninterrupted fold.
    one_blas_thread()
    learner, hashes = Learner(), {}
    for stored, event in log:
        if learner.feed(stored.seq, event, stored.session_id):
            hashes[learner.vintage.epoch] = learner.vintage.epoch_hash
    epochs = EpochFiles(data_dir)
    published = {}
    for version in epochs.versions("default"):
        for number in epochs.numbers("default", version):
            _, blob = epochs.load("default", version, number)
            published[number] = Learner.resume(blob).vintage.epoch_hash
    assert len(published) > 10
    assert published == {number: hashes[number] for number in published}
