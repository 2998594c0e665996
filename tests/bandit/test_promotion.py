"""Which policy decides: one is live at a time, and each returns as it was."""

import msgspec
import pytest

from bandit.configuration import Configuration
from bandit.errors import InvalidInput, Unknown, WrongOrder
from bandit.events import ArmPut, RouterPut
from bandit.promotion import MOST_SHADOWS, create, promote, roll_back, start_canary, start_shadow
from bandit.types import Arm, Canary, Mode, Objective, PolicyStage, RouterSettings


def after(configuration: Configuration, *events) -> Configuration:
    for event in events:
        configuration = configuration.apply(event)
    return configuration


BEGUN = after(Configuration(), ArmPut(arm=Arm(id="a")), RouterPut(settings=RouterSettings(seed=5, alpha=0.4)))


def with_policies(*specs: str) -> Configuration:
    configuration = BEGUN
    for spec in specs:
        configuration = after(configuration, create(configuration, policy=spec, at_us=7))
    return configuration


def stages(configuration: Configuration) -> list[str]:
    return [record.stage.value for record in configuration.policies]


def test_a_router_begins_with_its_first_policy_live():
    (first,) = BEGUN.policies
    assert (first.version, first.policy, first.stage) == ("1", "thompson", PolicyStage.LIVE)


def test_one_policy_is_live_whatever_is_promoted_and_rolled_back():
    configuration = with_policies("uniform", "always:a", "epsilon")
    for step in ("2", "3", "4", "2", "", "", "3", "", "4", "1", ""):
        try:
            events = promote(configuration, step) if step else roll_back(configuration)
        except WrongOrder:
            continue
        configuration = after(configuration, *events)
        assert stages(configuration).count("live") == 1
        live = configuration.policy(configuration.settings.policy_version)
        assert live.stage is PolicyStage.LIVE and live.policy == configuration.settings.policy
        assert events[0].policy == live


def test_a_definition_brings_its_numbers_and_a_return_those_of_before():
    definition = 'policy = "uniform"\nalpha = 0.9\nobjective.value_usd = 2\n'
    configuration = after(BEGUN, create(BEGUN, policy="", definition=definition, at_us=7))
    promoted = after(configuration, *promote(configuration, "2"))
    assert promoted.settings == RouterSettings(
        seed=5, alpha=0.9, objective=Objective(value_usd=2.0), policy="uniform", policy_version="2"
    )
    # What was changed meanwhile and belongs to no policy stays.
    changed = msgspec.structs.replace(promoted.settings, seed=6, alpha=0.8)
    returned = after(promoted, RouterPut(settings=changed))
    returned = after(returned, *roll_back(returned, why="worse"))
    assert returned.settings == RouterSettings(seed=6, alpha=0.4)
    assert [(record.stage.value, record.why) for record in returned.policies] == [
        ("live", "worse"),
        ("rolled_back", "worse"),
    ]
    again = after(returned, *promote(returned, "2"))
    assert again.settings == changed, "a policy that was live decides by what it decided by last"


def test_rolling_back_goes_the_way_that_promotions_came():
    configuration = with_policies("uniform", "always:a")
    configuration = after(configuration, *promote(configuration, "2"))
    configuration = after(configuration, *promote(configuration, "3"))
    configuration = after(configuration, *roll_back(configuration))
    assert stages(configuration) == ["superseded", "live", "rolled_back"]
    configuration = after(configuration, *roll_back(configuration, "2"))
    assert stages(configuration) == ["live", "rolled_back", "rolled_back"]
    with pytest.raises(WrongOrder):
        roll_back(configuration)


def test_what_cannot_be_is_refused():
    configuration = with_policies("uniform")
    with pytest.raises(Unknown):
        promote(configuration, "9")
    with pytest.raises(Unknown):
        roll_back(configuration, "9")
    with pytest.raises(WrongOrder):
        roll_back(configuration, "2")
    with pytest.raises(WrongOrder):
        roll_back(configuration)
    for policy, definition, field in (
        ("", "", "policy"),
        ("always:b", "", "policy"),
        ("", 'policy = "always:b"', "definition"),
        ("epsilon", 'policy = "uniform"', "policy"),
    ):
        with pytest.raises(InvalidInput) as caught:
            create(configuration, policy=policy, definition=definition, at_us=0)
        assert caught.value.field == field


