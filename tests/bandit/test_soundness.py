"""What another log may say of policies that are tried: what could not have come about is refused, by its field."""

import msgspec
import pytest

from bandit import moves, soundness
from bandit.configuration import Configuration
from bandit.decision import Vintage
from bandit.errors import InvalidInput
from bandit.events import ArmPut, Decided, Event, PolicyPut, RouterPut
from bandit.policy import parse
from bandit.promotion import MOST_SHADOWS, create, start_canary, start_shadow
from bandit.types import Arm, Assignment, Canary, Offer, PolicyStage, RouterSettings, Shadow, Terms

SETTINGS = RouterSettings(id="r", policy="uniform")
TERMS = Canary(share=0.5, gate="success >= baseline")


def after(configuration: Configuration, *events: Event) -> Configuration:
    for event in events:
        check(event, configuration)
        configuration = configuration.apply(event)
    return configuration


def check(event: Event, configuration: Configuration) -> None:
    session_id, decision_id = ("s", "d") if isinstance(event, Decided) else ("", "")
    soundness.check(
        event, router="r", session_id=session_id, decision_id=decision_id, session=None, configuration=configuration
    )


def refused(event: Event, configuration: Configuration, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check(event, configuration)
    assert caught.value.field.startswith(field), caught.value


@pytest.fixture
def begun() -> Configuration:
    configuration = after(
        Configuration(), ArmPut(arm=Arm(id="a")), ArmPut(arm=Arm(id="b")), RouterPut(settings=SETTINGS)
    )
    for _ in range(MOST_SHADOWS + 1):
        configuration = after(configuration, create(configuration, policy="always:a", at_us=1))
    return configuration


def test_policies_that_are_tried_are_looked_at(begun):
    record = start_canary(begun, "2", TERMS).policy
    check(PolicyPut(policy=record), begun)
    for changed, field in (
        ({"policy": "no such"}, "body.policy"),
        ({"policy": "always:z"}, "body.policy"),
        ({"definition": "policy = 3"}, "body.policy"),
        ({"canary": None}, "body.policy.canary"),
        ({"canary": Canary(share=0.0, gate="")}, "body.policy.canary.share"),
        ({"canary": Canary(share=1.0, gate="")}, "body.policy.canary.share"),
        ({"canary": Canary(share=2.0, gate="")}, "body.policy.canary.share"),
        ({"canary": Canary(share=0.5, gate="success")}, "body.policy.canary.gate"),
    ):
        refused(PolicyPut(policy=msgspec.structs.replace(record, **changed)), begun, field)
    running = after(begun, PolicyPut(policy=record))
    other = msgspec.structs.replace(record, version="3")
    refused(PolicyPut(policy=other), running, "body.policy.stage")
    refused(PolicyPut(policy=record), Configuration(), "body.policy")


def test_not_too_many_are_in_shadow(begun):
    for version in range(2, 2 + MOST_SHADOWS):
        begun = after(begun, start_shadow(begun, str(version)))
    check(start_shadow(begun, "2"), begun)
    record = msgspec.structs.replace(begun.policy(str(2 + MOST_SHADOWS)), stage=PolicyStage.SHADOW)
    refused(PolicyPut(policy=record), begun, "body.policy.stage")


def test_what_shadows_and_lotteries_are_said_to_have_been(begun):
    vintage = Vintage(policy=parse("uniform"), policy_version="1", epoch=0, epoch_hash="", state=None)
    event = moves.select(
        SETTINGS,
        vintage,
        None,
        session_id="s",
        features={},
        offers=(Offer(arm="a"), Offer(arm="b")),
        decision_id="d",
        assignment=Assignment(canary="2", share=0.5),
    )
    terms = Terms(objective=SETTINGS.objective, attempts_left=1, exploration_floor=0.1, draws=64, alpha=1.0)
    shadow = Shadow(policy="uniform", policy_version="2", epoch_hash="", terms=terms, propensities=(0.5, 0.5))
    check(msgspec.structs.replace(event, shadows=(shadow,)), begun)
    for changed, field in (
        ({"propensities": (1.0,)}, "body.shadows.propensities"),
        ({"propensities": (2.0, 0.0)}, "body.shadows.propensities"),
        ({"success_mean": 1.5}, "body.shadows.success_mean"),
        ({"stop_propensity": -0.5}, "body.shadows.stop_propensity"),
        ({"terms": msgspec.structs.replace(terms, draws=1 << 30)}, "body.shadows.terms.draws"),
        ({"terms": msgspec.structs.replace(terms, attempts_left=99)}, "body.shadows.terms.attempts_left"),
    ):
        forged = msgspec.structs.replace(shadow, **changed)
        refused(msgspec.structs.replace(event, shadows=(forged,)), begun, field)
    for share in (0.0, 1.0, 1.5):
        decision = msgspec.structs.replace(event.decision, assignment=Assignment(canary="2", share=share))
        refused(msgspec.structs.replace(event, decision=decision), begun, "body.decision.assignment.share")
