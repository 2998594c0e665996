"""Events to bytes and back."""

import pytest

from bandit import record
from bandit.events import ArmPut, Decided, Escalated, Event, Rewarded, RouterPut, Stuck
from bandit.types import (
    Arm,
    ArmScore,
    Bar,
    BarKind,
    Decision,
    EscalationReason,
    Features,
    Figure,
    Objective,
    Offer,
    Outcome,
    Price,
    RouterSettings,
    SelectReason,
    Situation,
    Text,
    Usage,
)

SALT = bytes(range(record.SALT_BYTES))
FEATURES: Features = {
    "z": 1.0,
    "b": True,
    "component": "parser",
    "text": Text("prose \x00 \N{SNOWMAN}"),
    "v": (0.1, -2e300),
}


def decided(features: Features) -> Decided:
    situation = Situation(
        router="default",
        seed=1,
        session_id="s",
        attempt=2,
        attempts_left=1,
        features=features,
        offers=(Offer(arm="a", price=Price(input_usd=0.1)), Offer(arm="b", bar=Bar(BarKind.TRIED, "tried"))),
        alarmed=("b",),
        may_stop=True,
        objective=Objective(),
        exploration_floor=0.02,
        draws=256,
        alpha=0.6,
    )
    decision = Decision(
        decision_id="d",
        situation=situation,
        arm="a",
        propensity=0.1 + 0.2,
        reason=SelectReason.ESCALATED,
        scores=(ArmScore(arm="a", propensity=0.1 + 0.2, success_mean=1 / 3),),
        policy="thompson",
        policy_version="1",
        epoch=3,
        epoch_hash="h",
    )
    return Decided(decision=decision, left=EscalationReason.POLICY)


EVENTS: list[Event] = [
    RouterPut(settings=RouterSettings()),
    ArmPut(arm=Arm(id="a", capabilities=frozenset("xyz"), figures=(Figure(category="c", success_rate=0.5),))),
    decided(FEATURES),
    decided({}),
    Stuck(decision_id="d"),
    Escalated(decision_id="d", reason=EscalationReason.STRUGGLING, features=FEATURES, stop_propensity=0.25),
    Rewarded(
        session_id="s", outcome=Outcome(success=1.0, usage=Usage(input_tokens=5.0)), metrics={"m": 1.0}, revision=4
    ),
]


@pytest.mark.parametrize("event", EVENTS)
def test_what_is_encoded_comes_back(event):
    kind, body, private = record.encode(event, salt=SALT)
    assert record.decode(kind, body, private) == (event, False)
    assert record.encode(event, salt=SALT) == (kind, body, private), "equal events give equal bytes"


def test_order_of_features_does_not_show():
    turned = dict(reversed(FEATURES.items()))
    assert record.encode(decided(turned), salt=SALT) == record.encode(decided(FEATURES), salt=SALT)


@pytest.mark.parametrize("event", [EVENTS[2], EVENTS[5]])
def test_features_lie_in_the_private_part_alone(event):
    kind, body, private = record.encode(event, salt=SALT)
    assert b"prose" in private and b"prose" not in body and b"component" not in body and b"parser" not in body
    erased = record.decode(kind, body, b"")
    assert erased.erased
    other = record.encode(event, salt=bytes(record.SALT_BYTES))
    assert (other.body, other.private) != (body, private), "the salt enters the digest"
    with pytest.raises(ValueError, match="private part"):
        record.decode(kind, body, other.private)


def test_an_event_without_features_has_nothing_to_erase():
    kind, body, private = record.encode(decided({}), salt=SALT)
    assert private == b""
    assert not record.decode(kind, body, b"").erased


def test_bytes_that_are_no_event_are_refused():
    _, body, private = record.encode(EVENTS[2], salt=SALT)
    for bad in ((b"decided", b"{}", b""), ("decided", b"\xff", b""), ("rewarded", body, private)):
        with pytest.raises(ValueError):
            record.decode(*bad)
