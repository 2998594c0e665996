"""The life of a policy on a real server: shadow, canary, promotion, return; all of it events, and none lost."""

import json
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import msgspec
import pytest

from bandit import promotion, record
from bandit.configuration import Configuration
from bandit.events import Configured, Decided, PolicyPut
from bandit.types import Arm, Canary, Mode, PolicyStage, RouterSettings
from pointsman.v1 import admin_pb2 as pb
from pointsman.v1 import routing_pb2 as rt
from server.cli import main
from server.reconfigure import changes
from server.store.sqlite import SqliteStore

CONFIG = """
[router]
policy = "always:fair"
seed = 7
[[arms]]
id = "fair"
figures = [{ success_rate = 0.6, cost_usd = 0.5 }]
[[arms]]
id = "good"
[[arms]]
id = "bad"
"""
CHANCES = {"fair": 0.6, "good": 0.95, "bad": 0.1}


def wait_for(holds, seconds: float = 30.0):
    ends = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < ends, "waited for in vain"
        time.sleep(0.05)
    return found


def add(server, policy: str, definition: str = "") -> str:
    request = pb.CreatePolicyRequest(policy=policy, definition=definition)
    return server.admin.CreatePolicy(request, timeout=30).policy.policy_version


def policy(server, version: str) -> pb.Policy:
    found = server.admin.ListPolicies(pb.ListPoliciesRequest(), timeout=30).policies
    return next(each for each in found if each.policy_version == version)


def stage(server, version: str) -> str:
    return pb.PolicyStage.Name(policy(server, version).stage).removeprefix("POLICY_STAGE_")


def work(server, name: str) -> rt.SelectResponse:
    """A session from its beginning to its end."""
    request = rt.SelectRequest(session_id=name)
    request.features["category"].category = ("bug", "docs")[len(name) % 2]
    choice = server.routing.Select(request, timeout=30)
    success = float(random.Random(name).random() < CHANCES[choice.arm])
    server.routing.Reward(
        rt.RewardRequest(decision_id=choice.decision_id, success=success, cost_usd=0.2, final=True), timeout=30
    )
    return choice


def fleet(server, names: list[str]) -> list[rt.SelectResponse]:
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda name: work(server, name), names))


def refused(call, request) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=30)
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    return caught.value.details()


def log_of(server) -> list:
    store = SqliteStore.open_reader(server.data_dir)
    try:
        return [record.decode(e.kind, e.body, e.private).event for e in store.read(0, 1_000_000)]
    finally:
        store.close()


def evidence_counted(server, version: str) -> int:
    found = policy(server, version).evidence
    return found.canary_sessions + found.live_sessions


def test_a_good_policy_goes_through_shadow_and_canary_to_live_through_kills(serving, tmp_path):
    server = serving(tmp_path / "data", CONFIG)
    version = add(server, "always:good")
    server.admin.StartShadow(pb.StartShadowRequest(policy_version=version), timeout=30)
    assert stage(server, version) == "SHADOW"
    for choice in fleet(server, [f"shadowed-{i}" for i in range(30)]):
        assert (choice.arm, choice.policy_version) == ("fair", "1")
        told = server.routing.GetDecision(rt.GetDecisionRequest(decision_id=choice.decision_id), timeout=30)
        (said,) = json.loads(told.event_json)["event"]["shadows"]
        assert (said["policy"], said["propensities"]) == ("always:good", [0.0, 1.0, 0.0])
        assert (told.confirmed, told.policy_propensity) == (True, 1.0), told.unconfirmed_reason

    request = pb.StartCanaryRequest(policy_version=version, share=0.4, gate="success >= baseline - 0.3")
    server.admin.StartCanary(request, timeout=30)
    assert "only one runs" in refused(
        server.admin.StartCanary, pb.StartCanaryRequest(policy_version=add(server, "uniform"), share=0.1)
    )
    assert "roll it back first" in refused(server.admin.PromotePolicy, pb.PromotePolicyRequest(policy_version="3"))
    assert "roll it back first" in refused(server.admin.RollBackPolicy, pb.RollBackPolicyRequest(policy_version="1"))
    server.admin.UpdateRouter(pb.UpdateRouterRequest(settings=pb.RouterSettings(baseline_arm="fair")), timeout=30)
    assert "apprentice" in refused(server.admin.SetMode, pb.SetModeRequest(mode=pb.MODE_APPRENTICE))

    # A session that runs through both kills stays with who began it.
    sticky = server.routing.Select(rt.SelectRequest(session_id="sticky"), timeout=30)
    given = {"sticky": sticky.policy_version}
    for life in range(2):
        names = [f"life-{life}-{i}" for i in range(150)]
        answers = fleet(server, names)
        given |= {name: choice.policy_version for name, choice in zip(names, answers, strict=True)}
        # The first session still runs, and holds up all those behind it.
        assert evidence_counted(server, version) == 0
        server.kill()
        server = serving(tmp_path / "data", None, "--config", str(tmp_path / "data.toml"))
        assert stage(server, version) == "CANARY"
        again = server.routing.Select(rt.SelectRequest(session_id="sticky"), timeout=30)
        assert (again.decision_id, again.reason) == (sticky.decision_id, rt.SELECT_REASON_STICKY)
    server.routing.Reward(rt.RewardRequest(session_id="sticky", success=1.0, final=True), timeout=30)
    before = wait_for(lambda: evidence_counted(server, version) == 301 and policy(server, version))
    shares = Counter(given.values())
    assert (before.evidence.canary_sessions, before.evidence.live_sessions) == (shares[version], shares["1"])
    assert 80 < shares[version] < 160  # 301 at .4; outside by chance once in 10^5
    assert "equal shares" in before.verdict
    state = server.admin.GetRouter(pb.GetRouterRequest(), timeout=30).router
    assert [each.policy_version for each in state.candidates] == [version]

    # The same evidence after another kill, read anew from the log.
    server.kill()
    server = serving(tmp_path / "data", None, "--config", str(tmp_path / "data.toml"))
    after = wait_for(lambda: evidence_counted(server, version) == 301 and policy(server, version))
    assert after == before

    # Frozen, both decide and neither learns; the evidence goes on.
    server.admin.SetMode(pb.SetModeRequest(mode=pb.MODE_FROZEN), timeout=30)
    answers = fleet(server, [f"last-{i}" for i in range(300)])
    assert {choice.policy_version for choice in answers} == {"1", version}
    wait_for(lambda: stage(server, version) == "LIVE")
    for choice in answers[:20]:
        told = server.routing.GetDecision(rt.GetDecisionRequest(decision_id=choice.decision_id), timeout=30)
        chance = 0.4 if choice.policy_version == version else 0.6
        assert told.confirmed, told.unconfirmed_reason
        assert told.policy_propensity in (pytest.approx(chance), 1.0)
    assert stage(server, "1") == "SUPERSEDED"
    assert "by the guard" in policy(server, version).verdict and "is held" in policy(server, version).verdict
    wait_for(lambda: work(server, f"then-{time.monotonic()}").arm == "good")
    server.kill()
    puts = [
        event.policy for event in log_of(server) if isinstance(event, PolicyPut) and event.policy.version == version
    ]
    assert [put.stage.value for put in puts] == ["created", "shadow", "canary", "live"]