TERMS = Canary(share=0.5, gate="")


def test_policies_are_tried_beside_the_live_one_and_leave_it_as_it_is():
    configuration = with_policies("uniform", "always:a", "epsilon")
    live = configuration.settings
    configuration = after(configuration, start_shadow(configuration, "2"), start_shadow(configuration, "3"))
    assert stages(configuration) == ["live", "shadow", "shadow", "created"]
    configuration = after(configuration, start_canary(configuration, "3", TERMS))
    assert (configuration.canary.version, configuration.canary.canary) == ("3", TERMS)
    assert [shadow.version for shadow in configuration.shadows] == ["2"]
    # Without a version the canary goes; the reply is the one that decides.
    events = roll_back(configuration, why="enough")
    assert events[0].policy == configuration.policy("1")
    configuration = after(configuration, *events)
    assert stages(configuration) == ["live", "shadow", "rolled_back", "created"]
    assert configuration.policy("3").why == "enough"
    configuration = after(configuration, *roll_back(configuration, "2"))
    assert stages(configuration) == ["live", "rolled_back", "rolled_back", "created"]
    assert configuration.settings == live


def test_a_canary_is_promoted_and_nobody_else_while_it_runs():
    configuration = with_policies("uniform", "always:a")
    configuration = after(configuration, *promote(configuration, "2"))
    configuration = after(configuration, start_canary(configuration, "3", TERMS))
    for step in (
        lambda: start_canary(configuration, "1", TERMS),
        lambda: start_canary(configuration, "3", TERMS),
        lambda: start_shadow(configuration, "3"),
        lambda: promote(configuration, "1"),
        lambda: roll_back(configuration, "2"),
    ):
        with pytest.raises(WrongOrder):
            step()
    configuration = after(configuration, *promote(configuration, "3", why="better"))
    assert stages(configuration) == ["superseded", "superseded", "live"]
    assert configuration.policy("3").why == "better" and configuration.canary is None
    configuration = after(configuration, *roll_back(configuration))
    assert configuration.settings.policy_version == "2"


def test_what_cannot_be_tried_is_refused():
    configuration = with_policies(*["uniform"] * (MOST_SHADOWS + 1))
    for step in (lambda: start_shadow(configuration, "9"), lambda: start_canary(configuration, "9", TERMS)):
        with pytest.raises(Unknown):
            step()
    for step in (lambda: start_shadow(configuration, "1"), lambda: start_canary(configuration, "1", TERMS)):
        with pytest.raises(WrongOrder, match="live"):
            step()
    apprentice = after(
        configuration, RouterPut(settings=msgspec.structs.replace(configuration.settings, mode=Mode.APPRENTICE))
    )
    with pytest.raises(WrongOrder, match="apprentice"):
        start_canary(apprentice, "2", TERMS)
    for version in range(2, 2 + MOST_SHADOWS):
        configuration = after(configuration, start_shadow(configuration, str(version)))
    assert start_shadow(configuration, "2").policy == configuration.policy("2")
    with pytest.raises(WrongOrder, match="in shadow"):
        start_shadow(configuration, str(2 + MOST_SHADOWS))


def test_the_policy_to_return_to_may_be_in_shadow_meanwhile():
    configuration = with_policies("uniform")
    configuration = after(configuration, *promote(configuration, "2"))
    shadowed = after(configuration, start_shadow(configuration, "1"))
    assert after(shadowed, *roll_back(shadowed)).settings.policy_version == "1"
    taken_out = after(shadowed, *roll_back(shadowed, "1"))
    assert stages(taken_out) == ["superseded", "live"]
    assert after(taken_out, *roll_back(taken_out)).settings.policy_version == "1"
