"""Budget pacing: what is counted, when, and whether spending keeps to the budget."""

import math
from collections import deque
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.events import ArmPut, Decided, Escalated, Event, Rewarded, RouterPut
from bandit.learner import InMemory, Learner
from bandit.pacing import LARGEST_PRICE, NO_PACE, Pace
from bandit.session import Session, apply
from bandit.types import (
    Arm,
    ArmScore,
    Decision,
    EscalationReason,
    Objective,
    Offer,
    Outcome,
    RouterSettings,
    SelectReason,
    Situation,
)

SECOND, HOUR, DAY = 1_000_000, 3_600_000_000, 86_400_000_000
DAILY = Objective(budget_usd=100.0, budget_period_seconds=86_400.0)
NOON = 20_000 * DAY + DAY // 2


def begun(session_id: str, expected_usd: float | None, attempt: int = 1) -> Decided:
    situation = Situation(
        router="r",
        seed=0,
        session_id=session_id,
        attempt=attempt,
        attempts_left=3,
        features={},
        offers=(Offer(arm="a"),),
        objective=DAILY,
        exploration_floor=0.02,
        draws=8,
        alpha=1.0,
    )
    return Decided(
        decision=Decision(
            decision_id=f"{session_id}-{attempt}",
            situation=situation,
            arm="a",
            propensity=1.0,
            reason=SelectReason.SAMPLED,
            scores=(ArmScore(arm="a", propensity=1.0, cost_usd=expected_usd),),
            policy="thompson",
            policy_version="1",
            epoch=0,
            epoch_hash="",
        )
    )


def told(session_id: str, cost_usd: float, revision: int = 1, decision_id: str = "") -> Rewarded:
    return Rewarded(
        session_id=session_id, decision_id=decision_id, outcome=Outcome(cost_usd=cost_usd), revision=revision
    )


class Book:
    """Sessions and the pace after each of their events."""

    def __init__(self, objective: Objective = DAILY, pace: Pace = NO_PACE) -> None:
        self.objective, self.pace = objective, pace
        self.sessions: dict[str, Session] = {}

    def write(self, at_us: int, session_id: str, event: Event) -> None:
        before = self.sessions.get(session_id)
        after = apply(before, event)
        assert after is not None
        self.sessions[session_id] = after
        self.pace = self.pace.observe(self.objective, at_us, before, after)

    def spent(self, now_us: int) -> float | None:
        return self.pace.spent(self.objective, now_us)


def test_an_attempt_is_spent_as_expected_until_its_cost_is_told() -> None:
    book = Book()
    book.write(NOON, "s", begun("s", 2.0))
    assert book.spent(NOON) == 2.0
    book.write(
        NOON, "s", Escalated(decision_id="s-1", reason=EscalationReason.VERIFIED_FAILURE, next_decision_id="s-2")
    )
    book.write(NOON, "s", begun("s", 5.0, attempt=2))
    assert book.spent(NOON) == 7.0
    book.write(NOON, "s", told("s", 2.0, decision_id="s-1"))
    assert book.spent(NOON) == pytest.approx(7.0)
    book.write(NOON, "s", told("s", 4.0))
    assert book.spent(NOON) == pytest.approx(4.0)
    book.write(NOON, "s", told("s", 6.0, revision=2))
    assert book.spent(NOON) == pytest.approx(6.0)


def test_what_is_expected_counts_as_such_expectations_have_turned_out() -> None:
    book = Book()
    for i in range(400):
        book.write(NOON, f"s{i}", begun(f"s{i}", 0.1))
    assert book.spent(NOON) == pytest.approx(40.0)
    for i in range(300):
        book.write(NOON, f"s{i}", told(f"s{i}", 0.3))
    assert book.spent(NOON) == pytest.approx(300 * 0.3 + 100 * 0.3, rel=0.08)


def test_a_policy_that_expects_nothing_is_counted_when_it_is_told() -> None:
    book = Book()
    book.write(NOON, "s", begun("s", None))
    assert book.spent(NOON) is not None and book.pace == NO_PACE
    book.write(NOON, "s", told("s", 3.0))
    assert book.spent(NOON) == 3.0