def test_a_bad_canary_is_rolled_back_by_itself_and_its_sessions_go_on(serving, tmp_path):
    server = serving(tmp_path / "data", CONFIG)
    version = add(server, "", 'policy = "always:bad"\nobjective.value_usd = 2\n')
    server.admin.StartCanary(pb.StartCanaryRequest(policy_version=version, share=0.5), timeout=30)
    fleet(server, [f"s{i}" for i in range(320)])
    found = wait_for(lambda: stage(server, version) == "ROLLED_BACK" and policy(server, version))
    assert "worse than the live policy" in found.verdict and "points" in found.verdict
    assert not found.HasField("evidence") and not found.HasField("canary_share")
    assert {choice.arm for choice in fleet(server, [f"t{i}" for i in range(20)])} == {"fair"}
    decided = [event for event in log_of(server) if isinstance(event, Decided)]
    for event in decided:
        assignment = event.decision.assignment
        if event.decision.policy_version == version:
            assert assignment.share == 0.5 and event.decision.situation.objective.value_usd == 2.0
            (live,) = event.shadows
            assert (live.policy, live.terms.objective.value_usd) == ("always:fair", 5.0)
        else:
            assert event.shadows == ()
    assert server.stop() == 0
    # The log can be taken elsewhere, and tells the same there.
    assert main(["export", str(tmp_path / "export"), "--data-dir", str(server.data_dir)]) == 0
    assert main(["import", str(tmp_path / "export"), "--data-dir", str(tmp_path / "copy")]) == 0
    copy = serving(tmp_path / "copy", None, "--config", str(tmp_path / "data.toml"))
    assert policy(copy, version) == found
    told = copy.routing.GetDecision(rt.GetDecisionRequest(decision_id=decided[9].decision.decision_id), timeout=30)
    assert told.confirmed, told.unconfirmed_reason
    assert copy.stop() == 0


def test_a_session_of_a_canary_that_is_gone_is_decided_by_the_live_policy(serving, tmp_path):
    server = serving(tmp_path / "data", CONFIG)
    version = add(server, "ladder:bad>good")
    server.admin.StartCanary(pb.StartCanaryRequest(policy_version=version, share=0.999), timeout=30)
    first = server.routing.Select(rt.SelectRequest(session_id="s"), timeout=30)
    assert (first.arm, first.policy_version) == ("bad", version)
    leave = rt.EscalateRequest(session_id="s", reason=rt.ESCALATION_REASON_VERIFIED_FAILURE)
    second = server.routing.Escalate(leave, timeout=30).next
    assert (second.arm, second.policy_version) == ("good", version)
    told = server.routing.GetDecision(rt.GetDecisionRequest(decision_id=second.decision_id), timeout=30)
    assert told.policy_propensity == pytest.approx(0.999) and told.confirmed
    other = server.routing.Select(rt.SelectRequest(session_id="t"), timeout=30)
    back = server.admin.RollBackPolicy(pb.RollBackPolicyRequest(why="enough"), timeout=30).policy
    assert (back.policy_version, stage(server, version)) == ("1", "ROLLED_BACK")
    leave = rt.EscalateRequest(decision_id=other.decision_id, reason=rt.ESCALATION_REASON_UNAVAILABLE)
    moved = server.routing.Escalate(leave, timeout=30).next
    assert (moved.policy_version, moved.arm) == ("1", "fair")
    assert server.stop() == 0


