"""One scripted session through the real server for every rule of a session."""

import time

import grpc
import pytest

from pointsman import field_violations
from pointsman.v1 import admin_pb2
from pointsman.v1 import routing_pb2 as pb

SECONDS = 10


def select(server, session_id, **more):
    return server.routing.Select(pb.SelectRequest(session_id=session_id, **more), timeout=SECONDS)


def escalate(server, choice, reason=pb.ESCALATION_REASON_VERIFIED_FAILURE, **more):
    request = pb.EscalateRequest(decision_id=choice.decision_id, reason=reason, **more)
    return server.routing.Escalate(request, timeout=SECONDS)


def report(server, choice, request_id="", router="", **signals):
    request = pb.ReportProgressRequest(
        router=router, decision_id=choice.decision_id, request_id=request_id, signals=signals
    )
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


# --- rules that an operator sets ---------------------------------------------------------------------------------


PLAIN = tuple(admin_pb2.Arm(id=name) for name in "abcd")
PLACES = (admin_pb2.Arm(id="near", endpoints=["east", "west"]), admin_pb2.Arm(id="far"))
PRICED = tuple(
    admin_pb2.Arm(id=name, figures=[{"success_rate": 0.5, "cost_usd_mean": usd}])
    for name, usd in (("cheap", 0.1), ("dear", 2.0))
)


class Story:
    """A router of its own on the server: its operator, and the agents that talk to it."""

    def __init__(self, server, name, arms=PLAIN, policy="uniform", **settings):
        self.server, self.name = server, name
        request = admin_pb2.CreateRouterRequest(router=name, policy=policy, settings=settings)
        server.admin.CreateRouter(request, timeout=SECONDS)
        for arm in arms:
            server.admin.PutArm(admin_pb2.PutArmRequest(router=name, arm=arm), timeout=SECONDS)

    # The operator.

    def update(self, **settings):
        request = admin_pb2.UpdateRouterRequest(router=self.name, settings=settings)
        self.server.admin.UpdateRouter(request, timeout=SECONDS)

    def retire(self, arm):
        self.server.admin.RetireArm(admin_pb2.RetireArmRequest(router=self.name, arm=arm), timeout=SECONDS)

    def down(self, arm, why="", *, seconds=600.0, endpoint=""):
        request = admin_pb2.SetAvailabilityRequest(
            router=self.name, arm=arm, down_seconds=seconds, why=why, endpoint=endpoint
        )
        self.server.admin.SetAvailability(request, timeout=SECONDS)

    def mode(self, mode):
        self.server.admin.SetMode(admin_pb2.SetModeRequest(router=self.name, mode=mode), timeout=SECONDS)

    # The agents.

    def select(self, session_id, categories=(), **more):
        request = pb.SelectRequest(router=self.name, session_id=session_id, **more)
        for name, value in dict(categories).items():
            request.features[name].category = value
        return self.server.routing.Select(request, timeout=SECONDS)

    def escalate(self, choice, reason=pb.ESCALATION_REASON_VERIFIED_FAILURE, **more):
        return escalate(self.server, choice, reason, router=self.name, **more)

    def first_attempt(self, session_id):
        request = pb.GetSessionRequest(router=self.name, session_id=session_id)
        return self.server.routing.GetSession(request, timeout=SECONDS).attempts[0]

    def decision(self, choice):
        return decision_of(self.server, choice, self.name)


def test_rules_hold_by_organisation_project_and_user_and_a_pick_wins(server):
    rules = [
        {"organisation": "bank", "allow": ["a", "b"]},
        {"organisation": "bank", "project": "ledger", "deny": ["a"]},
        {"user": "intern", "deny": ["b"]},
    ]
    story = Story(server, "callers")
    story.update(rules={"rules": rules})
    assert reasons(story.select("nobody")) == {}
    bank = "not among the arms allowed by the rule for organisation 'bank'"
    assert reasons(story.select("bank", {"organisation": "bank"})) == {"c": bank, "d": bank}
    ledger = {"organisation": "bank", "project": "ledger"}
    only = story.select("ledger", ledger)
    assert (only.arm, only.reason, only.propensity) == ("b", pb.SELECT_REASON_ONLY_ELIGIBLE, 1.0)
    assert reasons(only)["a"] == "denied by the rule for organisation 'bank', project 'ledger'"
    error = refused(lambda: story.select("none", {**ledger, "user": "intern"}))
    assert "b: denied by the rule for user 'intern'" in error.details()
    pinned = story.select("pin", {**ledger, "user": "intern"}, pinned_arm="c", max_cost_usd=0.0, deny=["c"])
    assert (pinned.arm, pinned.reason, pinned.propensity) == ("c", pb.SELECT_REASON_PINNED, 1.0)
    assert story.select("pin", {"user": "intern"}).reason == pb.SELECT_REASON_STICKY
    for choice in (only, pinned):
        story.decision(choice)