@given(
    costs=st.lists(st.floats(0.0, 50.0), min_size=1, max_size=8),
    order=st.randoms(use_true_random=False),
    at=st.lists(st.integers(0, DAY // 2 - 1), min_size=40, max_size=40),
)
def test_the_order_of_late_costs_does_not_matter_for_what_is_spent(
    costs: list[float], order: object, at: list[int]
) -> None:
    """Each cost is told thrice: wrong, right, and wrong again under an older revision; whenever and in any order."""
    reports = [
        (f"s{i}", told(f"s{i}", usd, revision))
        for i, cost in enumerate(costs)
        for usd, revision in ((cost + 1.0, 2), (cost, 5), (cost, 5), (9.0, 1))
    ]
    order.shuffle(reports)  # type: ignore[attr-defined]
    book = Book()
    for i in range(len(costs)):
        book.write(NOON, f"s{i}", begun(f"s{i}", 1.0))
    for (session_id, event), later in zip(reports, at, strict=False):
        book.write(NOON + later, session_id, event)
    assert book.spent(NOON + DAY // 2 - 1) == pytest.approx(sum(costs), abs=1e-9)


def test_a_report_that_changes_no_cost_changes_nothing() -> None:
    book = Book()
    book.write(NOON, "s", begun("s", 2.0))
    book.write(NOON, "s", told("s", 3.0))
    pace = book.pace
    book.write(NOON + HOUR, "s", told("s", 3.0, revision=2))
    book.write(NOON + HOUR, "s", Rewarded(session_id="s", outcome=Outcome(success=1.0), revision=3, final=True))
    assert book.pace == pace


def test_every_dollar_counts_in_exactly_one_period() -> None:
    """A cost that is told in a later period than its decision's moves the later one."""
    book = Book()
    book.write(NOON, "s", begun("s", 2.0))
    book.write(NOON + DAY, "s", told("s", 5.0))
    assert book.spent(NOON + DAY) == 3.0
    assert book.spent(NOON + 2 * DAY) == 0.0


def test_periods_are_multiples_of_their_length_since_1970() -> None:
    book = Book()
    book.write(NOON, "s", begun("s", 2.0))
    assert book.spent(NOON + DAY // 2 - 1) == 2.0
    assert book.spent(NOON + DAY // 2) == 0.0


def test_a_budget_set_at_noon_gets_half_of_a_day() -> None:
    """Spending $50 evenly in the half of the day that is left is right, spending $100 is not."""
    right, wrong = Book(), Book()
    for i in range(300):
        now = NOON + i * DAY // 1000
        right.write(now, f"s{i}", begun(f"s{i}", 0.1))
        wrong.write(now, f"s{i}", begun(f"s{i}", 0.2))
    assert right.pace.log_price < 0.5
    assert wrong.pace.log_price > 3.0


def test_without_a_budget_there_is_no_price_and_nothing_is_kept() -> None:
    book = Book(Objective())
    book.write(NOON, "s", begun("s", 2.0))
    assert book.pace == NO_PACE
    assert book.pace.price(Objective(), NOON) == 0.0
    assert book.spent(NOON) is None
    paced = Book(DAILY)
    paced.write(NOON, "s", begun("s", 90.0))
    assert paced.pace.price(DAILY, NOON) > 0.0
    assert paced.pace.price(Objective(), NOON) == 0.0
    before = paced.sessions["s"]
    assert paced.pace.observe(Objective(), NOON, None, before) == NO_PACE


def test_another_amount_goes_on_with_the_period_and_another_length_begins_anew() -> None:
    book = Book()
    book.write(NOON, "s", begun("s", 40.0))
    price = book.pace.price(DAILY, NOON)
    assert price > 0.0
    more = msgspec.structs.replace(DAILY, budget_usd=1000.0)
    assert book.pace.spent(more, NOON) == 40.0
    hourly = msgspec.structs.replace(DAILY, budget_period_seconds=3600.0)
    assert book.pace.spent(hourly, NOON) == 0.0
    assert book.pace.price(hourly, NOON) == price


def test_the_price_falls_while_nothing_is_spent() -> None:
    book = Book()
    book.write(NOON, "s", begun("s", 20.0))
    prices = [book.pace.price(DAILY, NOON + later * HOUR) for later in range(12)]
    assert prices == sorted(prices, reverse=True)
    assert prices[0] > 0.5 > 0.0 == prices[-1]


@pytest.mark.parametrize("budget_usd", [5e-324, 1e-300, 1.0, 1e300])
@pytest.mark.parametrize("cost_usd", [1e-300, 1.0, 1e12])
def test_the_price_is_bounded_whatever_is_spent(budget_usd: float, cost_usd: float) -> None:
    objective = msgspec.structs.replace(DAILY, budget_usd=budget_usd)
    book = Book(objective)
    for i in range(300):
        book.write(NOON + i * HOUR, f"s{i}", begun(f"s{i}", cost_usd))
        assert 0.0 <= book.pace.price(objective, NOON + i * HOUR) <= LARGEST_PRICE * (1 + 1e-12)


def test_one_mistyped_cost_does_not_make_the_pacer_deaf() -> None:
    """Corrected, a cost of a million dollars costs at most a few periods."""
    demand = Demand(n=20_000, seed=3)
    wrong = play(demand, share=0.5, period=2000, mistake=(1000, 1e6))
    assert abs(wrong[-5:].mean()) < 0.03


# --- clocks -------------------------------------------------------------------------------------------------------


def test_a_clock_that_falls_back_over_the_end_of_a_period_does_not_open_the_old_budget_again() -> None:
    book = Book()
    midnight = NOON + DAY // 2
    book.write(midnight - HOUR // 2, "a", begun("a", 60.0))
    book.write(midnight + HOUR // 2, "b", begun("b", 5.0))
    price = book.pace.price(DAILY, midnight)
    book.write(midnight - HOUR // 2, "c", begun("c", 7.0))
    assert book.spent(midnight - HOUR // 2) == 12.0
    assert book.spent(midnight + HOUR // 2) == 12.0
    assert book.pace.price(DAILY, midnight - HOUR // 2) == price


def test_a_clock_that_was_far_ahead_is_not_waited_for() -> None:
    book = Book()
    book.write(NOON + 365 * DAY, "a", begun("a", 60.0))
    book.write(NOON, "b", begun("b", 5.0))
    assert book.spent(NOON) == 5.0


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["ahead", "behind"])
@pytest.mark.parametrize("when", [0.3, 0.99], ids=["in mid-period", "near its end"])
def test_clock_jumps_of_an_hour_do_no_harm(jump: int, when: float) -> None:
    """A day of 10,000 sessions; for an hour of it the clock is wrong. The next days are as if nothing had happened."""
    day = 10_000

    def clock(i: int) -> int:
        right = 20_000 * DAY + i * (DAY // day)
        return right + jump if when * day <= i < (when + 1 / 24) * day else right

    spent = play(Demand(n=3 * day, seed=5), share=0.5, period=day, clock=clock)
    assert abs(spent[0]) < 0.03
    assert abs(spent[1]) < 0.03
    assert abs(spent[2]) < 0.005
    assert abs(spent.mean()) < 0.01


# --- does it keep the budget ----------------------------------------------------------------------------------------

_COST = np.array([0.02, 0.05, 0.12, 0.3, 0.55, 1.0])
_ABILITY = np.log(np.array([0.45, 0.55, 0.65, 0.74, 0.8, 0.84]) / np.array([0.55, 0.45, 0.35, 0.26, 0.2, 0.16]))


class Demand:
    """Sessions that take what is worth its price among six arms, of which they know success and expected cost.

    What an attempt really costs is log-normal about that, with a coefficient of variation of 1.
    """

    value_usd = 2.0

    def __init__(self, *, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        logits = _ABILITY + rng.normal(0.0, 1.0, (n, 1)) + rng.normal(0.0, 0.4, (n, 6))
        self.success = 1.0 / (1.0 + np.exp(-logits))
        self.expected_usd = _COST * np.exp(rng.normal(-0.045, 0.3, (n, 1)))
        sigma = math.sqrt(math.log(2.0))
        self.noise = np.exp(rng.normal(-sigma * sigma / 2.0, sigma, n))

    def taken(self, i: int, price: float) -> int:
        return int((self.value_usd * self.success[i] - (1.0 + price) * self.expected_usd[i]).argmax())

    def unpaced_usd(self) -> float:
        """Mean dollars of a session where money is no object."""
        taken = (self.value_usd * self.success - self.expected_usd).argmax(axis=1)
        return float(np.take_along_axis(self.expected_usd, taken[:, None], axis=1).mean())


def play(
    demand: Demand,
    *,
    share: float,
    period: int,
    delay: int = 200,
    clock: Callable[[int], int] | None = None,
    mistake: tuple[int, float] | None = None,
    prices: list[float] | None = None,
) -> npt.NDArray[np.float64]:
    """Overspending of each period as a share of its budget, which is `share` of what would be spent without.

    Real costs are told `delay` sessions later. Spending is counted by true time, whatever the clock says.
    """
    n = len(demand.noise)
    period_us = DAY if clock is not None else period * SECOND
    budget_usd = share * period * demand.unpaced_usd()
    objective = Objective(budget_usd=budget_usd, budget_period_seconds=period_us / SECOND)
    pace, untold = NO_PACE, deque[tuple[Session, Rewarded]]()
    spent = np.zeros(n)
    for i in range(n):
        now = clock(i) if clock is not None else i * SECOND
        price = pace.price(objective, now)
        if prices is not None:
            prices.append(price)
        arm = demand.taken(i, price)
        expected_usd = float(demand.expected_usd[i, arm])
        spent[i] = expected_usd * demand.noise[i]
        session = apply(None, begun("s", expected_usd))
        assert session is not None
        pace = pace.observe(objective, now, None, session)
        untold.append((session, told("s", float(spent[i]))))
        if mistake is not None and i == mistake[0]:
            wrong = apply(session, told("s", mistake[1], revision=0))
            assert wrong is not None
            pace = pace.observe(objective, now, session, wrong)
            untold[-1] = (wrong, told("s", float(spent[i]), revision=1))
        if len(untold) > delay:
            session, reward = untold.popleft()
            after = apply(session, reward)
            assert after is not None
            pace = pace.observe(objective, now, session, after)
    return np.asarray(spent.reshape(-1, period).sum(axis=1) / budget_usd - 1.0)


@pytest.mark.parametrize("share", [0.95, 0.7, 0.4, 0.15])
def test_spending_is_within_half_a_per_cent_of_the_budget(share: float) -> None:
    """10,000 sessions, costs told 200 sessions later, from a router that knows nothing of its price yet.

    The 200 costs that are still untold at the end have a standard deviation of 0.14 % of the budget together; over
    200 seeds the overshoot was 0.1 % ± 0.16 %.
    """
    assert abs(play(Demand(n=10_000, seed=11), share=share, period=10_000)[0]) < 0.005


def test_a_budget_that_is_not_needed_costs_nothing() -> None:
    prices: list[float] = []
    play(Demand(n=5_000, seed=12), share=1.3, period=5_000, prices=prices)
    assert max(prices[1000:]) == 0.0


def test_the_price_settles() -> None:
    """After a tenth of the period it stays near the price that would have been right all the time."""
    prices: list[float] = []
    play(Demand(n=10_000, seed=13), share=0.5, period=10_000, prices=prices)
    settled = np.log1p(prices[1000:])
    assert settled.std() < 0.12


def test_short_periods_are_kept_to_on_the_whole() -> None:
    over = play(Demand(n=10_000, seed=14), share=0.5, period=500, delay=50)
    assert abs(over.mean()) < 0.01
    assert np.abs(over[1:]).max() < 0.15


# --- the learner's fold -------------------------------------------------------------------------------------------


@settings(deadline=None)  # the first run imports what a learner needs
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.floats(0.0, 60.0), st.integers(-2 * HOUR, 9 * HOUR)),
        min_size=1,
        max_size=25,
    ),
    cut=st.integers(0, 30),
)
def test_a_restart_at_any_event_gives_the_same_pace(steps: list[tuple[int, int, float, int]], cut: int) -> None:
    paced = RouterSettings(id="r", policy="uniform", objective=DAILY)
    log: list[tuple[Event, str, int]] = [(ArmPut(arm=Arm(id="a")), "", NOON), (RouterPut(settings=paced), "", NOON)]
    now, sessions = NOON, 0
    for which, kind, usd, later in steps:
        now += later
        if kind == 0 or not sessions:
            log.append((begun(f"s{sessions}", usd), f"s{sessions}", now))
            sessions += 1
        else:
            session_id = f"s{which % sessions}"
            log.append((told(session_id, usd, revision=kind), session_id, now))
    store = InMemory()
    learner = Learner(store)
    pace = NO_PACE
    book = Book()
    for seq, (event, session_id, at_us) in enumerate(log, start=1):
        if seq == cut and learner.vintage is not None:
            # What came after the newest epoch is read again, over sessions as they were then.
            blob, back = learner.snapshot(), learner.epoch_seq
            again = InMemory()
            for earlier, name, _ in log[:back]:
                if name and (session := apply(again.get(name), earlier)) is not None:
                    again.put(name, session)
            learner = Learner.resume(blob, again)
            for i in range(back, seq - 1):
                learner.feed(i + 1, *log[i])
            assert learner.pace == pace
        learner.feed(seq, event, session_id, at_us)
        if session_id:
            book.write(at_us, session_id, event)
        pace = learner.pace
        assert pace == book.pace
