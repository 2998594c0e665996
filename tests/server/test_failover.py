"""Failover: which reports take an endpoint out, for how long, and which do not."""

import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bandit import eligibility, moves, policy
from bandit.configuration import Configuration
from bandit.decision import Vintage
from bandit.events import ArmPut, AvailabilitySet, Decided, Escalated, Event, Rewarded, RouterPut
from bandit.session import Session, apply
from bandit.types import Arm, EscalationReason, Failover, Outcome, RouterSettings
from server.failover import Watch

ARMS = (Arm(id="a", endpoints=("east", "west")), Arm(id="b"))
FAILOVER = Failover(errors=3, error_share=0.5, window_seconds=60.0, cool_down_seconds=30.0)
DOWN, FAILED = EscalationReason.UNAVAILABLE, EscalationReason.VERIFIED_FAILURE


class Place:
    """A router's configuration with its watch, and sessions that end there. Times are in seconds."""

    def __init__(self, failover: Failover = FAILOVER, arms: tuple[Arm, ...] = ARMS) -> None:
        self.watch = Watch()
        self.configuration = Configuration()
        settings = RouterSettings(failover=failover)
        for event in (*(ArmPut(arm=arm) for arm in arms), RouterPut(settings=settings)):
            self.configuration = self.configuration.apply(event)
        made = policy.parse("uniform")
        self.settings = settings
        self.vintage = Vintage(policy=made, policy_version="1", epoch=0, epoch_hash="", state=made.start(arms))
        self.ids = map(str, itertools.count())

    def begun(self, arm: str, endpoint: str) -> Session:
        decision_id = next(self.ids)
        event = moves.select(
            self.settings,
            self.vintage,
            None,
            session_id=f"s{decision_id}",
            features={},
            offers=eligibility.offers([Arm(id="a"), Arm(id="b")]),
            decision_id=decision_id,
            pinned_arm=arm,
            endpoint_of=lambda _arm: endpoint,
        )
        assert isinstance(event, Decided)
        session = apply(None, event)
        assert session is not None
        return session

    def tell(self, session: Session, event: Event, at: float) -> AvailabilitySet | None:
        out = self.watch.observe(self.configuration, session, event, int(at * 1e6))
        if out is not None:
            self.configuration = self.configuration.apply(out)
        return out

    def left(
        self, at: float, reason: EscalationReason = DOWN, *, arm: str = "a", endpoint: str = "east", said: str = ""
    ) -> AvailabilitySet | None:
        session = self.begun(arm, endpoint)
        event = Escalated(decision_id=session.attempts[0].decision.decision_id, reason=reason, endpoint=said)
        return self.tell(session, event, at)

    def rewarded(self, at: float) -> AvailabilitySet | None:
        session = self.begun("a", "east")
        event = Rewarded(session_id=session.session_id, outcome=Outcome(success=1.0), revision=1)
        return self.tell(session, event, at)


def down_for(out: AvailabilitySet | None, at: float) -> float:
    assert out is not None
    return out.until_us / 1e6 - at


def test_enough_errors_take_the_endpoint_out_and_it_returns_by_itself() -> None:
    place = Place()
    assert place.left(1000) is None and place.left(1001) is None
    out = place.left(1002)
    assert out == AvailabilitySet(
        arm="a", endpoint="east", until_us=1_032_000_000, why="3 of 3 attempts in the last 60 s failed"
    )
    assert place.configuration.endpoint("a", 1_002_000_000) == "west"
    assert place.configuration.unavailable(1_002_000_000) == {}
    assert place.configuration.endpoint("a", 1_032_000_000) == "east"


def test_where_most_attempts_end_well_errors_are_no_outage() -> None:
    place = Place()
    for i in range(4):
        assert place.rewarded(1000 + i) is None
    assert [place.left(1005 + i) for i in range(3)] == [None] * 3
    # The fourth makes them half of all.
    out = place.left(1010)
    assert out is not None and out.why == "4 of 8 attempts in the last 60 s failed"


def test_an_answer_that_was_no_good_is_an_answer() -> None:
    place = Place()
    for i in range(3):
        assert place.left(1000 + i, FAILED) is None
    assert place.left(1003) is None and place.left(1004) is None
    out = place.left(1005)
    assert out is not None and out.why == "3 of 6 attempts in the last 60 s failed"


