"""The world changes in mid-traffic: a price, a retired arm, a new arm, an arm down and back, while 64 agents work."""

import asyncio
import itertools
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random

import grpc
import pytest

from pointsman import Arm, AsyncClient, EscalationReason
from pointsman.v1 import admin_pb2 as admin
from pointsman.v1 import routing_pb2 as pb

AGENTS = 64
TURN_SECONDS = 0.1
BETWEEN_CHANGES = 50
"""Sessions that end in each settled world."""
FLOOR = 0.6
ARMS = (("a", 1.0, 0.6, 0.2), ("b", 2.0, 0.7, 0.4), ("c", 3.0, 0.7, 0.6), ("d", 5.0, 0.8, 1.0))
CONFIG = f"""
[router]
exploration_floor = {FLOOR}
max_attempts = 6
""" + "".join(
    f"""
[[arms]]
id = "{arm}"
input_usd_per_million = {price}
output_usd_per_million = {5 * price}
figures = [{{ success_rate = {success}, cost_usd = {cost} }}]
"""
    for arm, price, success, cost in ARMS
)


@dataclass(frozen=True)
class World:
    """What the operator was told to be so. While a change is on its way, `settled` is false."""

    stage: int = 0
    settled: bool = True
    up: frozenset[str] = frozenset("abcd")
    price_of_a: float = 1.0


@dataclass
class Traffic:
    """What the agents and the operator saw."""

    world: World = World()
    ended: list[str] = field(default_factory=list)
    """Sessions, in the order of their ends."""
    over: bool = False
    answers: list[tuple[pb.SelectResponse, World]] = field(default_factory=list)
    """Choices asked for and answered within one settled world, with that world."""
    rerouted: Counter[World] = field(default_factory=Counter)
    """Sessions that moved on because their arm was gone, by the world they asked in."""
    errors: Counter[tuple[str, grpc.StatusCode]] = field(default_factory=Counter)

    def see(self, choice: pb.SelectResponse, asked_in: World) -> None:
        if asked_in.settled and asked_in is self.world:
            self.answers.append((choice, asked_in))
        if choice.reason == pb.SELECT_REASON_REROUTED_UNAVAILABLE:
            self.rerouted[asked_in] += 1


async def agent(client: AsyncClient, traffic: Traffic, number: int) -> None:
    random = Random(number)
    for i in itertools.count():
        if traffic.over:
            return
        method, session_id = "Select", f"{number}-{i}"
        try:
            for _ in range(3):  # a turn each; the later ones stick unless the arm is gone
                world = traffic.world
                choice = await client.select({"category": "bugfix"}, session_id=session_id)
                traffic.see(choice, world)
                await asyncio.sleep(TURN_SECONDS * random.random())
            if random.random() < 0.3:
                method, world = "Escalate", traffic.world
                reason = EscalationReason.ESCALATION_REASON_STRUGGLING
                moved = await client.escalate(choice, reason=reason, cost_usd=random.random())
                if moved is not None:
                    traffic.see(moved, world)
                    choice = moved
            method = "Reward"
            success = float(random.random() < 0.7)
            await client.reward(decision_id=choice.decision_id, success=success, cost_usd=random.random(), final=True)
        except grpc.RpcError as error:
            traffic.errors[method, error.code()] += 1
        traffic.ended.append(session_id)


