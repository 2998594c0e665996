"""Sessions through the real server: what sticks, what moves, what ends."""

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from pointsman import field_violations
from pointsman.v1 import routing_pb2 as pb
from tests.server.conftest import UNIFORM


def refused(call, request) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=10)
    return caught.value


def code(call, request) -> grpc.StatusCode:
    return refused(call, request).code()


def select(server, session_id, **more):
    return server.routing.Select(pb.SelectRequest(session_id=session_id, **more), timeout=10)


def escalate(server, choice, reason=pb.ESCALATION_REASON_VERIFIED_FAILURE, **more):
    request = pb.EscalateRequest(decision_id=choice.decision_id, reason=reason, **more)
    return server.routing.Escalate(request, timeout=10)


def session_of(server, session_id):
    return server.routing.GetSession(pb.GetSessionRequest(session_id=session_id), timeout=10)


def test_a_first_select_decides_and_the_next_sticks(server):
    first = select(server, "sticky")
    assert (first.attempt, first.reason) == (1, pb.SELECT_REASON_SAMPLED)
    assert first.propensity == pytest.approx(1 / 3)
    assert [score.arm for score in first.scores] == ["a", "b", "c"]
    assert sum(score.propensity for score in first.scores) == pytest.approx(1.0)
    again = select(server, "sticky")
    assert again.reason == pb.SELECT_REASON_STICKY
    assert (again.decision_id, again.arm, again.attempt, again.propensity) == (
        first.decision_id,
        first.arm,
        1,
        first.propensity,
    )
    assert len(session_of(server, "sticky").attempts) == 1


def test_a_session_without_a_name_gets_one(server):
    by_request = select(server, "", request_id="nameless")
    assert by_request.session_id
    assert select(server, "", request_id="nameless") == by_request
    assert len({select(server, "").session_id for _ in range(3)}) == 3


def test_a_pinned_arm_is_taken_and_another_pin_begins_an_attempt(server):
    pinned = select(server, "pinned", pinned_arm="b", deny=["b"])
    assert (pinned.arm, pinned.propensity, pinned.reason) == ("b", 1.0, pb.SELECT_REASON_PINNED)
    assert select(server, "pinned", pinned_arm="b").reason == pb.SELECT_REASON_STICKY
    moved = select(server, "pinned", pinned_arm="c")
    assert (moved.arm, moved.attempt) == ("c", 2)
    left = session_of(server, "pinned").attempts[0]
    assert left.left_reason == pb.ESCALATION_REASON_USER_REQUEST
    assert left.outcome.success_censored


def test_one_eligible_arm_is_certain(server):
    only = select(server, "only", allow=["a", "b"], deny=["a"])
    assert (only.arm, only.propensity, only.reason) == ("b", 1.0, pb.SELECT_REASON_ONLY_ELIGIBLE)
    reasons = {score.arm: score.ineligible_reason for score in only.scores}
    assert reasons["a"] == "denied by the request" and reasons["b"] == "" and "allowed" in reasons["c"]


def test_an_arm_that_becomes_incapable_or_forbidden_is_left(server):
    first = select(server, "reroute", allow=["b"])
    incapable = select(server, "reroute", required_capabilities=["vision"])
    assert incapable.reason == pb.SELECT_REASON_REROUTED_CAPABILITY
    assert incapable.attempt == 2 and incapable.arm in ("a", "c")
    forbidden = select(server, "reroute", deny=[incapable.arm])
    assert forbidden.reason == pb.SELECT_REASON_REROUTED_POLICY
    assert len({first.arm, incapable.arm, forbidden.arm}) == 3


def test_no_eligible_arm_says_why_for_each(server):
    error = refused(server.routing.Select, pb.SelectRequest(session_id="none", required_capabilities=["teleport"]))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    for arm in "abc":
        assert f"{arm}: lacks teleport" in error.details()
    (detail,) = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"]).details
    failure = error_details_pb2.PreconditionFailure()
    assert detail.Unpack(failure)
    assert [violation.subject for violation in failure.violations] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("reason", "selected", "censored"),
    [
        (pb.ESCALATION_REASON_VERIFIED_FAILURE, pb.SELECT_REASON_ESCALATED, False),
        (pb.ESCALATION_REASON_STRUGGLING, pb.SELECT_REASON_ESCALATED, False),
        (pb.ESCALATION_REASON_USER_REQUEST, pb.SELECT_REASON_ESCALATED, True),
        (pb.ESCALATION_REASON_CAPABILITY, pb.SELECT_REASON_REROUTED_CAPABILITY, True),
        (pb.ESCALATION_REASON_UNAVAILABLE, pb.SELECT_REASON_REROUTED_UNAVAILABLE, True),
        (pb.ESCALATION_REASON_POLICY, pb.SELECT_REASON_REROUTED_POLICY, True),
    ],
)
def test_escalating_moves_to_another_arm(server, reason, selected, censored):
    name = f"escalate-{reason}"
    first = select(server, name)
    outcome = pb.AttemptOutcome(cost_usd=0.5, latency_seconds=3.0)
    following = escalate(server, first, reason, outcome=outcome).next
    assert following.arm != first.arm
    assert (following.attempt, following.reason) == (2, selected)
    left = session_of(server, name).attempts[0]
    assert left.left_reason == reason
    assert (left.outcome.cost_usd, left.outcome.latency_seconds) == (0.5, 3.0)
    assert left.outcome.success_censored == censored
    assert left.outcome.HasField("success") != censored
    stale = pb.EscalateRequest(decision_id=first.decision_id, reason=reason)
    assert code(server.routing.Escalate, stale) == grpc.StatusCode.FAILED_PRECONDITION