def test_only_the_first_reward_of_an_attempt_that_runs_shows_an_answer() -> None:
    place = Place()
    session = place.begun("a", "east")
    event = Rewarded(session_id=session.session_id, outcome=Outcome(cost_usd=1.0), revision=1)
    assert place.tell(session, event, 1000) is None
    told = apply(session, event)
    assert told is not None
    for _ in range(5):
        assert place.tell(told, event, 1000) is None
    assert place.left(1001) is None and place.left(1002) is None
    out = place.left(1003)
    assert out is not None and out.why == "3 of 4 attempts in the last 60 s failed"


def test_errors_of_long_ago_or_of_another_endpoint_do_not_count() -> None:
    place = Place()
    place.left(1000)
    place.left(1030, endpoint="west")
    place.left(1040)
    assert place.left(1061) is None
    # The agent knows better than the answer it was given.
    assert place.left(1062, endpoint="west", said="east") is not None


def test_a_clock_that_jumps_back_takes_nobody_out_for_what_lies_in_its_future() -> None:
    place = Place()
    place.left(5000)
    place.left(5001)
    assert place.left(1400) is None
    assert place.left(1401) is None
    assert place.left(1402) is not None


def outage(place: Place, at: float) -> float:
    """Three errors from `at` on: for how long the endpoint is out."""
    place.left(at)
    place.left(at)
    return down_for(place.left(at), at)


def test_failing_again_right_after_the_return_doubles_the_time_out_up_to_an_hour() -> None:
    place, at, seconds = Place(), 1000.0, []
    for _ in range(9):
        seconds.append(outage(place, at))
        at += seconds[-1] + 10
    assert seconds == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    # Well for a while, it begins anew.
    assert outage(place, at + 3600) == 30


def test_what_ends_while_it_is_out_says_nothing() -> None:
    place = Place()
    assert outage(place, 1000) == 30
    for i in range(10):
        assert place.left(1001 + i) is None
    assert place.left(1031) is None and place.left(1032) is None
    assert down_for(place.left(1033), 1033) == 60


def test_the_last_arm_that_is_up_stays() -> None:
    place = Place(arms=(Arm(id="a"), Arm(id="b"), Arm(id="c", retired=True)))
    assert [place.left(1000 + i, arm="a", endpoint="") is None for i in range(3)] == [True, True, False]
    assert [place.left(1010 + i, arm="b", endpoint="") for i in range(9)] == [None] * 9
    assert list(place.configuration.unavailable(1_019_000_000)) == ["a"]
    # Once the other is back, it may go.
    assert place.left(1040, arm="b", endpoint="") is not None


def test_of_the_last_arm_one_endpoint_may_be_out_but_not_the_last() -> None:
    place = Place(arms=ARMS[:1])
    assert outage(place, 1000) == 30
    assert [place.left(1001 + i, endpoint="west") for i in range(9)] == [None] * 9


def test_endpoints_that_the_arm_has_not_are_nobody_s() -> None:
    place = Place()
    assert [place.left(1000 + i, endpoint="") for i in range(9)] == [None] * 9
    retired = msgspec.structs.replace(ARMS[0], retired=True)
    place.configuration = place.configuration.apply(ArmPut(arm=retired))
    assert [place.left(1010 + i) for i in range(9)] == [None] * 9


@given(st.lists(st.tuples(st.floats(0, 200), st.sampled_from([DOWN, FAILED]), st.sampled_from("ab"))))
def test_an_arm_is_always_left_and_whoever_is_out_returns(reports: list[tuple[float, EscalationReason, str]]) -> None:
    place = Place(Failover(errors=1, error_share=0.0, window_seconds=50.0, cool_down_seconds=50.0))
    for at, reason, arm in reports:
        at_us = int((1000 + at) * 1e6)
        out = place.left(1000 + at, reason, arm=arm, endpoint="east" if arm == "a" else "")
        assert out is None or (reason is DOWN and out.until_us > at_us)
        assert len(place.configuration.unavailable(at_us)) < 2
    assert place.configuration.unavailable(int(1e6 * (1000 + 200 + 3600)) + 1) == {}
