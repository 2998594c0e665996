"""One scripted session through the real server for every rule of a session."""

import grpc
import pytest

from pointsman import field_violations
from pointsman.v1 import routing_pb2 as pb

SECONDS = 10


def select(server, session_id, **more):
    return server.routing.Select(pb.SelectRequest(session_id=session_id, **more), timeout=SECONDS)


def escalate(server, choice, reason=pb.ESCALATION_REASON_VERIFIED_FAILURE, **more):
    request = pb.EscalateRequest(decision_id=choice.decision_id, reason=reason, **more)
    return server.routing.Escalate(request, timeout=SECONDS)


def report(server, choice, request_id="", **signals):
    request = pb.ReportProgressRequest(decision_id=choice.decision_id, request_id=request_id, signals=signals)
    return server.routing.ReportProgress(request, timeout=SECONDS)


def session_of(server, session_id):
    return server.routing.GetSession(pb.GetSessionRequest(session_id=session_id), timeout=SECONDS)


def decision_of(server, choice, router=""):
    request = pb.GetDecisionRequest(router=router, decision_id=choice.decision_id)
    shown = server.routing.GetDecision(request, timeout=SECONDS)
    assert shown.confirmed, shown.unconfirmed_reason
    return shown


def reasons(choice):
    """Why each arm that is not eligible is not."""
    return {score.arm: score.ineligible_reason for score in choice.scores if not score.eligible}


def refused(call, code=grpc.StatusCode.FAILED_PRECONDITION):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() == code, caught.value.details()
    return caught.value


# --- what a request demands --------------------------------------------------------------------------------------


def test_what_was_demanded_last_holds_for_the_attempts_that_follow(server):
    first = select(server, "demands", allow=["a", "b"], max_cost_usd=3.0)
    assert reasons(first) == {"c": "not among the request's allowed arms"}
    second = escalate(server, first).next
    assert second.arm in ("a", "b") and reasons(second)["c"] == "not among the request's allowed arms"
    assert decision_of(server, second).cost_cap_usd == 3.0
    assert escalate(server, second).HasField("exhausted")


def test_a_sticky_select_that_demands_something_else_is_remembered(server):
    first = select(server, "demands-else", pinned_arm="a")
    last = server.last_sequence()
    assert select(server, "demands-else").reason == pb.SELECT_REASON_STICKY
    assert server.last_sequence() == last, "a plain repeat is not logged"
    for _ in range(2):
        again = select(server, "demands-else", deny=["b"])
        assert (again.decision_id, again.reason) == (first.decision_id, pb.SELECT_REASON_STICKY)
        assert server.last_sequence() == last + 1, "and neither is one without a change"
    second = escalate(server, first).next
    assert (second.arm, reasons(second)["b"]) == ("c", "denied by the request")


def test_a_turn_that_needs_more_upgrades_the_session(server):
    first = select(server, "upgrade", allow=["b", "c"], required_capabilities=[])
    moved = select(server, "upgrade", required_capabilities=["browser"])
    if first.arm == "c":
        assert moved.reason == pb.SELECT_REASON_STICKY
    else:
        assert (moved.arm, moved.reason, moved.propensity) == ("c", pb.SELECT_REASON_REROUTED_CAPABILITY, 1.0)
        left = session_of(server, "upgrade").attempts[0]
        assert left.left_reason == pb.ESCALATION_REASON_CAPABILITY and left.outcome.success_censored


def test_escalating_can_demand_more(server):
    first = select(server, "more", pinned_arm="b", required_capabilities=[])
    capability = pb.ESCALATION_REASON_CAPABILITY
    second = escalate(server, first, capability, required_capabilities=["vision", "browser"], context_tokens=7).next
    assert (second.arm, second.reason) == ("c", pb.SELECT_REASON_REROUTED_CAPABILITY)
    assert reasons(second)["a"] == "lacks browser"
    assert '"context_tokens":7' in decision_of(server, second).event_json
    # It goes on to hold: nothing else can do it.
    assert escalate(server, second).HasField("exhausted")


# --- progress ----------------------------------------------------------------------------------------------------


