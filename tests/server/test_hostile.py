"""Whatever is sent, the answer is one of the documented codes, nothing bad is stored, and the server lives."""

import random

import grpc
import pytest

from pointsman import field_violations
from pointsman.v1 import admin_pb2
from pointsman.v1 import routing_pb2 as pb

UNARY = [
    ("Routing", name)
    for name in ("Select", "BatchSelect", "Escalate", "ReportProgress", "Reward", "GetSession", "GetDecision")
] + [("Admin", method.name) for method in admin_pb2.DESCRIPTOR.services_by_name["Admin"].methods]
DEFECTS = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
UNDECODABLE = (b"\xff" * 12, b"\x0a\xff", b"\x0a\x02\xc3\x28", b"\x0a\x7fshort", b"\x0b\x0b\x0b")


def raw(server, kind: str, path: str):
    return getattr(server.channel, kind)(path)


def code_of(call) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize(("service", "method"), UNARY)
@pytest.mark.parametrize("data", UNDECODABLE)
def test_undecodable_bytes_are_invalid(server, service, method, data):
    call = raw(server, "unary_unary", f"/pointsman.v1.{service}/{method}")
    last = server.last_sequence()
    assert code_of(lambda: call(data, timeout=10)) == grpc.StatusCode.INVALID_ARGUMENT
    assert server.last_sequence() == last