def test_a_session_is_exhausted_after_the_last_arm(server):
    choice = select(server, "exhausted")
    for _ in range(2):
        choice = escalate(server, choice).next
    end = escalate(server, choice)
    assert end.HasField("exhausted") and end.exhausted.stop_propensity == 1.0
    request = pb.SelectRequest(session_id="exhausted")
    assert code(server.routing.Select, request) == grpc.StatusCode.FAILED_PRECONDITION
    again = pb.EscalateRequest(session_id="exhausted", reason=pb.ESCALATION_REASON_STRUGGLING)
    assert code(server.routing.Escalate, again) == grpc.StatusCode.FAILED_PRECONDITION
    server.routing.Reward(pb.RewardRequest(session_id="exhausted", success=0.0, cost_usd=2.0, final=True))
    seen = session_of(server, "exhausted")
    assert (seen.exhausted, seen.final, seen.success, seen.cost_usd) == (True, True, 0.0, 2.0)


def test_features_that_change_are_merged(server):
    request = pb.SelectRequest(session_id="features")
    request.features["files"].number = 3
    request.features["kind"].category = "bugfix"
    first = server.routing.Select(request)
    change = pb.EscalateRequest(decision_id=first.decision_id, reason=pb.ESCALATION_REASON_STRUGGLING)
    change.features["files"].number = 9
    change.features["urgent"].flag = True
    change.features["note"].text = "it grew"
    change.features["vector"].embedding.values.extend([0.5, -1.0])
    following = server.routing.Escalate(change).next
    shown = server.routing.GetDecision(pb.GetDecisionRequest(decision_id=following.decision_id))
    assert {name: value.WhichOneof("value") for name, value in shown.features.items()} == {
        "files": "number",
        "kind": "category",
        "urgent": "flag",
        "vector": "embedding",
    }
    assert shown.features["files"].number == 9
    assert "bugfix" not in shown.event_json, "features lie apart from the event, so that they can be erased"
    assert shown.confirmed and not shown.erased


def test_texts_are_kept_only_where_the_router_says_so_and_learned_from_all_the_same(serving, tmp_path):
    told = []
    for stored in (False, True):
        data_dir = tmp_path / f"{stored}"
        config = '[service]\nfitter = "inline"\n' + UNIFORM.replace("uniform", "thompson")
        server = serving(data_dir, config.replace("[router]", f"[router]\nstore_text = {str(stored).lower()}"))
        for i, text in enumerate(("mend the parser", "write about sockets") * 4):
            request = pb.SelectRequest(session_id=f"s{i}")
            request.features["title"].text = text
            choice = server.routing.Select(request)
            leave = pb.EscalateRequest(decision_id=choice.decision_id, reason=pb.ESCALATION_REASON_USER_REQUEST)
            leave.features["note"].text = "a secret note"
            following = server.routing.Escalate(leave).next
            server.routing.Reward(pb.RewardRequest(session_id=f"s{i}", success=float(i % 2), cost_usd=1.0 + i % 2))
            for decided in (choice, following):
                shown = server.routing.GetDecision(pb.GetDecisionRequest(decision_id=decided.decision_id))
                assert shown.confirmed and ("title" in shown.features) == stored
                told.append((stored, shown.epoch_hash, [(score.arm, score.propensity) for score in shown.scores]))
            assert shown.features["note"].text == ("a secret note" if stored else "")
        server.kill()
        logged = b"".join(path.read_bytes() for path in data_dir.glob("events.db*"))
        assert (b"a secret note" in logged) == (b"mend the parser" in logged) == stored
    assert [one[1:] for one in told if one[0]] == [one[1:] for one in told if not one[0]]


