"""A request id makes a call safe to send again."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from pointsman.v1 import admin_pb2
from pointsman.v1 import routing_pb2 as pb


def select_request(name: str) -> pb.SelectRequest:
    request = pb.SelectRequest(session_id=name, request_id=f"select-{name}")
    request.features["kind"].category = "bugfix"
    request.features["files"].number = 3
    return request


def conflict(call, request) -> bool:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=10)
    return caught.value.code() == grpc.StatusCode.ALREADY_EXISTS


def bytes_of(response) -> bytes:
    return response.SerializeToString(deterministic=True)


def test_each_method_gives_the_stored_response_and_stores_nothing(server):
    routing, admin = server.routing, server.admin
    first = routing.Select(select_request("each"))
    sticky_request = pb.SelectRequest(session_id="each", request_id="sticky-each")
    escalate_request = pb.EscalateRequest(decision_id=first.decision_id, request_id="escalate-each", reason=1)
    reward_request = pb.RewardRequest(session_id="each", request_id="reward-each", success=1.0)
    arm_request = admin_pb2.PutArmRequest(request_id="arm-each", arm=admin_pb2.Arm(id="a"))
    calls = [
        (routing.Select, select_request("each")),
        (routing.Select, sticky_request),
        (routing.Escalate, escalate_request),
        (routing.Reward, reward_request),
        (admin.PutArm, arm_request),
    ]
    answers = [bytes_of(call(request)) for call, request in calls]
    last = server.last_sequence()
    assert [bytes_of(call(request)) for call, request in calls] == answers
    assert server.last_sequence() == last


def test_the_stored_response_comes_before_any_other_rule(server):
    first = server.routing.Select(select_request("final"))
    server.routing.Reward(pb.RewardRequest(session_id="final", final=True))
    assert server.routing.Select(select_request("final")) == first


def test_another_message_conflicts_and_changes_nothing(server):
    first = server.routing.Select(select_request("other"))
    last = server.last_sequence()
    for change in ("session_id", "pinned_arm"):
        request = select_request("other")
        setattr(request, change, "b")
        assert conflict(server.routing.Select, request)
    request = select_request("other")
    request.features["files"].number = 4
    assert conflict(server.routing.Select, request)
    invalid = select_request("other")
    invalid.max_cost_usd = float("nan")
    assert conflict(server.routing.Select, invalid)
    assert server.last_sequence() == last
    assert server.routing.Select(select_request("other")) == first


def test_order_of_map_entries_does_not_matter(server):
    first = server.routing.Select(select_request("order"))
    turned = pb.SelectRequest(session_id="order", request_id="select-order", router="default")
    turned.features["files"].number = 3
    turned.features["kind"].category = "bugfix"
    assert server.routing.Select(turned) == first


def test_a_request_id_belongs_to_its_method(server):
    choice = server.routing.Select(pb.SelectRequest(session_id="scope", request_id="same"))
    server.routing.Reward(pb.RewardRequest(decision_id=choice.decision_id, request_id="same", success=1.0))


def test_without_a_request_id_nothing_is_a_repeat(server):
    server.routing.Select(pb.SelectRequest(session_id="plain"))
    last = server.last_sequence()
    revisions = [
        server.routing.Reward(pb.RewardRequest(session_id="plain", success=1.0)).accepted_revision for _ in range(2)
    ]
    assert revisions == [1, 2]
    assert server.last_sequence() == last + 2


def test_concurrent_duplicates_are_one(server):
    before = server.last_sequence()
    with ThreadPoolExecutor(32) as pool:
        for name in ("storm-1", "storm-2", "storm-3"):
            requests = [select_request(name) for _ in range(32)]
            answers = {bytes_of(answer) for answer in pool.map(server.routing.Select, requests)}
            assert len(answers) == 1
            (choice,) = {server.routing.Select(select_request(name)).decision_id}
            leave = pb.EscalateRequest(decision_id=choice, request_id=f"leave-{name}", reason=1)
            assert len({bytes_of(answer) for answer in pool.map(server.routing.Escalate, [leave] * 32)}) == 1
    assert server.last_sequence() == before + 3 * 3, "one decision, and one escalation with the next decision, each"


def test_answers_survive_a_restart(serving, tmp_path):
    server = serving(tmp_path / "data")
    first = server.routing.Select(select_request("restart"))
    leave = pb.EscalateRequest(decision_id=first.decision_id, request_id="leave", reason=2)
    following = server.routing.Escalate(leave)
    server.kill()
    server = serving(tmp_path / "data")
    assert bytes_of(server.routing.Select(select_request("restart"))) == bytes_of(first)
    assert bytes_of(server.routing.Escalate(leave)) == bytes_of(following)
    assert server.stop() == 0
