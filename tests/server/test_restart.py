"""Restarts with a configuration file: what was changed at run time stands, and what was edited in the file wins."""

import msgspec
import pytest

from bandit.configuration import Configuration
from bandit.errors import InvalidInput
from bandit.events import ArmPut, AvailabilitySet, Configured, RouterPut
from bandit.promotion import create, promote
from bandit.types import Arm, Objective, PolicyStage, Price, RouterSettings
from pointsman.v1 import admin_pb2 as pb
from pointsman.v1 import events_pb2
from server.reconfigure import changes

FILE = """
[router]
policy = "uniform"
objective = {{ value_usd = {value} }}
[[arms]]
id = "a"
input_usd_per_million = {price}
[[arms]]
id = "b"
"""


def after(configuration: Configuration, *events) -> Configuration:
    for event in events:
        configuration = configuration.apply(event)
    return configuration


def file_of(*arms: Arm, **settings) -> Configured:
    return Configured(settings=RouterSettings(**settings), arms=arms)


def started(file: Configured) -> Configuration:
    return after(Configuration(), *changes(Configuration(), file, at_us=1))


A, B = Arm(id="a", price=Price(input_usd=1.0)), Arm(id="b")


def test_a_first_start_takes_all_of_the_file_and_a_second_nothing():
    file = file_of(A, B, seed=4, policy="ladder:a>b")
    begun = started(file)
    assert (begun.arms, begun.settings, begun.configured) == ((A, B), file.settings, file)
    assert [record.stage for record in begun.policies] == [PolicyStage.LIVE]
    assert changes(begun, file, at_us=2) == []


def test_what_was_changed_at_run_time_stands_and_what_was_edited_wins():
    begun = started(file_of(A, B, alpha=0.5, objective=Objective(value_usd=5.0, quality_floor=0.5)))
    dearer = msgspec.structs.replace(A, price=Price(input_usd=9.0))
    settings = msgspec.structs.replace(
        begun.settings, seed=7, objective=Objective(value_usd=6.0, quality_floor=0.5, session_cap_usd=3.0)
    )
    retired = msgspec.structs.replace(B, retired=True)
    now = after(
        begun,
        ArmPut(arm=dearer),
        ArmPut(arm=retired),
        ArmPut(arm=Arm(id="c")),
        RouterPut(settings=settings),
        AvailabilitySet(arm="a", until_us=9),
    )
    edited = file_of(
        msgspec.structs.replace(A, provider="somebody"),
        msgspec.structs.replace(B, provider="nobody"),
        alpha=0.25,
        objective=Objective(value_usd=5.0, quality_floor=0.75),
    )
    then = after(now, *changes(now, edited, at_us=2))
    assert then.arms == (
        msgspec.structs.replace(dearer, provider="somebody"),
        msgspec.structs.replace(retired, provider="nobody"),
        Arm(id="c"),
    )
    assert then.settings == msgspec.structs.replace(
        settings, alpha=0.25, objective=Objective(value_usd=6.0, quality_floor=0.75, session_cap_usd=3.0)
    )
    assert then.down == now.down
    assert changes(then, edited, at_us=3) == []


def test_a_policy_edited_in_the_file_is_a_new_version_that_can_be_rolled_back():
    begun = started(file_of(A, B, policy="uniform"))
    then = after(begun, *changes(begun, file_of(A, B, policy="always:b", alpha=0.1), at_us=2))
    assert (then.settings.policy, then.settings.policy_version, then.settings.alpha) == ("always:b", "2", 0.1)
    assert [record.stage for record in then.policies] == [PolicyStage.SUPERSEDED, PolicyStage.LIVE]
    assert then.policies[0].settings == begun.settings
    with pytest.raises(InvalidInput):
        changes(then, file_of(A, B, policy="always:c"), at_us=3)


def test_a_promoted_policy_stays_until_the_file_names_another():
    begun = started(file_of(A, B, policy="uniform"))
    made = create(begun, policy="always:a", at_us=2)
    now = after(begun, made, *promote(after(begun, made), "2"))
    edited = after(now, *changes(now, file_of(A, B, policy="uniform", seed=5), at_us=3))
    assert (edited.settings.policy, edited.settings.policy_version, edited.settings.seed) == ("always:a", "2", 5)
    same = after(edited, *changes(edited, file_of(A, B, policy="always:a", seed=5), at_us=4))
    assert same.settings == edited.settings, "it decides already"