def test_an_arm_that_is_forbidden_retired_or_down_in_mid_session_is_left(server):
    story = Story(server, "left")
    begun = {arm: story.select(f"on-{arm}", {"project": "x"}, pinned_arm=arm) for arm in "abc"}
    sampled = story.select("sampled", {"project": "x"}, allow=["d"])
    story.update(rules={"rules": [{"project": "x", "deny": ["d"]}]})
    story.retire("a")
    story.down("b", "maintenance")
    for arm, why in (("a", "retired"), ("b", "maintenance")):
        moved = story.select(f"on-{arm}")
        assert (moved.attempt, moved.reason) == (2, pb.SELECT_REASON_REROUTED_UNAVAILABLE)
        left = story.first_attempt(f"on-{arm}")
        assert left.left_reason == pb.ESCALATION_REASON_UNAVAILABLE and left.outcome.success_censored
        assert f"{arm}: {why}" in refused(lambda arm=arm: story.select("pin", pinned_arm=arm)).details()
        story.decision(moved)
        story.decision(begun[arm])
    moved = story.select("sampled")
    assert (moved.attempt, moved.reason) == (2, pb.SELECT_REASON_REROUTED_POLICY)
    assert reasons(moved)["d"] == "denied by the rule for project 'x'"
    assert story.first_attempt("sampled").left_reason == pb.ESCALATION_REASON_POLICY
    assert story.select("on-c").decision_id == begun["c"].decision_id
    for choice in (sampled, moved):
        story.decision(choice)


def test_an_arm_that_was_down_returns_by_itself(server):
    story = Story(server, "returns")
    story.down("a", seconds=600.0)
    assert reasons(story.select("")) == {"a": "down"}
    story.down("a", seconds=0.3)
    ends = time.monotonic() + SECONDS
    while reasons(story.select("")):
        assert time.monotonic() < ends, "it never returned"
        time.sleep(0.02)
    assert story.select("s", allow=["a"]).arm == "a"


def test_a_context_that_grows_moves_the_session_to_an_arm_that_takes_it(server):
    arms = admin_pb2.Arm(id="small", context_window_tokens=100_000), admin_pb2.Arm(id="large")
    story = Story(server, "context", arms)
    first = story.select("s", context_tokens=50_000, allow=["small"])
    assert story.select("s", context_tokens=100_000).reason == pb.SELECT_REASON_STICKY
    moved = story.select("s", context_tokens=250_000)
    assert (moved.arm, moved.reason) == ("large", pb.SELECT_REASON_REROUTED_CAPABILITY)
    assert reasons(moved) == {"small": "takes 100,000 tokens, 250,000 needed"}
    assert story.first_attempt("s").left_reason == pb.ESCALATION_REASON_CAPABILITY
    assert '"reread_tokens":250000' in story.decision(moved).event_json
    assert '"reread_tokens"' not in story.decision(first).event_json
    error = refused(lambda: story.select("pin", context_tokens=250_000, pinned_arm="small"))
    assert "takes 100,000 tokens" in error.details()


