"""The fixed policies say exactly what they must; epsilon-greedy follows its own beliefs."""

import numpy as np
import pytest

from bandit import eligibility, moves
from bandit.baselines import EPSILON, make
from bandit.errors import InvalidInput
from bandit.events import ArmPut, Decided, Event, Rewarded, RouterPut
from bandit.learner import InMemory, Learner
from bandit.policy import AnyPolicy, Distribution, parse
from bandit.types import (
    Arm,
    Bar,
    BarKind,
    EscalationReason,
    Objective,
    Offer,
    Outcome,
    RouterSettings,
    SelectReason,
    Situation,
)
from tests.bandit import posteriors

ARMS = tuple(Arm(id=name) for name in "ABCD")


def situation(*open_arms: str, attempts_left: int = 3, may_stop: bool = False, floor: float = 0.02) -> Situation:
    return Situation(
        router="default",
        seed=0,
        session_id="s",
        attempt=1,
        attempts_left=attempts_left,
        features={},
        offers=tuple(Offer(arm=a.id, bar=None if a.id in open_arms else Bar(BarKind.POLICY, "so")) for a in ARMS),
        alarmed=("A",) if may_stop else (),
        may_stop=may_stop,
        objective=Objective(),
        exploration_floor=floor,
        draws=8,
        alpha=1.0,
    )


def policy(spec: str) -> AnyPolicy:
    made = make(spec)
    assert made is not None
    assert made.spec == spec
    return made


def propensities(spec: str, at: Situation) -> dict[str, float]:
    answer = policy(spec).distribution(None, at)
    return {o.arm: p for o, p in zip(at.offers, answer.propensities.tolist(), strict=True) if p > 0.0}


def test_uniform_is_uniform_over_the_eligible() -> None:
    assert propensities("uniform", situation("A", "B", "D")) == pytest.approx({"A": 1 / 3, "B": 1 / 3, "D": 1 / 3})
    assert propensities("uniform", situation("C", may_stop=True)) == {"C": 1.0}


def test_always_takes_its_arm_and_else_the_first_eligible() -> None:
    assert propensities("always:C", situation("A", "B", "C")) == {"C": 1.0}
    assert propensities("always:C", situation("B", "D")) == {"B": 1.0}


@pytest.mark.parametrize(
    ("open_arms", "attempts_left", "arm", "plan"),
    [
        ("ABCD", 3, "C", ("A", "D")),
        ("ABCD", 2, "C", ("A",)),
        ("ABCD", 1, "C", ()),
        ("ABD", 3, "A", ("D",)),
        ("BC", 3, "C", ()),
        ("BD", 3, "D", ()),
    ],
)
def test_a_ladder_takes_its_first_rung_left(open_arms: str, attempts_left: int, arm: str, plan: tuple[str]) -> None:
    at = situation(*open_arms, attempts_left=attempts_left, may_stop=len(open_arms) < 4)
    assert propensities("ladder:C>A>D", at) == {arm: 1.0}
    answer = policy("ladder:C>A>D").distribution(None, at)
    assert answer.plan("ABCD".index(arm)) == plan
    assert answer.stop_propensity == 0.0


def test_a_ladder_without_a_rung_gives_up_where_it_may() -> None:
    ladder = policy("ladder:C>A")
    assert ladder.distribution(None, situation("B", "D", may_stop=True)).stop_propensity == 1.0
    assert ladder.distribution(None, situation("B", "D")).stop_propensity == 0.0
    assert propensities("ladder:C>A", situation("B", "D")) == {"B": 1.0}