@pytest.mark.parametrize("data", UNDECODABLE)
def test_undecodable_bytes_are_invalid_in_streams_health_and_reflection_too(server, data):
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    export = raw(server, "unary_stream", "/pointsman.v1.Events/ExportEvents")
    assert code_of(lambda: list(export(data, timeout=10))) == invalid
    check = raw(server, "unary_unary", "/grpc.health.v1.Health/Check")
    assert code_of(lambda: check(data, timeout=10)) == invalid
    watch = raw(server, "unary_stream", "/grpc.health.v1.Health/Watch")
    assert code_of(lambda: list(watch(data, timeout=10))) == invalid
    reflect = raw(server, "stream_stream", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    assert code_of(lambda: list(reflect(iter([data]), timeout=10))) == invalid
    take = raw(server, "stream_unary", "/pointsman.v1.Events/ImportEvents")
    assert code_of(lambda: take(iter([data]), timeout=10)) not in DEFECTS


def _features(**values) -> pb.SelectRequest:
    request = pb.SelectRequest(session_id="hostile")
    for name, value in values.items():
        request.features[name].CopyFrom(value)
    return request


def _many_features(count: int) -> pb.SelectRequest:
    return _features(**{f"f{i}": pb.FeatureValue(number=1.0) for i in range(count)})


def _signals(**values) -> pb.ReportProgressRequest:
    return pb.ReportProgressRequest(session_id="hostile-live", signals=pb.ProgressSignals(**values))


NAN, INFINITY = float("nan"), float("inf")
LONG = "x" * 257
INVALID = [
    ("Select", pb.SelectRequest(session_id=LONG), "session_id"),
    ("Select", pb.SelectRequest(request_id=LONG), "request_id"),
    ("Select", pb.SelectRequest(router=LONG), "router"),
    ("Select", pb.SelectRequest(session_id="a\nb"), "session_id"),
    ("Select", pb.SelectRequest(pinned_arm="a\0b"), "pinned_arm"),
    ("Select", pb.SelectRequest(allow=["a"] * 1025), "allow"),
    ("Select", pb.SelectRequest(deny=[""]), "deny"),
    ("Select", pb.SelectRequest(required_capabilities=[LONG]), "required_capabilities"),
    ("Select", pb.SelectRequest(max_cost_usd=NAN), "max_cost_usd"),
    ("Select", pb.SelectRequest(max_cost_usd=-0.01), "max_cost_usd"),
    ("Select", _many_features(10_000), "features"),
    ("Select", _features(unset=pb.FeatureValue()), "features.unset"),
    ("Select", _features(files=pb.FeatureValue(number=NAN)), "features.files"),
    ("Select", _features(files=pb.FeatureValue(number=-INFINITY)), "features.files"),
    ("Select", _features(kind=pb.FeatureValue(category=LONG)), "features.kind"),
    ("Select", _features(text=pb.FeatureValue(text="x" * 65_537)), "features.text"),
    ("Select", _features(v=pb.FeatureValue(embedding=pb.Embedding())), "features.v"),
    ("Select", _features(v=pb.FeatureValue(embedding=pb.Embedding(values=[1.0, INFINITY]))), "features.v"),
    ("Select", _features(v=pb.FeatureValue(embedding=pb.Embedding(values=[0.0] * 4097))), "features.v"),
    ("Select", _features(**{LONG: pb.FeatureValue(flag=True)}), "features"),
    ("BatchSelect", pb.BatchSelectRequest(), "requests"),
    ("BatchSelect", pb.BatchSelectRequest(requests=[pb.SelectRequest()] * 1025), "requests"),
    ("Escalate", pb.EscalateRequest(reason=1), "decision_id"),
    ("Escalate", pb.EscalateRequest(session_id="hostile-live"), "reason"),
    ("Escalate", pb.EscalateRequest(session_id="hostile-live", reason=99), "reason"),
    ("Select", pb.SelectRequest(context_tokens=-1), "context_tokens"),
    ("Select", pb.SelectRequest(context_tokens=2**53 + 1), "context_tokens"),
    ("Escalate", pb.EscalateRequest(session_id="hostile-live", reason=1, context_tokens=-1), "context_tokens"),
    (
        "Escalate",
        pb.EscalateRequest(session_id="hostile-live", reason=1, required_capabilities=[""]),
        "required_capabilities",
    ),
    ("Escalate", pb.EscalateRequest(session_id="hostile-live", reason=6, endpoint=LONG), "endpoint"),
    ("ReportProgress", pb.ReportProgressRequest(), "decision_id"),
    ("ReportProgress", pb.ReportProgressRequest(session_id="a\nb"), "session_id"),
    ("ReportProgress", _signals(turns=-1), "signals.turns"),
    ("ReportProgress", _signals(tool_calls=2**60), "signals.tool_calls"),
    ("ReportProgress", _signals(tool_errors=-1), "signals.tool_errors"),
    ("ReportProgress", _signals(repeated_calls=-(2**63)), "signals.repeated_calls"),
    ("ReportProgress", _signals(failed_tests=-1), "signals.failed_tests"),
    ("ReportProgress", _signals(reverted_edits=-1), "signals.reverted_edits"),
    ("ReportProgress", _signals(cost_usd=NAN), "signals.cost_usd"),
    ("ReportProgress", _signals(cost_usd=1e13), "signals.cost_usd"),
    ("ReportProgress", _signals(usage=pb.Usage(input_tokens=-1)), "signals.usage.input_tokens"),
    (
        "Escalate",
        pb.EscalateRequest(session_id="hostile-live", reason=1, outcome=pb.AttemptOutcome(cost_usd=-1)),
        "outcome.cost_usd",
    ),
    (
        "Escalate",
        pb.EscalateRequest(
            session_id="hostile-live", reason=1, outcome=pb.AttemptOutcome(usage=pb.Usage(cached_tokens=-1))
        ),
        "outcome.usage.cached_tokens",
    ),
    ("Reward", pb.RewardRequest(success=1.0), "decision_id"),
    ("Reward", pb.RewardRequest(session_id="hostile-live", decision_id="x"), "decision_id"),
    ("Reward", pb.RewardRequest(session_id="hostile-live", success=NAN), "success"),
    ("Reward", pb.RewardRequest(session_id="hostile-live", success=1.01), "success"),
    ("Reward", pb.RewardRequest(session_id="hostile-live", success=-0.01), "success"),
    ("Reward", pb.RewardRequest(session_id="hostile-live", cost_usd=INFINITY), "cost_usd"),
    ("Reward", pb.RewardRequest(session_id="hostile-live", cost_usd=-1), "cost_usd"),
    ("Reward", pb.RewardRequest(session_id="hostile-live", cost_usd=1e300), "cost_usd"),
    ("Reward", pb.RewardRequest(session_id="hostile-live", usage=pb.Usage(output_tokens=2**60)), "usage.output_tokens"),
    ("Reward", pb.RewardRequest(session_id="hostile-live", latency_seconds=-1), "latency_seconds"),
    ("Reward", pb.RewardRequest(session_id="hostile-live", usage=pb.Usage(input_tokens=-1)), "usage.input_tokens"),
    ("Reward", pb.RewardRequest(session_id="hostile-live", metrics={"m": NAN}), "metrics.m"),
    ("Reward", pb.RewardRequest(session_id="hostile-live", revision=-1), "revision"),
    ("Reward", pb.RewardRequest(session_id="hostile-live", revision=2**62), "revision"),
    ("GetSession", pb.GetSessionRequest(), "session_id"),
    ("GetDecision", pb.GetDecisionRequest(decision_id=LONG), "decision_id"),
]


@pytest.mark.parametrize(("method", "request_", "field"), INVALID)
def test_values_outside_their_domain_are_named_and_not_stored(server, method, request_, field):
    server.routing.Select(pb.SelectRequest(session_id="hostile-live"))
    last = server.last_sequence()
    with pytest.raises(grpc.RpcError) as caught:
        getattr(server.routing, method)(request_, timeout=10)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    assert [violation[0] for violation in field_violations(caught.value)] == [field]
    assert server.last_sequence() == last


@pytest.mark.parametrize(
    ("arm", "field"),
    [
        (admin_pb2.Arm(), "arm.id"),
        (admin_pb2.Arm(id="n", prices=admin_pb2.Prices(input_usd_per_million=NAN)), "arm.prices.input_usd_per_million"),
        (admin_pb2.Arm(id="n", figures=[admin_pb2.PriorFigure(success_rate=2)]), "arm.figures[0].success_rate"),
        (admin_pb2.Arm(id="n", capabilities=[""]), "arm.capabilities"),
        (admin_pb2.Arm(id="n", predecessor="n" * 1000), "arm.predecessor"),
    ],
)
def test_arms_outside_their_domain_are_not_put(server, arm, field):
    last = server.last_sequence()
    with pytest.raises(grpc.RpcError) as caught:
        server.admin.PutArm(admin_pb2.PutArmRequest(arm=arm), timeout=10)
    assert [violation[0] for violation in field_violations(caught.value)] == [field]
    assert server.last_sequence() == last


def test_an_oversized_message_is_too_much(server):
    request = _features(text=pb.FeatureValue(text="x" * 10_000_000))
    last = server.last_sequence()
    assert code_of(lambda: server.routing.Select(request, timeout=10)) == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.last_sequence() == last


def test_values_at_the_edge_of_their_domain_are_taken(server):
    request = _many_features(254)
    request.session_id = "edge \N{SNOWMAN} " + "x" * 249
    request.features["huge"].number = 1.7e308
    request.features["vector"].embedding.values.extend([-1.7e308] * 4096)
    choice = server.routing.Select(request)
    reward = pb.RewardRequest(decision_id=choice.decision_id, success=0.0, cost_usd=1e12, revision=0)
    reward.usage.input_tokens = 2**53
    server.routing.Reward(reward)
    assert server.routing.GetDecision(pb.GetDecisionRequest(decision_id=choice.decision_id)).confirmed
    assert server.routing.GetSession(pb.GetSessionRequest(session_id=request.session_id)).cost_usd == 1e12


def test_mutated_messages_never_show_a_defect(server):
    rng = random.Random(20)
    choice = server.routing.Select(pb.SelectRequest(session_id="mutated"))
    select = _many_features(3)
    select.context_tokens, select.max_cost_usd = 1000, 1.0
    select.features["text"].text = "some text"
    select.features["vector"].embedding.values.extend([1.0, 2.0])
    seeds = [
        ("Select", select),
        ("BatchSelect", pb.BatchSelectRequest(requests=[select, select])),
        ("Escalate", pb.EscalateRequest(decision_id=choice.decision_id, reason=3, outcome={"cost_usd": 1.0})),
        ("ReportProgress", _signals(turns=3, tool_calls=9, tool_errors=9, cost_usd=1.0, usage={"input_tokens": 5})),
        ("Reward", pb.RewardRequest(session_id="mutated", success=1.0, cost_usd=1.0, metrics={"m": 1.0}, revision=3)),
        ("GetSession", pb.GetSessionRequest(session_id="mutated")),
        ("GetDecision", pb.GetDecisionRequest(decision_id=choice.decision_id)),
    ]
    for _ in range(600):
        method, message = rng.choice(seeds)
        data = bytearray(message.SerializeToString())
        for _ in range(rng.randint(1, 4)):
            match rng.randrange(3):
                case 0:
                    data[rng.randrange(len(data))] = rng.randrange(256)
                case 1:
                    data.insert(rng.randrange(len(data)), rng.randrange(256))
                case _ if len(data) > 1:
                    del data[rng.randrange(len(data))]
        call = raw(server, "unary_unary", f"/pointsman.v1.Routing/{method}")
        assert code_of(lambda call=call, data=data: call(bytes(data), timeout=10)) not in DEFECTS, (method, bytes(data))
    server.routing.GetSession(pb.GetSessionRequest(session_id="mutated"))