def test_with_and_without_shadows_agents_are_told_the_same(serving, tmp_path):
    """The same calls to two servers that fold inline; one has policies in shadow, thompson among them."""
    config = CONFIG.replace('policy = "always:fair"', 'policy = "thompson"\ndraws = 64')
    config = "[service]\nfitter = 'inline'\n" + config
    plain, shadowed = (serving(tmp_path / name, config) for name in ("plain", "shadowed"))
    for spec in ("thompson-single", "linucb"):
        shadowed.admin.StartShadow(pb.StartShadowRequest(policy_version=add(shadowed, spec)), timeout=30)
    for i in range(40):
        told = []
        for server in (plain, shadowed):
            choice = work(server, f"s{i}")
            scores = [(s.arm, s.propensity, s.success_mean, s.cost_usd) for s in choice.scores]
            told.append((choice.arm, choice.propensity, scores, list(choice.ladder), choice.policy_version))
        assert told[0] == told[1]
    assert [each.stop() for each in (plain, shadowed)] == [0, 0]


def test_the_commands_tell_and_change_it(serving, tmp_path, monkeypatch, capsys):
    server = serving(tmp_path / "data", CONFIG)
    monkeypatch.setenv("POINTSMAN_SERVER", server.grpc)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str, status: int = 0) -> str:
        assert main(list(arguments)) == status
        out, err = capsys.readouterr()
        return out if status == 0 else err

    def told(*arguments: str) -> dict:
        return json.loads(run(*arguments, "--json", "-"))

    file = tmp_path / "policy.toml"
    file.write_text('policy = "epsilon"\nalpha = 0.5\n')
    assert told("policies", "create", "uniform")["policy_version"] == "2"
    assert told("policies", "create", "--file", str(file))["policy"] == "epsilon"
    assert told("policies", "shadow", "2")["stage"] == "POLICY_STAGE_SHADOW"
    fleet(server, [f"s{i}" for i in range(20)])
    shown = run("policies")
    assert "agreement" in shown and "33.3 %" in shown
    (shadow,) = told("policies")["shadows"]
    assert (shadow["policy_version"], shadow["errors"]) == ("2", 0)
    canary = told("policies", "canary", "3", "--share", "0.5", "--gate", "cost <= baseline", "--hold")
    assert (canary["canary_share"], canary["gate"], canary["hold"]) == (0.5, "cost <= baseline", True)
    wait_for(lambda: policy(server, "3").HasField("evidence"))
    shown = run("policies", "list")
    assert "left to an operator" in shown and "too early" in shown
    assert "1" in run("policies", "roll-back", "--why", "enough of it")
    assert policy(server, "3").verdict == "enough of it"
    assert told("policies", "promote", "2")["stage"] == "POLICY_STAGE_LIVE"
    assert run("mode", "frozen").startswith("frozen:")
    assert run("mode").startswith("frozen:")
    assert told("mode", "live")["mode"] == "MODE_LIVE"
    assert "VERSION" in run("policies", "shadow", status=2)
    assert "--share" in run("policies", "promote", "2", "--share", "0.5", status=2)
    assert "NAME" in run("policies", "create", status=2)
    assert "--file" in run("policies", "create", "--file", str(tmp_path / "none"), status=2)
    assert "FAILED_PRECONDITION" in run("policies", "canary", "2", status=1)
    assert server.stop() == 0


@pytest.mark.parametrize("edited", [{"policy": "epsilon"}, {"mode": Mode.APPRENTICE, "baseline_arm": "fair"}])
def test_a_configuration_file_is_followed_although_a_canary_runs(edited):
    settings, arms = RouterSettings(policy="uniform"), (Arm(id="fair"), Arm(id="good"))
    configuration = Configuration()
    for event in changes(configuration, Configured(settings=settings, arms=arms), at_us=1):
        configuration = configuration.apply(event)
    configuration = configuration.apply(promotion.create(configuration, policy="always:good", at_us=2))
    configuration = configuration.apply(promotion.start_canary(configuration, "2", Canary(share=0.5, gate="")))
    file = Configured(settings=msgspec.structs.replace(settings, **edited), arms=arms)
    for event in changes(configuration, file, at_us=3):
        configuration = configuration.apply(event)
    ended = configuration.policy("2")
    assert (configuration.canary, ended.stage) == (None, PolicyStage.ROLLED_BACK)
    assert "configuration file" in ended.why
    assert {name: getattr(configuration.settings, name) for name in edited} == edited
