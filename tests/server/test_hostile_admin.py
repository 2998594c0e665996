"""Hostile values for operators' calls: the field is named, nothing is stored, and no answer is a defect."""

import random

import grpc
import pytest

from pointsman import field_violations
from pointsman.v1 import admin_pb2 as pb

NAN, INFINITY, LONG = float("nan"), float("inf"), "x" * 257


def _updated(**parts) -> pb.UpdateRouterRequest:
    return pb.UpdateRouterRequest(settings=pb.RouterSettings(**parts))


def _arm(**parts) -> pb.PutArmRequest:
    return pb.PutArmRequest(arm=pb.Arm(**{"id": "n", **parts}))


def _ruled(**parts) -> pb.UpdateRouterRequest:
    return _updated(rules=pb.Rules(rules=[pb.Rule(), pb.Rule(**parts)]))


INVALID = [
    ("CreateRouter", pb.CreateRouterRequest(router=LONG), "router"),
    ("CreateRouter", pb.CreateRouterRequest(router="a\nb"), "router"),
    ("CreateRouter", pb.CreateRouterRequest(router="n", request_id=LONG), "request_id"),
    ("CreateRouter", pb.CreateRouterRequest(router="n", policy=LONG), "policy"),
    ("CreateRouter", pb.CreateRouterRequest(router="n", mode=77), "mode"),
    ("CreateRouter", pb.CreateRouterRequest(router="n", settings=pb.RouterSettings(seed=-1)), "settings.seed"),
    ("UpdateRouter", _updated(max_attempts=0), "settings.max_attempts"),
    ("UpdateRouter", _updated(max_attempts=17), "settings.max_attempts"),
    ("UpdateRouter", _updated(baseline_arm=LONG), "settings.baseline_arm"),
    ("UpdateRouter", _updated(objective=pb.Objective(value_usd=0)), "settings.objective.value_usd"),
    ("UpdateRouter", _updated(objective=pb.Objective(value_usd=NAN)), "settings.objective.value_usd"),
    ("UpdateRouter", _updated(objective=pb.Objective(preset=9)), "settings.objective.preset"),
    (
        "UpdateRouter",
        _updated(objective=pb.Objective(latency_usd_per_second=-1)),
        "settings.objective.latency_usd_per_second",
    ),
    ("UpdateRouter", _updated(objective=pb.Objective(quality_floor=1.1)), "settings.objective.quality_floor"),
    ("UpdateRouter", _updated(objective=pb.Objective(budget_usd=1)), "settings.objective.budget_period_seconds"),
    ("UpdateRouter", _updated(objective=pb.Objective(budget_period_seconds=1)), "settings.objective.budget_usd"),
    (
        "UpdateRouter",
        _updated(objective=pb.Objective(budget_usd=INFINITY, budget_period_seconds=1)),
        "settings.objective.budget_usd",
    ),
    (
        "UpdateRouter",
        _updated(objective=pb.Objective(budget_usd=1, budget_period_seconds=0)),
        "settings.objective.budget_period_seconds",
    ),
    ("UpdateRouter", _updated(objective=pb.Objective(session_cap_usd=-1)), "settings.objective.session_cap_usd"),
    ("UpdateRouter", _updated(learning=pb.Learning(alpha=0)), "settings.learning.alpha"),
    ("UpdateRouter", _updated(learning=pb.Learning(exploration_floor=NAN)), "settings.learning.exploration_floor"),
    ("UpdateRouter", _updated(learning=pb.Learning(draws=0)), "settings.learning.draws"),
    ("UpdateRouter", _updated(learning=pb.Learning(draws=4097)), "settings.learning.draws"),
    ("UpdateRouter", _updated(learning=pb.Learning(reward_wait_seconds=0)), "settings.learning.reward_wait_seconds"),
    ("UpdateRouter", _updated(learning=pb.Learning(missing_success=2)), "settings.learning.missing_success"),
    ("UpdateRouter", _updated(failover=pb.Failover(errors=0)), "settings.failover.errors"),
    ("UpdateRouter", _updated(failover=pb.Failover(error_share=-0.1)), "settings.failover.error_share"),
    ("UpdateRouter", _updated(failover=pb.Failover(window_seconds=0)), "settings.failover.window_seconds"),
    ("UpdateRouter", _updated(failover=pb.Failover(cool_down_seconds=NAN)), "settings.failover.cool_down_seconds"),
    ("UpdateRouter", _updated(rules=pb.Rules(rules=[pb.Rule()] * 1025)), "settings.rules.rules"),
    ("UpdateRouter", _ruled(user="a\0"), "settings.rules.rules[1].user"),
    ("UpdateRouter", _ruled(project=LONG), "settings.rules.rules[1].project"),
    ("UpdateRouter", _ruled(organisation=LONG), "settings.rules.rules[1].organisation"),
    ("UpdateRouter", _ruled(allow=["a", "a"]), "settings.rules.rules[1].allow"),
    ("UpdateRouter", _ruled(deny=[""]), "settings.rules.rules[1].deny"),
    ("PutArm", _arm(id="a\x7fb"), "arm.id"),
    ("PutArm", _arm(provider=LONG), "arm.provider"),
    ("PutArm", _arm(prices=pb.Prices(output_usd_per_million=-1)), "arm.prices.output_usd_per_million"),
    ("PutArm", _arm(prices=pb.Prices(cached_usd_per_million=INFINITY)), "arm.prices.cached_usd_per_million"),
    ("PutArm", _arm(capabilities=["vision", "vision"]), "arm.capabilities"),
    ("PutArm", _arm(endpoints=["eu", "eu"]), "arm.endpoints"),
    ("PutArm", _arm(endpoints=[""]), "arm.endpoints"),
    ("PutArm", _arm(endpoints=[str(i) for i in range(1025)]), "arm.endpoints"),
    ("PutArm", _arm(context_window_tokens=0), "arm.context_window_tokens"),
    ("PutArm", _arm(context_window_tokens=2**60), "arm.context_window_tokens"),
    ("PutArm", _arm(figures=[pb.PriorFigure(success_rate=0.5)] * 2), "arm.figures"),
    ("PutArm", _arm(figures=[pb.PriorFigure(success_rate=0.5, cost_usd_mean=NAN)]), "arm.figures[0].cost_usd_mean"),
    ("RetireArm", pb.RetireArmRequest(), "arm"),
    ("RetireArm", pb.RetireArmRequest(arm=LONG), "arm"),
    ("SetAvailability", pb.SetAvailabilityRequest(), "arm"),
    ("SetAvailability", pb.SetAvailabilityRequest(arm="a", down_seconds=-1), "down_seconds"),
    ("SetAvailability", pb.SetAvailabilityRequest(arm="a", down_seconds=NAN), "down_seconds"),
    ("SetAvailability", pb.SetAvailabilityRequest(arm="a", down_seconds=1.1e9), "down_seconds"),
    ("SetAvailability", pb.SetAvailabilityRequest(arm="a", why=LONG), "why"),
    ("SetAvailability", pb.SetAvailabilityRequest(arm="a", endpoint="a\tb"), "endpoint"),
    ("SetMode", pb.SetModeRequest(), "mode"),
    ("SetMode", pb.SetModeRequest(mode=77), "mode"),
    ("CreatePolicy", pb.CreatePolicyRequest(policy=LONG), "policy"),
    ("CreatePolicy", pb.CreatePolicyRequest(definition="x" * 65_537), "definition"),
    ("CreatePolicy", pb.CreatePolicyRequest(definition="a = " + "[" * 60_000), "definition"),
    ("StartShadow", pb.StartShadowRequest(), "policy_version"),
    ("StartShadow", pb.StartShadowRequest(policy_version=LONG), "policy_version"),
    ("StartCanary", pb.StartCanaryRequest(share=0.5), "policy_version"),
    ("StartCanary", pb.StartCanaryRequest(policy_version="1"), "share"),
    ("StartCanary", pb.StartCanaryRequest(policy_version="1", share=1.0), "share"),
    ("StartCanary", pb.StartCanaryRequest(policy_version="1", share=NAN), "share"),
    ("StartCanary", pb.StartCanaryRequest(policy_version="1", share=0.5, gate="success > 0"), "gate"),
    ("StartCanary", pb.StartCanaryRequest(policy_version="1", share=0.5, gate=LONG), "gate"),
    ("PromotePolicy", pb.PromotePolicyRequest(), "policy_version"),
    ("PromotePolicy", pb.PromotePolicyRequest(policy_version=LONG), "policy_version"),
    ("RollBackPolicy", pb.RollBackPolicyRequest(policy_version="a\0"), "policy_version"),
    ("RollBackPolicy", pb.RollBackPolicyRequest(why=LONG), "why"),
    ("ListArms", pb.ListArmsRequest(router=LONG), "router"),
    ("ListPolicies", pb.ListPoliciesRequest(router="a\0"), "router"),
    ("ListRouters", pb.ListRoutersRequest(router=LONG), "router"),
    ("GetRouter", pb.GetRouterRequest(router=LONG), "router"),
]