@pytest.mark.parametrize("spec", ["always:A", "ladder:A>B"])
def test_fixed_rules_have_no_floor(spec: str) -> None:
    assert propensities(spec, situation("A", "B", floor=0.5)) == {"A": 1.0}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("always:", "names no arm"),
        ("always", "names no arm"),
        ("ladder:", "empty rung"),
        ("ladder", "empty rung"),
        ("ladder:A>", "empty rung"),
        ("ladder:A>>B", "empty rung"),
        ("ladder:A>B>A", "names an arm twice"),
        ("threshold", "no threshold in"),
        ("threshold:", "no threshold in"),
        ("threshold:abc", "no threshold in"),
        ("threshold:1.5", "no threshold in"),
        ("threshold:-0.1", "no threshold in"),
        ("threshold:nan", "no threshold in"),
        ("linucb:1", "no policy"),
        ("uniform:A", "no policy"),
        ("epsilon:0.2", "no policy"),
        ("", "no policy"),
        ("always :A", "no policy"),
    ],
)
def test_what_is_malformed_is_refused(spec: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        parse(spec)
    assert caught.value.field == "policy"


@pytest.mark.parametrize("spec", ["always:E", "ladder:A>E", "always:a", "ladder:A> B"])
def test_arms_that_are_not_there_are_refused_at_the_start(spec: str) -> None:
    with pytest.raises(InvalidInput, match=r"no arm .*; known: A, B, C, D"):
        policy(spec).start(ARMS)
    policy("always:B").start(ARMS)


def test_an_arm_s_name_may_hold_a_colon() -> None:
    policy("always:openai:gpt").start([Arm(id="openai:gpt")])


def test_a_policy_without_state_refuses_another_s() -> None:
    assert policy("uniform").load(b"") is None
    with pytest.raises(ValueError, match="without state"):
        policy("uniform").load(b"model")


class Router:
    """One router in memory, with arms that may go down."""

    def __init__(self, spec: str) -> None:
        self.settings = RouterSettings(policy=spec, max_attempts=4)
        self.sessions = InMemory()
        self.learner = Learner(self.sessions)
        for arm in ARMS:
            self.feed(ArmPut(arm=arm))
        self.feed(RouterPut(settings=self.settings))

    def feed(self, event: Event, session_id: str = "") -> None:
        self.learner.feed(self.learner.seq + 1, event, session_id)

    def begin(self, session_id: str, **down: str) -> Decided:
        event = moves.select(
            self.settings,
            self.learner.vintage,  # type: ignore[arg-type]
            self.sessions.get(session_id),
            session_id=session_id,
            features={},
            offers=eligibility.offers(ARMS, unavailable=down),
            decision_id=f"{session_id}-{self.learner.seq}",
        )
        assert isinstance(event, Decided)
        self.feed(event, session_id)
        return event

    def escalate(self, session_id: str, reason: EscalationReason) -> str | None:
        session = self.sessions.get(session_id)
        assert session is not None
        events = moves.escalate(
            self.settings,
            self.learner.vintage,  # type: ignore[arg-type]
            session,
            decision_id=session.attempts[-1].decision.decision_id,
            reason=reason,
            offers=eligibility.offers(ARMS),
            next_decision_id=f"{session_id}-{self.learner.seq}",
        )
        for event in events:
            self.feed(event, session_id)
        return events[1].decision.arm if len(events) == 2 else None


def test_a_ladder_climbs_to_its_end_and_gives_up() -> None:
    router = Router("ladder:C>A>D")
    assert router.begin("s").decision.arm == "C"
    taken = [router.escalate("s", EscalationReason.VERIFIED_FAILURE) for _ in range(3)]
    assert taken == ["A", "D", None]


def test_uniform_climbs_through_every_arm() -> None:
    router = Router("uniform")
    taken = [router.begin("s").decision.arm, *(router.escalate("s", EscalationReason.STRUGGLING) for _ in range(4))]
    assert set(taken) == {*"ABCD", None}
    assert taken[-1] is None


@pytest.mark.parametrize("spec", ["always:C", "epsilon"])
def test_who_never_climbs_is_exhausted_by_an_alarm_and_rerouted_for_other_reasons(spec: str) -> None:
    router = Router(spec)
    first = router.begin("s").decision.arm
    assert router.escalate("s", EscalationReason.VERIFIED_FAILURE) is None
    again = router.begin("t", **{first: "down"})
    assert again.decision.arm != first
    assert router.escalate("t", EscalationReason.CAPABILITY) not in (None, again.decision.arm)


def test_always_goes_on_with_the_first_eligible_while_its_arm_is_down() -> None:
    router = Router("always:C")
    assert router.begin("s").decision.arm == "C"
    rerouted = router.begin("s", C="down")
    assert (rerouted.decision.arm, rerouted.decision.propensity) == ("A", 1.0)
    assert rerouted.decision.reason is SelectReason.REROUTED_UNAVAILABLE
    assert router.begin("t").decision.arm == "C"


def test_epsilon_takes_the_arm_that_it_believes_in_and_explores_the_rest() -> None:
    """Epsilon and the router's floor both have their share, one after the other."""
    router = Router("epsilon")
    for i in range(60):
        arm = router.begin(f"s{i}").decision.arm
        outcome = Outcome(success=float(arm in "BC" and i % 4 > 0), cost_usd=1.0 if arm == "B" else 0.5)
        router.feed(Rewarded(session_id=f"s{i}", outcome=outcome, revision=1), f"s{i}")
    vintage = router.learner.vintage
    assert vintage is not None
    at = situation("A", "B", "D", floor=0.04)
    answer = vintage.policy.distribution(vintage.state, at)
    assert answer.beliefs is not None
    utility = at.objective.value_usd * answer.beliefs.success_mean - answer.beliefs.cost_usd
    best = int(np.argmax(np.where([o.bar is None for o in at.offers], utility, -np.inf)))
    assert at.offers[best].arm == "B"
    share = (1 - 0.04) * (1 - EPSILON)
    expected = np.array([(1 - share) / 3, (1 - share) / 3 + share, 0.0, (1 - share) / 3])
    assert answer.propensities == pytest.approx(expected, abs=1e-12)
    # The session's own random streams move the posterior draws of Thompson sampling, and nothing here.
    assert router.begin("elsewhere").decision.scores == router.begin("nowhere").decision.scores


# Successes of .5, .95, .73 and .62 for $0.1, $10, $1 and $2.
KNOWN, FOUR = posteriors.by_hand([0.0, 3.0, 1.0, 0.5], 1e-4 * np.eye(4), sigma=0.0, dollars=1.0)
PRICED = tuple(posteriors.replace_price(arm, usd) for arm, usd in zip(FOUR, (0.1, 10.0, 1.0, 2.0), strict=True))


def by_threshold(threshold: str, **changes: object) -> Distribution:
    at = posteriors.situation(arms=PRICED, **changes)
    return policy(f"threshold:{threshold}").distribution(KNOWN, at)


@pytest.mark.parametrize(
    ("threshold", "in_order"),
    [
        ("0", ("a0", "a2", "a3")),
        ("0.6", ("a2", "a3", "a1")),
        ("0.7", ("a2", "a1", "a3")),
        ("0.9", ("a1", "a2", "a3")),
        ("1", ("a1", "a2", "a3")),
    ],
)
def test_the_threshold_takes_the_cheapest_that_reaches_it_then_the_strongest(
    threshold: str, in_order: tuple[str, ...]
) -> None:
    """It explores by the floor alone, whatever a success is worth, and says where alarms would lead."""
    for value_usd in (0.01, 100.0):
        answer = by_threshold(threshold, objective=Objective(value_usd=value_usd))
        taken = int(answer.propensities.argmax())
        assert answer.propensities[taken] == pytest.approx(1 - 0.02 * 3 / 4)
        assert (f"a{taken}", *answer.plan(taken)) == in_order


def test_an_alarm_leads_to_the_next_that_reaches_the_threshold_whatever_it_costs() -> None:
    answer = by_threshold("0.7", alarmed=("a2",), objective=Objective(value_usd=0.01))
    assert answer.propensities.argmax() == 1
    assert answer.stop_propensity == 0.0
    assert answer.plan(1) == ("a3",)
    last = by_threshold("0.7", alarmed=("a2", "a1"))
    assert last.propensities.argmax() == 3
    assert last.plan(3) == ()


def test_the_threshold_is_held_by_what_is_left_under_a_cap() -> None:
    answer = by_threshold("0.9", cost_cap_usd=1.5)
    assert answer.propensities == pytest.approx([0.01, 0.0, 0.99, 0.0])


def test_what_is_predicted_after_an_alarm_counts_it() -> None:
    """Both others reach .6 at first; once the strong one has failed neither does, and the stronger is taken."""
    state, arms = posteriors.by_hand([3.0, 1.0, 1.5], 1e-4 * np.eye(3), sigma=2.0)
    arms = tuple(posteriors.replace_price(arm, usd) for arm, usd in zip(arms, (9.0, 1.0, 2.0), strict=True))
    situations = [posteriors.situation(arms=arms, alarmed=tried) for tried in ((), ("a0",))]
    answers = policy("threshold:0.6").distributions(state, situations)
    assert [answer.propensities.argmax() for answer in answers] == [1, 2]