def test_rewards_are_revised_by_attempt_and_by_session(server):
    first = select(server, "rewards")
    following = escalate(server, first, outcome=pb.AttemptOutcome(cost_usd=0.25)).next

    def reward(**fields):
        return server.routing.Reward(pb.RewardRequest(**fields), timeout=10).accepted_revision

    # The escalation was revision 1; the session's total is shared out.
    assert reward(session_id="rewards", success=1.0, cost_usd=1.0, metrics={"tests": 3.0}) == 2
    seen = session_of(server, "rewards")
    assert [attempt.outcome.cost_usd for attempt in seen.attempts] == [0.25, 0.75]
    assert (seen.success, seen.cost_usd) == (1.0, 1.0)
    # Late, for the attempt that was left: it counts, and the total stays what it was.
    assert reward(decision_id=first.decision_id, cost_usd=0.5) == 3
    seen = session_of(server, "rewards")
    assert [attempt.outcome.cost_usd for attempt in seen.attempts] == [0.5, 0.5]
    # Out of order: a lower revision loses where a higher one has spoken.
    assert reward(decision_id=following.decision_id, success=0.5, revision=10, final=True) == 10
    assert reward(decision_id=following.decision_id, success=0.0, latency_seconds=4.0, revision=9) == 9
    # After final it still counts; unset is one more than the highest.
    assert reward(decision_id=following.decision_id, metrics={"tests": 5.0}) == 11
    last = session_of(server, "rewards").attempts[-1].outcome
    assert (last.success, last.latency_seconds, last.revision) == (0.5, 4.0, 11)
    assert dict(last.metrics) == {"tests": 5.0}
    request = pb.SelectRequest(session_id="rewards")
    assert code(server.routing.Select, request) == grpc.StatusCode.FAILED_PRECONDITION


def test_cost_is_derived_from_usage_and_price(server):
    choice = select(server, "usage", pinned_arm="a")
    usage = pb.Usage(input_tokens=1_000_000, output_tokens=500_000, cached_tokens=1_000_000)
    server.routing.Reward(pb.RewardRequest(decision_id=choice.decision_id, usage=usage))
    outcome = session_of(server, "usage").attempts[0].outcome
    assert outcome.cost_usd == pytest.approx(1.0 + 0.5 * 4.0 + 1.0)
    assert outcome.usage == usage


def test_another_arm_may_have_served(server):
    choice = select(server, "served", allow=["b"])
    server.routing.Reward(pb.RewardRequest(decision_id=choice.decision_id, success=1.0, served_arm="c"))
    attempt = session_of(server, "served").attempts[0]
    assert (attempt.arm, attempt.outcome.served_arm) == ("b", "c")


def test_ids_that_name_nothing_are_not_found_and_named(server):
    routing = server.routing
    known = select(server, "known")
    for call, request, field in (
        (routing.Select, pb.SelectRequest(router="nowhere"), "router"),
        (routing.Select, pb.SelectRequest(pinned_arm="nobody"), "pinned_arm"),
        (routing.Select, pb.SelectRequest(allow=["nobody"]), "allow"),
        (routing.Select, pb.SelectRequest(deny=["nobody"]), "deny"),
        (routing.Escalate, pb.EscalateRequest(session_id="nobody", reason=1), "session_id"),
        (routing.Escalate, pb.EscalateRequest(decision_id="nobody", reason=1), "decision_id"),
        (routing.Reward, pb.RewardRequest(decision_id="nobody"), "decision_id"),
        (routing.Reward, pb.RewardRequest(session_id="nobody"), "session_id"),
        (routing.Reward, pb.RewardRequest(session_id=known.session_id, served_arm="nobody"), "served_arm"),
        (routing.GetSession, pb.GetSessionRequest(session_id="nobody"), "session_id"),
        (routing.GetDecision, pb.GetDecisionRequest(decision_id="nobody"), "decision_id"),
    ):
        error = refused(call, request)
        assert error.code() == grpc.StatusCode.NOT_FOUND, request
        assert [violation[0] for violation in field_violations(error)] == [field]


def test_a_decision_of_another_session_is_invalid(server):
    mine, other = select(server, "mine"), select(server, "other")
    request = pb.EscalateRequest(session_id=mine.session_id, decision_id=other.decision_id, reason=1)
    assert code(server.routing.Escalate, request) == grpc.StatusCode.INVALID_ARGUMENT


def test_a_batch_answers_each_item_as_if_sent_alone(server):
    items = [
        pb.SelectRequest(session_id="batch-1", request_id="batch-1"),
        pb.SelectRequest(session_id="batch-1"),
        pb.SelectRequest(session_id="batch-2", pinned_arm="nobody"),
        pb.SelectRequest(session_id="batch-3", max_cost_usd=float("nan")),
        pb.SelectRequest(session_id="batch-4"),
    ]
    results = server.routing.BatchSelect(pb.BatchSelectRequest(requests=items)).responses
    assert [result.WhichOneof("result") for result in results] == [
        "response",
        "response",
        "status",
        "status",
        "response",
    ]
    assert results[1].response.reason == pb.SELECT_REASON_STICKY
    assert [results[i].status.code for i in (2, 3)] == [5, 3]
    assert results[2].status.details
    assert server.routing.Select(items[0]) == results[0].response, "an item may be retried alone"