@pytest.mark.parametrize(("method", "message", "field"), INVALID)
def test_values_outside_their_domain_are_named_and_not_stored(server, method, message, field):
    last = server.last_sequence()
    with pytest.raises(grpc.RpcError) as caught:
        getattr(server.admin, method)(message, timeout=30)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    assert [violation[0] for violation in field_violations(caught.value)] == [field]
    assert server.last_sequence() == last


def test_values_at_the_edge_of_their_domain_are_taken(server):
    server.admin.CreateRouter(pb.CreateRouterRequest(router="edge \N{SNOWMAN} " + "x" * 249))
    server.admin.PutArm(_arm(id="e" * 256, endpoints=["e" * 256], context_window_tokens=2**53))
    down = pb.SetAvailabilityRequest(arm="e" * 256, down_seconds=1e9, endpoint="e" * 256, why="w" * 256)
    assert server.admin.SetAvailability(down).arm.endpoints_down[0].until.ToDatetime().year > 2050
    settings = pb.RouterSettings(
        seed=2**63 - 1, max_attempts=16, learning=pb.Learning(draws=4096), objective=pb.Objective(value_usd=1e12)
    )
    server.admin.UpdateRouter(pb.UpdateRouterRequest(router="edge \N{SNOWMAN} " + "x" * 249, settings=settings))


