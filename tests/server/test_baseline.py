"""The offline baseline: agents that opted in go on working while the server is dead."""

import asyncio

import grpc
import pytest

from pointsman import AsyncClient, Client, EscalationReason, SelectReason, select_request

REASON = EscalationReason.ESCALATION_REASON_STRUGGLING


@pytest.fixture(scope="module")
def dead(serving, tmp_path_factory):
    """A server that has answered, and was then killed."""
    server = serving(tmp_path_factory.mktemp("dead") / "data")
    with Client(server.grpc, baseline_arm="b") as client:
        answered = client.select(session_id="before", allow=["a"])
        assert answered.decision_id and answered.arm == "a"
        server.kill()
        yield server, client


def test_an_agent_that_opted_in_gets_the_baseline_and_nothing_is_told(dead):
    _, client = dead
    choice = client.select({"category": "bugfix"}, session_id="during")
    assert (choice.arm, choice.decision_id, choice.reason) == ("b", "", SelectReason.SELECT_REASON_BASELINE)
    assert client.reward(decision_id=choice.decision_id, success=1.0) is None
    assert client.escalate(choice, reason=REASON) is None
    (item,) = client.batch_select([select_request(session_id="during")])
    assert (item.response.arm, item.response.decision_id) == ("b", "")


def test_what_was_decided_before_is_not_lost_silently(dead):
    _, client = dead
    with pytest.raises(grpc.RpcError) as raised:
        client.reward(decision_id="a-decision-of-before", success=1.0)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_asyncio_agents_get_the_baseline_too_and_others_the_error(dead):
    server, _ = dead

    async def agents() -> None:
        async with AsyncClient(server.grpc, baseline_arm="b") as client:
            choices = await asyncio.gather(*(client.select(session_id=f"s{i}") for i in range(16)))
            assert {(choice.arm, choice.decision_id) for choice in choices} == {("b", "")}
            assert await client.reward(decision_id=choices[0].decision_id, success=1.0) is None
        async with AsyncClient(server.grpc, retries=1) as client:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await client.select()
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(agents())


def test_the_same_client_is_served_again_when_the_server_is_back(dead, serving):
    server, client = dead
    serving(server.data_dir, None, "--config", str(server.data_dir.with_suffix(".toml")), "--listen", server.grpc)
    for _ in range(20):  # the channel dials again at its own pace
        choice = client.select(session_id="before")
        if choice.decision_id:
            break
    assert (choice.arm, choice.reason) == ("a", SelectReason.SELECT_REASON_STICKY)