def test_a_session_is_told_the_endpoint_that_is_up(server):
    story = Story(server, "endpoints", PLACES)
    first = story.select("s", pinned_arm="near", request_id="first")
    assert first.endpoint == "east"
    story.down("near", "cable cut", endpoint="east")
    again = story.select("s")
    assert (again.decision_id, again.reason, again.endpoint) == (first.decision_id, pb.SELECT_REASON_STICKY, "west")
    assert story.select("s", pinned_arm="near", request_id="first") == first, "a repeat gets what was stored"
    assert story.first_attempt("s").endpoint == story.decision(first).endpoint == "west"
    story.down("near", "flooded", endpoint="west")
    moved = story.select("s")
    assert (moved.arm, moved.endpoint, moved.reason) == ("far", "", pb.SELECT_REASON_REROUTED_UNAVAILABLE)
    assert reasons(moved) == {"near": "east: cable cut; west: flooded"}
    error = refused(lambda: story.select("none", deny=["far"]))
    assert "near: east: cable cut; west: flooded" in error.details()
    assert "far: denied by the request" in error.details()
    story.down("near", seconds=0.0, endpoint="west")
    assert story.select("t", pinned_arm="near").endpoint == "west"


def test_an_endpoint_that_agents_cannot_reach_is_out_for_a_while(server):
    story = Story(server, "failover", PLACES, failover={"errors": 2, "cool_down_seconds": 1.0})
    for i in range(2):
        first = story.select(f"s{i}", pinned_arm="near")
        assert first.endpoint == "east"
        before = time.monotonic()
        following = story.escalate(first, pb.ESCALATION_REASON_UNAVAILABLE).next
        assert (following.arm, following.endpoint) == ("far", "")
    after = story.select("after", pinned_arm="near")
    assert after.endpoint == "west" or time.monotonic() > before + 1.0, "that endpoint is out, the arm is not"
    ends = time.monotonic() + SECONDS
    while story.select("after").endpoint != "east":
        assert time.monotonic() < ends, "it never returned"
        time.sleep(0.02)
    assert story.select("after").decision_id == after.decision_id


def test_a_session_keeps_within_its_cap(server):
    story = Story(server, "cap", PRICED, policy="thompson", objective={"value_usd": 9.0, "session_cap_usd": 1.0})
    first = story.select("s")
    assert first.arm == "cheap" and "above the cap of $1" in reasons(first)["dear"]
    assert story.decision(first).cost_cap_usd == 1.0
    advice = report(server, first, router="cap", cost_usd=1.5)
    assert (advice.action, advice.arm) == (pb.PROGRESS_ACTION_STOP, "")
    assert story.escalate(first, outcome={"cost_usd": 1.5}).HasField("exhausted")
    story.update(objective={"value_usd": 9.0, "session_cap_usd": 0.001})
    error = refused(lambda: story.select("poor"))
    for arm in ("cheap", "dear"):
        assert f"{arm}: expected to cost" in error.details()
    pinned = story.select("poor", pinned_arm="dear")
    assert pinned.reason == pb.SELECT_REASON_PINNED
    story.down("dear")
    # Where it has to leave its arm there is none that it can pay.
    assert "above the cap" in refused(lambda: story.select("poor")).details()
    story.decision(pinned)


def test_an_apprentice_takes_the_baseline_and_shows_what_it_would_do(server):
    story = Story(server, "apprentice", PRICED, policy="thompson")
    story.update(baseline_arm="dear")
    story.mode(admin_pb2.MODE_APPRENTICE)
    first = story.select("s")
    assert (first.arm, first.reason, first.propensity) == ("dear", pb.SELECT_REASON_BASELINE, 1.0)
    assert [(score.arm, score.propensity) for score in first.scores] == [("cheap", 0.0), ("dear", 1.0)]
    assert all(score.HasField("success_mean") and score.eligible for score in first.scores)
    assert list(first.ladder) == []
    assert story.escalate(first).HasField("exhausted")
    pinned = story.select("pinned", pinned_arm="cheap")
    assert pinned.reason == pb.SELECT_REASON_PINNED
    back = story.escalate(pinned, pb.ESCALATION_REASON_USER_REQUEST).next
    assert (back.arm, back.reason, back.propensity) == ("dear", pb.SELECT_REASON_BASELINE, 1.0)
    story.down("dear")
    without = story.select("without")
    assert (without.arm, without.reason) == ("cheap", pb.SELECT_REASON_ONLY_ELIGIBLE)
    modes = {story.decision(choice).mode for choice in (first, pinned, back, without)}
    assert modes == {"apprentice"}
    story.mode(admin_pb2.MODE_LIVE)
    live = story.select("live", allow=["cheap"])
    assert (live.reason, story.decision(live).mode) == (pb.SELECT_REASON_ONLY_ELIGIBLE, "live")