def test_mutated_messages_never_show_a_defect(server):
    rng = random.Random(21)
    settings = pb.RouterSettings(
        objective=pb.Objective(value_usd=1, budget_usd=1, budget_period_seconds=9, preset=pb.PRESET_BEST),
        learning=pb.Learning(alpha=0.5, draws=8, missing_success=0.5),
        rules=pb.Rules(rules=[pb.Rule(user="u", allow=["a"])]),
        failover=pb.Failover(errors=2, window_seconds=1),
        baseline_arm="a",
    )
    arm = pb.Arm(id="m", endpoints=["eu"], prices=pb.Prices(input_usd_per_million=1), capabilities=["vision"])
    server.admin.CreateRouter(pb.CreateRouterRequest(router="m", policy="uniform"))
    server.admin.PutArm(pb.PutArmRequest(router="m", arm=pb.Arm(id="a")))
    seeds = [
        ("CreateRouter", pb.CreateRouterRequest(router="m", settings=settings, mode=pb.MODE_LIVE)),
        ("UpdateRouter", pb.UpdateRouterRequest(router="m", settings=settings)),
        ("PutArm", pb.PutArmRequest(router="m", arm=arm)),
        ("RetireArm", pb.RetireArmRequest(router="m", arm="m")),
        ("SetAvailability", pb.SetAvailabilityRequest(router="m", arm="a", down_seconds=1, why="w")),
        ("SetMode", pb.SetModeRequest(router="m", mode=pb.MODE_FROZEN)),
        ("CreatePolicy", pb.CreatePolicyRequest(router="m", definition='policy = "uniform"\nalpha = 0.5\n')),
        ("StartShadow", pb.StartShadowRequest(router="m", policy_version="2")),
        ("StartCanary", pb.StartCanaryRequest(router="m", policy_version="2", share=0.5, gate="cost <= baseline")),
        ("PromotePolicy", pb.PromotePolicyRequest(router="m", policy_version="2")),
        ("RollBackPolicy", pb.RollBackPolicyRequest(router="m", why="w")),
        ("ListArms", pb.ListArmsRequest(router="m", include_retired=True)),
        ("ListPolicies", pb.ListPoliciesRequest(router="m")),
    ]
    for _ in range(400):
        method, message = rng.choice(seeds)
        data = bytearray(message.SerializeToString())
        for _ in range(rng.randint(1, 3)):
            match rng.randrange(3):
                case 0:
                    data[rng.randrange(len(data))] = rng.randrange(256)
                case 1:
                    data.insert(rng.randrange(len(data)), rng.randrange(256))
                case _ if len(data) > 1:
                    del data[rng.randrange(len(data))]
        call = server.channel.unary_unary(f"/pointsman.v1.Admin/{method}")
        try:
            call(bytes(data), timeout=30)
        except grpc.RpcError as error:
            assert error.code() not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL), (method, bytes(data))
    assert server.admin.GetRouter(pb.GetRouterRequest(router="m")).router.id == "m"