def test_progress_is_advised_on_and_changes_nothing(server):
    first = select(server, "progress")
    going = report(server, first, turns=2, tool_calls=5, tool_errors=1, repeated_calls=0)
    assert (going.action, going.arm, going.propensity) == (pb.PROGRESS_ACTION_CONTINUE, first.arm, 1.0)
    assert not going.HasField("success_mean") and not going.HasField("threshold")
    stuck = report(server, first, "once", turns=8, tool_calls=20, tool_errors=9, repeated_calls=4)
    assert stuck.action == pb.PROGRESS_ACTION_ESCALATE and stuck.arm not in ("", first.arm)
    assert select(server, "progress").reason == pb.SELECT_REASON_STICKY
    last = server.last_sequence()
    assert report(server, first, "once", turns=8, tool_calls=20, tool_errors=9, repeated_calls=4) == stuck
    assert server.last_sequence() == last
    conflict = refused(lambda: report(server, first, "once", turns=9), grpc.StatusCode.ALREADY_EXISTS)
    assert "request_id" in conflict.details()
    # The advice is what Escalate does.
    second = escalate(server, first, pb.ESCALATION_REASON_STRUGGLING).next
    assert second.arm == stuck.arm
    assert "stale" in refused(lambda: report(server, first, tool_calls=30)).details()


def test_where_nothing_is_left_the_advice_is_to_stop(server):
    only = select(server, "stop", allow=["a"])
    stop = report(server, only, tool_calls=10, tool_errors=10)
    assert (stop.action, stop.arm) == (pb.PROGRESS_ACTION_STOP, "")
    assert escalate(server, only, pb.ESCALATION_REASON_STRUGGLING).HasField("exhausted")
    assert "exhausted" in refused(lambda: report(server, only, tool_calls=11)).details()
    done = select(server, "stop-final")
    server.routing.Reward(pb.RewardRequest(decision_id=done.decision_id, success=1.0, final=True))
    assert "final" in refused(lambda: report(server, done, tool_calls=1)).details()


# --- failover ----------------------------------------------------------------------------------------------------


def test_an_arm_that_agents_cannot_reach_is_taken_out_and_its_sessions_move_on(serving, tmp_path):
    server = serving(tmp_path / "data")
    unavailable = pb.ESCALATION_REASON_UNAVAILABLE
    running = select(server, "running", pinned_arm="a")
    bystander = select(server, "bystander", pinned_arm="b")
    for i in range(3):
        failed = select(server, f"failed-{i}", pinned_arm="a")
        moved = escalate(server, failed, unavailable, outcome={"cost_usd": 0.5}).next
        assert moved.reason == pb.SELECT_REASON_REROUTED_UNAVAILABLE
    # The third report takes it out: nobody is sent there any more, whoever runs there moves on.
    why = "3 of 3 attempts in the last 60 s failed"
    for i in range(8):
        choice = select(server, f"after-{i}")
        assert choice.arm != "a" and reasons(choice) == {"a": why}
    moved = select(server, "running")
    assert (moved.attempt, moved.reason) == (2, pb.SELECT_REASON_REROUTED_UNAVAILABLE)
    left = session_of(server, "running").attempts[0]
    assert left.left_reason == unavailable and left.outcome.success_censored
    server.routing.Reward(pb.RewardRequest(decision_id=running.decision_id, cost_usd=0.25))
    assert session_of(server, "running").attempts[0].outcome.cost_usd == 0.25
    assert select(server, "bystander").decision_id == bystander.decision_id
    pinned = refused(lambda: select(server, "pin", pinned_arm="a"))
    assert f"a: {why}" in pinned.details()
    decision_of(server, moved)
    # Being out is in the log, so it outlives the process.
    server.kill()
    server = serving(tmp_path / "data")
    assert reasons(select(server, "restarted")) == {"a": why}
    decision_of(server, moved)
    server.stop()


def test_an_endpoint_is_one_of_the_arm_s(server):
    choice = select(server, "endpoint")
    unavailable = pb.ESCALATION_REASON_UNAVAILABLE
    error = refused(lambda: escalate(server, choice, unavailable, endpoint="moon"), grpc.StatusCode.NOT_FOUND)
    assert [violation[0] for violation in field_violations(error)] == ["endpoint"]
    assert select(server, "endpoint").endpoint == ""
