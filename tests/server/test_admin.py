"""The Admin service, one story a rule, against the real server."""

import time

import grpc
import pytest

from bandit import record
from bandit.learner import Learner
from pointsman import field_violations
from pointsman.v1 import admin_pb2 as pb
from pointsman.v1 import routing_pb2
from server.fold import one_blas_thread
from server.store.sqlite import SqliteStore

ALREADY_EXISTS = grpc.StatusCode.ALREADY_EXISTS
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND

THOMPSON = """
[router]
policy = "thompson"
draws = 32
[[arms]]
id = "a"
figures = [{ success_rate = 0.5, cost_usd = 0.1 }]
[[arms]]
id = "b"
figures = [{ success_rate = 0.6, cost_usd = 0.2 }]
"""


def refused(call, request, code, field=None) -> None:
    """The call is refused with this code, and the field named; nothing else is asked of it."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=30)
    assert caught.value.code() == code, caught.value.details()
    if field is not None:
        assert [violation[0] for violation in field_violations(caught.value)] == [field]


def select(server, session: str, router: str = "") -> routing_pb2.SelectResponse:
    return server.routing.Select(routing_pb2.SelectRequest(router=router, session_id=session))


def decision(server, choice, router: str = "") -> routing_pb2.GetDecisionResponse:
    request = routing_pb2.GetDecisionRequest(router=router, decision_id=choice.decision_id)
    return server.routing.GetDecision(request)


def router_of(server, router: str = "") -> pb.Router:
    return server.admin.GetRouter(pb.GetRouterRequest(router=router)).router


def arms_of(server, router: str = "") -> dict[str, pb.Arm]:
    listed = server.admin.ListArms(pb.ListArmsRequest(router=router, include_retired=True)).arms
    return {arm.id: arm for arm in listed}


def create(server, name: str, *arms: str, **fields) -> pb.Router:
    router = server.admin.CreateRouter(pb.CreateRouterRequest(router=name, **fields)).router
    for arm in arms:
        server.admin.PutArm(pb.PutArmRequest(router=name, arm=pb.Arm(id=arm)))
    return router


def test_a_router_is_made_at_run_time_and_stays(serving, tmp_path):
    server = serving(tmp_path / "data")
    before = time.time()
    made = create(server, "second", policy="uniform", settings=pb.RouterSettings(seed=3))
    assert (made.id, made.policy, made.policy_version, made.mode) == ("second", "uniform", "1", pb.MODE_LIVE)
    assert made.settings.seed == 3 and before - 1 < made.created_at.seconds < time.time() + 1
    refused(server.admin.CreateRouter, pb.CreateRouterRequest(router="second"), ALREADY_EXISTS)
    refused(server.admin.CreateRouter, pb.CreateRouterRequest(), ALREADY_EXISTS)
    assert [router.id for router in server.admin.ListRouters(pb.ListRoutersRequest()).routers] == ["default", "second"]

    without_arms = routing_pb2.SelectRequest(router="second", session_id="s")
    refused(server.routing.Select, without_arms, FAILED_PRECONDITION)
    server.admin.PutArm(pb.PutArmRequest(router="second", arm=pb.Arm(id="only")))
    choice = select(server, "s", "second")
    assert choice.arm == "only"
    assert decision(server, choice, "second").confirmed
    refused(server.routing.Select, routing_pb2.SelectRequest(router="third"), NOT_FOUND, "router")
    server.kill()

    server = serving(tmp_path / "data")
    again = router_of(server, "second")
    assert again.settings == made.settings and again.created_at == made.created_at
    assert select(server, "s", "second").decision_id == choice.decision_id
    assert decision(server, choice, "second").confirmed
    assert select(server, "t", "second").arm == "only"
    assert server.stop() == 0


def test_a_router_made_with_inline_fitting_decides_at_once(serving, tmp_path):
    server = serving(tmp_path / "data", '[service]\nfitter = "inline"\n[[arms]]\nid = "a"\n')
    create(server, "second", "x", "y")
    assert {score.arm for score in select(server, "s", "second").scores} == {"x", "y"}
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"policy": "nonsense"}, INVALID_ARGUMENT, "policy"),
        ({"policy": "always:a"}, INVALID_ARGUMENT, "policy"),
        ({"mode": pb.MODE_APPRENTICE}, FAILED_PRECONDITION, None),
        ({"mode": 9}, INVALID_ARGUMENT, "mode"),
        ({"settings": pb.RouterSettings(baseline_arm="a")}, NOT_FOUND, "settings.baseline_arm"),
        ({"router": "a\0b"}, INVALID_ARGUMENT, "router"),
    ],
)
def test_a_router_that_could_not_decide_is_not_made(server, fields, code, field):
    last = server.last_sequence()
    refused(server.admin.CreateRouter, pb.CreateRouterRequest(**{"router": "never", **fields}), code, field)
    assert server.last_sequence() == last
    assert "never" not in [router.id for router in server.admin.ListRouters(pb.ListRoutersRequest()).routers]


def test_an_update_replaces_the_parts_it_has_and_leaves_the_others(server):
    create(server, "updated", "a", "b")
    settings = pb.RouterSettings(
        objective=pb.Objective(preset=pb.PRESET_BEST, quality_floor=0.8, budget_usd=10, budget_period_seconds=60),
        learning=pb.Learning(alpha=0.5, exploration_floor=0.1, draws=64, reward_wait_seconds=9, missing_success=0.0),
        rules=pb.Rules(rules=[pb.Rule(project="p", allow=["a"]), pb.Rule(user="u", deny=["b"])]),
        baseline_arm="a",
        store_text=True,
        max_attempts=2,
        failover=pb.Failover(errors=5),
        seed=11,
    )
    server.admin.UpdateRouter(pb.UpdateRouterRequest(router="updated", settings=settings))
    expected = pb.RouterSettings()
    expected.CopyFrom(settings)
    expected.objective.value_usd = 25.0
    expected.objective.preset = pb.PRESET_UNSPECIFIED
    expected.objective.latency_usd_per_second = 0.0
    expected.failover.error_share, expected.failover.window_seconds = 0.5, 60.0
    expected.failover.cool_down_seconds = 60.0
    assert router_of(server, "updated").settings == expected

    floor = pb.RouterSettings(objective=pb.Objective(quality_floor=0.7), rules=pb.Rules(), baseline_arm="")
    changed = server.admin.UpdateRouter(pb.UpdateRouterRequest(router="updated", settings=floor)).router
    expected.objective.Clear()
    expected.objective.value_usd, expected.objective.latency_usd_per_second = 5.0, 0.0
    expected.objective.quality_floor = 0.7
    expected.rules.CopyFrom(pb.Rules())
    expected.ClearField("baseline_arm")
    assert changed.settings == router_of(server, "updated").settings == expected

    assert decision(server, select(server, "s", "updated"), "updated").confirmed
    rule = pb.RouterSettings(rules=pb.Rules(rules=[pb.Rule(allow=["a"]), pb.Rule(deny=["nobody"])]))
    update = pb.UpdateRouterRequest(router="updated", settings=rule)
    refused(server.admin.UpdateRouter, update, NOT_FOUND, "settings.rules.rules[1].deny")
    baseline = pb.UpdateRouterRequest(router="updated", settings=pb.RouterSettings(baseline_arm="nobody"))
    refused(server.admin.UpdateRouter, baseline, NOT_FOUND, "settings.baseline_arm")


def test_an_arm_is_put_whole_and_its_price_counts_at_the_next_decision(server):
    create(server, "prices", policy="thompson")
    arm = pb.Arm(
        id="m",
        provider="somebody",
        prices=pb.Prices(input_usd_per_million=1, output_usd_per_million=4, cached_usd_per_million=0.1),
        capabilities=["browser", "vision"],
        figures=[pb.PriorFigure(success_rate=0.5, cost_usd_mean=1.0), pb.PriorFigure(category="bug", success_rate=0.4)],
        endpoints=["eu", "us"],
        context_window_tokens=200_000,
    )
    put = server.admin.PutArm(pb.PutArmRequest(router="prices", arm=arm)).arm
    assert put == arms_of(server, "prices")["m"] == arm
    before = select(server, "before", "prices").scores[0].cost_usd
    arm.prices.input_usd_per_million, arm.prices.output_usd_per_million = 10, 40
    arm.prices.cached_usd_per_million = 1
    server.admin.PutArm(pb.PutArmRequest(router="prices", arm=arm))
    choice = select(server, "after", "prices")
    assert choice.scores[0].cost_usd == pytest.approx(10 * before)
    assert decision(server, choice, "prices").confirmed
    assert decision(server, select(server, "before", "prices"), "prices").confirmed


def test_a_new_version_starts_as_its_predecessor(server):
    create(server, "versions", policy="thompson")
    old = pb.Arm(id="v1", figures=[pb.PriorFigure(success_rate=0.9)])
    server.admin.PutArm(pb.PutArmRequest(router="versions", arm=old))
    server.admin.PutArm(
        pb.PutArmRequest(router="versions", arm=pb.Arm(id="x", figures=[pb.PriorFigure(success_rate=0.1)]))
    )
    lost = pb.PutArmRequest(router="versions", arm=pb.Arm(id="v2", predecessor="v0"))
    refused(server.admin.PutArm, lost, NOT_FOUND, "arm.predecessor")
    own = pb.PutArmRequest(router="versions", arm=pb.Arm(id="v2", predecessor="v2"))
    refused(server.admin.PutArm, own, NOT_FOUND, "arm.predecessor")
    new = pb.Arm(id="v2", predecessor="v1")
    assert server.admin.PutArm(pb.PutArmRequest(router="versions", arm=new)).arm == new
    choice = select(server, "s", "versions")
    success = {score.arm: score.success_mean for score in choice.scores}
    assert success["v2"] == pytest.approx(success["v1"], abs=0.05)
    assert success["x"] < 0.3
    assert decision(server, choice, "versions").confirmed
    # Where learning started is settled when an arm is added.
    moved = pb.PutArmRequest(router="versions", arm=pb.Arm(id="v2", predecessor="x"))
    assert server.admin.PutArm(moved).arm == new


def test_a_retired_arm_is_gone_for_good(server):
    create(server, "retiring", "a", "b", policy="uniform")
    server.admin.UpdateRouter(pb.UpdateRouterRequest(router="retiring", settings=pb.RouterSettings(baseline_arm="a")))
    retire_a, retire_b = (pb.RetireArmRequest(router="retiring", arm=arm) for arm in "ab")
    refused(server.admin.RetireArm, retire_a, FAILED_PRECONDITION)
    choices = [select(server, f"s{i}", "retiring") for i in range(8)]
    retired = server.admin.RetireArm(retire_b).arm
    assert retired.id == "b" and retired.retired
    assert server.admin.RetireArm(retire_b).arm == retired
    refused(server.admin.PutArm, pb.PutArmRequest(router="retiring", arm=pb.Arm(id="b")), FAILED_PRECONDITION)
    refused(server.admin.RetireArm, pb.RetireArmRequest(router="retiring", arm="c"), NOT_FOUND, "arm")
    assert [arm.id for arm in server.admin.ListArms(pb.ListArmsRequest(router="retiring")).arms] == ["a"]
    assert arms_of(server, "retiring")["b"].retired
    assert {select(server, choice.session_id, "retiring").arm for choice in choices} == {"a"}
    assert all(decision(server, choice, "retiring").confirmed for choice in choices)
    baseline = pb.UpdateRouterRequest(router="retiring", settings=pb.RouterSettings(baseline_arm="b"))
    refused(server.admin.UpdateRouter, baseline, FAILED_PRECONDITION)


def test_an_arm_is_down_for_a_while_or_until_it_is_said_to_be_up(server):
    create(server, "down", "b", policy="uniform")
    server.admin.PutArm(pb.PutArmRequest(router="down", arm=pb.Arm(id="a", endpoints=["eu", "us"])))

    def set_down(seconds: float, why: str = "", endpoint: str = "", arm: str = "a") -> pb.Arm:
        request = pb.SetAvailabilityRequest(router="down", arm=arm, down_seconds=seconds, why=why, endpoint=endpoint)
        return server.admin.SetAvailability(request).arm

    now = time.time()
    down = set_down(60, "maintenance")
    assert down.down_why == "maintenance" and now + 59 < down.down_until.seconds < time.time() + 61
    assert arms_of(server, "down")["a"] == down
    assert {select(server, f"down{i}", "down").arm for i in range(8)} == {"b"}
    up = set_down(0)
    assert not up.HasField("down_until") and up.down_why == ""
    assert {select(server, f"up{i}", "down").arm for i in range(16)} == {"a", "b"}

    assert [(out.endpoint, out.why) for out in set_down(60, "slow", "us").endpoints_down] == [("us", "slow")]
    set_down(0.05, arm="b")
    time.sleep(0.1)
    assert not arms_of(server, "down")["b"].HasField("down_until")
    for request, field in (
        (pb.SetAvailabilityRequest(router="down", arm="c"), "arm"),
        (pb.SetAvailabilityRequest(router="down", arm="a", endpoint="mars"), "endpoint"),
    ):
        refused(server.admin.SetAvailability, request, NOT_FOUND, field)


def test_modes_are_set_and_apprentice_mode_needs_a_baseline(server):
    create(server, "modes", "a", "b", policy="uniform")

    def set_mode(mode) -> pb.Router:
        return server.admin.SetMode(pb.SetModeRequest(router="modes", mode=mode)).router

    refused(server.admin.SetMode, pb.SetModeRequest(router="modes"), INVALID_ARGUMENT, "mode")
    refused(server.admin.SetMode, pb.SetModeRequest(router="modes", mode=pb.MODE_APPRENTICE), FAILED_PRECONDITION)
    server.admin.UpdateRouter(pb.UpdateRouterRequest(router="modes", settings=pb.RouterSettings(baseline_arm="b")))
    assert set_mode(pb.MODE_APPRENTICE).mode == router_of(server, "modes").mode == pb.MODE_APPRENTICE
    assert {select(server, f"apprentice{i}", "modes").arm for i in range(8)} == {"b"}
    without = pb.UpdateRouterRequest(router="modes", settings=pb.RouterSettings(baseline_arm=""))
    refused(server.admin.UpdateRouter, without, FAILED_PRECONDITION)
    assert set_mode(pb.MODE_LIVE).mode == pb.MODE_LIVE
    assert {select(server, f"live{i}", "modes").arm for i in range(16)} == {"a", "b"}


DEFINITION = """
policy = "ladder:a>b"
exploration_floor = 0.5
[objective]
value_usd = 9
"""


def test_policies_are_created_promoted_and_rolled_back(serving, tmp_path):
    server = serving(tmp_path / "data", THOMPSON)
    admin = server.admin

    def stages() -> dict[str, str]:
        policies = admin.ListPolicies(pb.ListPoliciesRequest()).policies
        return {p.policy_version: pb.PolicyStage.Name(p.stage).removeprefix("POLICY_STAGE_") for p in policies}

    def promote(version: str) -> pb.Policy:
        return admin.PromotePolicy(pb.PromotePolicyRequest(policy_version=version)).policy

    def roll_back(**fields) -> pb.Policy:
        return admin.RollBackPolicy(pb.RollBackPolicyRequest(**fields)).policy

    first = router_of(server)
    assert (first.policy, first.policy_version) == ("thompson", "1")
    assert stages() == {"1": "LIVE"}
    refused(admin.RollBackPolicy, pb.RollBackPolicyRequest(), FAILED_PRECONDITION)
    learn(server, "early", 12)

    fixed = admin.CreatePolicy(pb.CreatePolicyRequest(policy="ladder:a>b", definition=DEFINITION)).policy
    assert (fixed.policy_version, fixed.policy, fixed.definition) == ("2", "ladder:a>b", DEFINITION)
    assert fixed.stage == pb.POLICY_STAGE_CREATED and fixed.created_at.seconds > time.time() - 60
    admin.CreatePolicy(pb.CreatePolicyRequest(policy="always:b"))
    assert stages() == {"1": "LIVE", "2": "CREATED", "3": "CREATED"}
    assert select(server, "still").policy_version == "1"

    assert promote("2").stage == pb.POLICY_STAGE_LIVE
    assert promote("2").stage == pb.POLICY_STAGE_LIVE
    choice = select(server, "second")
    assert choice.policy_version == "2"
    assert decision(server, choice).policy == "ladder:a>b"
    assert router_of(server).settings.objective.value_usd == 9.0
    assert router_of(server).settings.learning.exploration_floor == 0.5
    refused(admin.RollBackPolicy, pb.RollBackPolicyRequest(policy_version="3"), FAILED_PRECONDITION)
    promote("3")
    assert stages() == {"1": "SUPERSEDED", "2": "SUPERSEDED", "3": "LIVE"}
    assert select(server, "third").arm == "b"
    learn(server, "under always", 5)
    server.kill()

    server = serving(tmp_path / "data", THOMPSON)
    admin = server.admin
    assert stages() == {"1": "SUPERSEDED", "2": "SUPERSEDED", "3": "LIVE"}
    assert select(server, "fourth").policy_version == "3"
    back = roll_back(why="too dear")
    assert (back.policy_version, back.stage, back.verdict) == ("2", pb.POLICY_STAGE_LIVE, "too dear")
    assert select(server, "fifth").policy_version == "2"
    roll_back(policy_version="2")
    assert stages() == {"1": "LIVE", "2": "ROLLED_BACK", "3": "ROLLED_BACK"}
    now = router_of(server)
    assert (now.policy, now.policy_version, now.settings) == (first.policy, "1", first.settings)
    refused(admin.RollBackPolicy, pb.RollBackPolicyRequest(), FAILED_PRECONDITION)
    learn(server, "late", 12)
    server.kill()

    server = serving(tmp_path / "data", THOMPSON)
    sessions = ("early0", "second", "third", "under always4", "fifth", "late0", "late11")
    shown = [decision(server, select(server, name)) for name in sessions]
    assert [one.policy_version for one in shown] == ["1", "2", "3", "3", "2", "1", "1"]
    assert all(one.confirmed for one in shown), [one.unconfirmed_reason for one in shown]
    assert server.stop() == 0
    assert_epoch_is_that_of_one_fold(tmp_path / "data", serving)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "policy"),
        ({"policy": "nonsense"}, "policy"),
        ({"policy": "always:nobody"}, "policy"),
        ({"definition": "policy = "}, "definition"),
        ({"definition": 'policy = "always:nobody"'}, "definition"),
        ({"definition": 'policy = "uniform"\nimport = "os"'}, "definition"),
        ({"definition": 'policy = "uniform"\nalpha = nan'}, "definition"),
        ({"policy": "epsilon", "definition": 'policy = "uniform"'}, "policy"),
    ],
)
def test_a_policy_that_could_not_decide_is_not_created(server, fields, field):
    last = server.last_sequence()
    refused(server.admin.CreatePolicy, pb.CreatePolicyRequest(**fields), INVALID_ARGUMENT, field)
    refused(server.admin.PromotePolicy, pb.PromotePolicyRequest(policy_version="77"), NOT_FOUND, "policy_version")
    assert server.last_sequence() == last


def learn(server, prefix: str, sessions: int) -> None:
    """Sessions that succeed every other time."""
    for i in range(sessions):
        choice = select(server, f"{prefix}{i}")
        reward = routing_pb2.RewardRequest(decision_id=choice.decision_id, success=float(i % 2), cost_usd=0.1)
        server.routing.Reward(reward)


def assert_epoch_is_that_of_one_fold(data_dir, serving) -> None:
    """Whatever happened to the server, its epoch is that of an uninterrupted fold of its log."""
    one_blas_thread()
    learner = Learner()
    reader = SqliteStore.open_reader(data_dir)
    for stored in reader.read(0, 100_000):
        event = record.decode(stored.kind, stored.body, stored.private).event
        learner.feed(stored.seq, event, stored.session_id)
    reader.close()
    server = serving(data_dir, None, "--config", str(data_dir.with_suffix(".toml")))
    until = time.monotonic() + 30
    while router_of(server).learned_sequence < learner.epoch_seq:
        assert time.monotonic() < until, "the fitter does not get there"
        time.sleep(0.05)
    router = router_of(server)
    assert learner.vintage is not None
    assert (router.epoch, router.epoch_hash) == (learner.vintage.epoch, learner.vintage.epoch_hash)
    assert server.stop() == 0


def test_a_frozen_router_learns_nothing_until_it_is_live_again(serving, tmp_path):
    server = serving(tmp_path / "data", THOMPSON)
    learn(server, "before", 10)
    server.admin.SetMode(pb.SetModeRequest(mode=pb.MODE_FROZEN))
    time.sleep(0.3)  # the fitter may be at what came before
    frozen = router_of(server).epoch_hash
    learn(server, "frozen", 10)
    server.kill()

    server = serving(tmp_path / "data", THOMPSON)
    assert router_of(server).mode == pb.MODE_FROZEN
    learn(server, "frozen too", 3)
    server.admin.PutArm(pb.PutArmRequest(arm=pb.Arm(id="new")))
    assert router_of(server).epoch_hash != frozen, "a new arm is known to the policy at once"
    known = router_of(server).epoch_hash
    assert {score.arm for score in select(server, "frozen three").scores} == {"a", "b", "new"}
    learn(server, "frozen four", 3)
    time.sleep(0.3)
    assert router_of(server).epoch_hash == known
    server.kill()

    server = serving(tmp_path / "data", THOMPSON)
    server.admin.SetMode(pb.SetModeRequest(mode=pb.MODE_LIVE))
    until = time.monotonic() + 30
    while router_of(server).epoch_hash == known:
        assert time.monotonic() < until, "what came while it was frozen is not learned"
        time.sleep(0.05)
    learn(server, "after", 2)
    server.kill()
    assert_epoch_is_that_of_one_fold(tmp_path / "data", serving)


def test_every_change_is_answered_again_as_it_was_even_after_a_restart(serving, tmp_path):
    server = serving(tmp_path / "data")
    settings = pb.RouterSettings(baseline_arm="a")
    requests = [
        ("CreateRouter", pb.CreateRouterRequest(router="r", request_id="1", policy="uniform")),
        ("PutArm", pb.PutArmRequest(router="r", request_id="2", arm=pb.Arm(id="a", endpoints=["eu"]))),
        ("PutArm", pb.PutArmRequest(router="r", request_id="3", arm=pb.Arm(id="b"))),
        ("UpdateRouter", pb.UpdateRouterRequest(router="r", request_id="4", settings=settings)),
        ("SetAvailability", pb.SetAvailabilityRequest(router="r", request_id="5", arm="a", down_seconds=99, why="w")),
        ("SetAvailability", pb.SetAvailabilityRequest(router="r", request_id="6", arm="a", endpoint="eu")),
        ("PutArm", pb.PutArmRequest(router="r", request_id="7", arm=pb.Arm(id="a", endpoints=["us"]))),
        ("RetireArm", pb.RetireArmRequest(router="r", request_id="8", arm="b")),
        ("RetireArm", pb.RetireArmRequest(router="r", request_id="9", arm="b")),
        ("SetMode", pb.SetModeRequest(router="r", request_id="10", mode=pb.MODE_APPRENTICE)),
        ("CreatePolicy", pb.CreatePolicyRequest(router="r", request_id="11", policy="epsilon")),
        ("PromotePolicy", pb.PromotePolicyRequest(router="r", request_id="12", policy_version="2")),
        ("RollBackPolicy", pb.RollBackPolicyRequest(router="r", request_id="13")),
        ("SetAvailability", pb.SetAvailabilityRequest(router="r", request_id="14", arm="a")),
        ("PromotePolicy", pb.PromotePolicyRequest(router="r", request_id="15", policy_version="1")),
        ("StartShadow", pb.StartShadowRequest(router="r", request_id="16", policy_version="2")),
        ("SetMode", pb.SetModeRequest(router="r", request_id="17", mode=pb.MODE_LIVE)),
        ("StartCanary", pb.StartCanaryRequest(router="r", request_id="18", policy_version="2", share=0.5)),
        ("RollBackPolicy", pb.RollBackPolicyRequest(router="r", request_id="19")),
    ]

    def answers() -> list[bytes]:
        return [
            getattr(server.admin, method)(request).SerializeToString(deterministic=True) for method, request in requests
        ]

    told = answers()
    last = server.last_sequence()
    assert answers() == told
    assert server.last_sequence() == last
    server.kill()
    server = serving(tmp_path / "data")
    last = server.last_sequence()
    assert answers() == told
    assert server.last_sequence() == last
    for method, request in requests:
        conflict = type(request)()
        conflict.CopyFrom(request)
        match conflict:
            case pb.CreateRouterRequest():
                conflict.policy = "thompson"
            case pb.PutArmRequest():
                conflict.arm.provider = "other"
            case pb.UpdateRouterRequest():
                conflict.settings.seed = 99
            case pb.RetireArmRequest():
                conflict.arm = "other"
            case pb.SetAvailabilityRequest() | pb.RollBackPolicyRequest():
                conflict.why = "other"
            case pb.SetModeRequest():
                conflict.mode = pb.MODE_FROZEN
            case pb.CreatePolicyRequest():
                conflict.policy = "uniform"
            case pb.PromotePolicyRequest() | pb.StartShadowRequest() | pb.StartCanaryRequest():
                conflict.policy_version = "7"
        refused(getattr(server.admin, method), conflict, ALREADY_EXISTS)
    assert server.last_sequence() == last
    assert server.stop() == 0
