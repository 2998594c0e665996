"""The world changes in mid-traffic: nobody is stuck, nothing fails, and each decision fits the world as it was told."""

import asyncio
import random
import time

from pointsman import AsyncClient
from pointsman.v1 import admin_pb2 as pb
from pointsman.v1 import routing_pb2

AGENTS = 64
SECONDS = 2.0
FAILED = routing_pb2.ESCALATION_REASON_VERIFIED_FAILURE
CONFIG = """
[router]
policy = "thompson"
draws = 32
[[arms]]
id = "steady"
input_usd_per_million = 1.0
figures = [{ success_rate = 0.5, cost_usd = 0.1 }]
[[arms]]
id = "dear"
input_usd_per_million = 5.0
figures = [{ success_rate = 0.7, cost_usd = 0.5 }]
[[arms]]
id = "doomed"
input_usd_per_million = 1.0
figures = [{ success_rate = 0.6, cost_usd = 0.1 }]
[[arms]]
id = "flaky"
input_usd_per_million = 2.0
figures = [{ success_rate = 0.6, cost_usd = 0.2 }]
"""


class World:
    """What the operator was told, as times of the monotonic clock."""

    def __init__(self) -> None:
        self.retired = self.down = self.up = self.added = float("inf")


async def agent(
    client: AsyncClient, name: int, ending: asyncio.Event, seen: list[tuple[float, routing_pb2.SelectResponse]]
):
    rng = random.Random(name)
    number = 0
    while not ending.is_set():
        number += 1
        session, features = f"agent-{name}-{number}", {"category": rng.choice(["bug", "docs"])}
        for _ in range(3):
            asked = time.monotonic()
            choice = await client.select(features, session_id=session)
            seen.append((asked, choice))
        while choice and rng.random() < 0.4:
            asked, last = time.monotonic(), choice
            choice = await client.escalate(choice, reason=FAILED, cost_usd=rng.random())
            if choice:
                seen.append((asked, choice))
        last = choice or last
        success = float(rng.random() < 0.6) if choice else 0.0
        await client.reward(decision_id=last.decision_id, success=success, cost_usd=rng.random(), final=True)


async def operate(server, world: World) -> None:
    async def change(call, request) -> float:
        await asyncio.to_thread(call, request)
        return time.monotonic()

    admin = server.admin
    pause = SECONDS / 6
    await asyncio.sleep(pause)
    await change(admin.PutArm, pb.PutArmRequest(arm=pb.Arm(id="dear", prices=pb.Prices(input_usd_per_million=0.1))))
    await asyncio.sleep(pause)
    world.retired = await change(admin.RetireArm, pb.RetireArmRequest(arm="doomed"))
    await asyncio.sleep(pause)
    arm = pb.Arm(id="new", figures=[pb.PriorFigure(success_rate=0.9, cost_usd_mean=0.05)])
    world.added = await change(admin.PutArm, pb.PutArmRequest(arm=arm))
    await asyncio.sleep(pause)
    down = pb.SetAvailabilityRequest(arm="flaky", down_seconds=3600, why="maintenance")
    world.down = await change(admin.SetAvailability, down)
    await asyncio.sleep(pause)
    world.up = time.monotonic()
    await change(admin.SetAvailability, pb.SetAvailabilityRequest(arm="flaky"))
    await asyncio.sleep(pause)


async def traffic(server, world: World, seen: list[tuple[float, routing_pb2.SelectResponse]]) -> None:
    ending = asyncio.Event()
    async with AsyncClient(server.grpc) as client:
        agents = [asyncio.create_task(agent(client, name, ending, seen)) for name in range(AGENTS)]
        await operate(server, world)
        ending.set()
        await asyncio.gather(*agents)


def test_sixty_four_agents_feel_nothing_of_changes_but_the_new_world(serving, tmp_path):
    server = serving(tmp_path / "data", CONFIG)
    world, seen = World(), []
    asyncio.run(traffic(server, world, seen))
    assert len({choice.session_id for _, choice in seen}) > AGENTS
    for asked, choice in seen:
        offered = {score.arm for score in choice.scores if score.eligible}
        sticky = choice.reason == routing_pb2.SELECT_REASON_STICKY
        assert not (asked > world.retired and choice.arm == "doomed"), choice
        assert not (world.down < asked < world.up and choice.arm == "flaky"), choice
        assert sticky or asked < world.added or "new" in {score.arm for score in choice.scores}
        assert choice.arm in offered
    assert {"doomed", "new"} < {choice.arm for _, choice in seen}
    rng = random.Random(1)
    decisions = sorted({choice.decision_id for _, choice in seen})
    for decision_id in rng.sample(decisions, 100):
        shown = server.routing.GetDecision(routing_pb2.GetDecisionRequest(decision_id=decision_id))
        assert shown.confirmed, shown.unconfirmed_reason
    assert server.stop() == 0