async def operator(client: AsyncClient, traffic: Traffic) -> None:
    async def some_sessions() -> None:
        enough = len(traffic.ended) + BETWEEN_CHANGES
        while len(traffic.ended) < enough:
            await asyncio.sleep(0.002)

    async def change(method, request, **world) -> None:
        await some_sessions()
        traffic.world = replace(traffic.world, settled=False)
        await client.call(method, request)
        traffic.world = replace(traffic.world, settled=True, stage=traffic.world.stage + 1, **world)

    prices = admin.Prices(input_usd_per_million=9.0, output_usd_per_million=45.0)
    await change(client.admin.PutArm, admin.PutArmRequest(arm=Arm(id="a", prices=prices)), price_of_a=9.0)
    new = admin.PutArmRequest(arm=Arm(id="e", prices=admin.Prices(input_usd_per_million=0.5)))
    await change(client.admin.PutArm, new, up=frozenset("abcde"))
    await change(client.admin.RetireArm, admin.RetireArmRequest(arm="b"), up=frozenset("acde"))
    down = admin.SetAvailabilityRequest(arm="c", down_seconds=3600.0, why="rate limited")
    await change(client.admin.SetAvailability, down, up=frozenset("ade"))
    await change(client.admin.SetAvailability, admin.SetAvailabilityRequest(arm="c"), up=frozenset("acde"))
    await some_sessions()
    traffic.over = True


@pytest.fixture(scope="module")
def played(serving, tmp_path_factory):
    """The traffic, and the server it went to."""
    server = serving(tmp_path_factory.mktemp("traffic") / "data", CONFIG)
    traffic = Traffic()

    async def play() -> None:
        async with AsyncClient(server.grpc, timeout_seconds=30.0) as client:
            work = [agent(client, traffic, number) for number in range(AGENTS)]
            await asyncio.gather(operator(client, traffic), *work)

    asyncio.run(play())
    return server, traffic


def test_no_session_is_stuck_and_nothing_fails(played):
    server, traffic = played
    assert traffic.over and not traffic.errors
    for session_id in traffic.ended[-AGENTS:]:
        session = server.routing.GetSession(pb.GetSessionRequest(session_id=session_id))
        assert session.final


def test_every_answer_is_of_the_world_it_was_asked_in(played):
    _, traffic = played
    by_stage = Counter(world.stage for _, world in traffic.answers)
    assert all(by_stage[stage] >= BETWEEN_CHANGES for stage in range(6)), by_stage
    for choice, world in traffic.answers:
        assert choice.arm in world.up
        if choice.reason != pb.SELECT_REASON_STICKY:
            offered = {score.arm for score in choice.scores if score.eligible}
            # Arms that were tried are out for the session; no other arm is.
            tried = {score.arm for score in choice.scores if "tried" in score.ineligible_reason}
            assert offered | (tried & world.up) == world.up, (choice, world)


def test_sessions_on_an_arm_that_is_gone_move_on(played):
    _, traffic = played
    # While a change is on its way, and after it. That of 64 sessions none is on the arm that goes: not in a lifetime.
    for stage, gone in ((3, "b, which was retired"), (4, "c, which went down")):
        moved = [n for world, n in traffic.rerouted.items() if world.stage + (not world.settled) == stage]
        assert sum(moved) > 0, gone


def test_new_and_returned_arms_are_taken(played):
    _, traffic = played
    for arm, stage in (("e", 2), ("c", 5)):
        begun = {choice.decision_id: choice.arm for choice, world in traffic.answers if world.stage == stage}
        # Each decision takes it with at least 0.6 / 5: none of 100 does with a probability of 3e-6.
        assert len(begun) >= BETWEEN_CHANGES
        assert arm in begun.values()


def test_decisions_from_before_and_after_are_confirmed_under_their_prices(played):
    server, traffic = played
    decided = [(choice, world) for choice, world in traffic.answers if choice.reason != pb.SELECT_REASON_STICKY]
    for choice, world in decided[:: max(1, len(decided) // 120)]:
        told = server.routing.GetDecision(pb.GetDecisionRequest(decision_id=choice.decision_id))
        assert told.confirmed, told.unconfirmed_reason
        situation = json.loads(told.event_json)["event"]["decision"]["situation"]
        prices = {offer["arm"]: offer["price"]["input_usd"] for offer in situation["offers"]}
        assert prices["a"] == world.price_of_a
        assert prices.get("e") == (0.5 if world.stage >= 2 else None)