def test_half_a_budget_in_the_file_brings_the_other_half():
    budget = Objective(budget_usd=5.0, budget_period_seconds=60.0)
    begun = started(file_of(A, objective=budget))
    now = after(begun, RouterPut(settings=RouterSettings()))
    edited = file_of(A, objective=Objective(budget_usd=7.0, budget_period_seconds=60.0))
    assert after(now, *changes(now, edited, at_us=2)).settings.objective == edited.settings.objective


def test_a_router_that_was_made_at_run_time_takes_the_file_that_comes_to_name_it():
    now = after(Configuration(), RouterPut(settings=RouterSettings(policy="uniform", seed=3)), ArmPut(arm=B))
    file = file_of(A, policy="epsilon")
    then = after(now, *changes(now, file, at_us=2))
    assert then.arms == (B, A)
    assert then.settings == msgspec.structs.replace(file.settings, policy_version="2")


def test_a_price_put_at_run_time_survives_a_restart_until_the_file_is_edited(serving, tmp_path):
    def arms() -> dict[str, pb.Arm]:
        listed = server.admin.ListArms(pb.ListArmsRequest(include_retired=True)).arms
        return {arm.id: arm for arm in listed}

    def router() -> pb.Router:
        return server.admin.GetRouter(pb.GetRouterRequest()).router

    server = serving(tmp_path / "data", FILE.format(price=1, value=5))
    arm = pb.Arm(id="a", prices=pb.Prices(input_usd_per_million=7))
    server.admin.PutArm(pb.PutArmRequest(arm=arm))
    server.admin.RetireArm(pb.RetireArmRequest(arm="b"))
    server.admin.CreatePolicy(pb.CreatePolicyRequest(policy="epsilon"))
    server.admin.PromotePolicy(pb.PromotePolicyRequest(policy_version="2"))
    server.admin.CreateRouter(pb.CreateRouterRequest(router="second"))
    last = server.last_sequence()
    server.kill()

    server = serving(tmp_path / "data", FILE.format(price=1, value=5))
    assert server.last_sequence() == last, "an unchanged file changes nothing"
    assert arms()["a"].prices.input_usd_per_million == 7
    assert arms()["b"].retired
    assert router().policy == "epsilon"
    server.kill()

    server = serving(tmp_path / "data", FILE.format(price=2, value=5))
    assert arms()["a"].prices.input_usd_per_million == 2
    assert arms()["b"].retired
    server.kill()

    server = serving(tmp_path / "data", FILE.format(price=2, value=6))
    assert router().settings.objective.value_usd == 6
    assert (router().policy, router().policy_version) == ("epsilon", "2")
    assert [one.id for one in server.admin.ListRouters(pb.ListRoutersRequest()).routers] == ["default", "second"]
    assert server.stop() == 0


def test_a_file_that_contradicts_the_log_is_refused_at_the_start(serving, tmp_path):
    server = serving(tmp_path / "data", FILE.format(price=1, value=5))
    server.admin.RetireArm(pb.RetireArmRequest(arm="b"))
    assert server.stop() == 0
    baseline = FILE.format(price=1, value=5).replace("[router]", '[router]\nbaseline_arm = "b"')
    with pytest.raises(AssertionError, match="never said that it is ready"):
        serving(tmp_path / "data", baseline)


def test_a_baseline_that_an_import_brings_back_from_retirement_is_no_reason_not_to_start(serving, tmp_path):
    config = FILE.format(value=1.0, price=1.0)
    server = serving(tmp_path / "data", config)

    def baseline(arm: str) -> None:
        settings = pb.RouterSettings(baseline_arm=arm)
        server.admin.UpdateRouter(pb.UpdateRouterRequest(settings=settings), timeout=30)

    def in_force() -> str:
        return server.admin.GetRouter(pb.GetRouterRequest(), timeout=30).router.settings.baseline_arm

    baseline("b")
    exported = server.events.ExportEvents(events_pb2.ExportEventsRequest(), timeout=30)
    (event,) = [event for chunk in exported for event in chunk.events if event.kind == "router_put"][-1:]
    baseline("a")
    server.admin.RetireArm(pb.RetireArmRequest(arm="b"), timeout=30)
    event.sequence, event.digest, event.request_key = 0, b"", b""
    event.body = event.body.replace(b'"seed":0', b'"seed":1')
    server.events.ImportEvents(iter([events_pb2.ImportEventsRequest(events=[event])]), timeout=30)
    assert in_force() == "b"
    assert server.stop() == 0
    server = serving(tmp_path / "data", config)
    assert in_force() == "b"
    assert server.stop() == 0
