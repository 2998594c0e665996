"""One list of checks that every policy passes, whatever it is made of.

A new policy joins by its specification in `SPECS`, and in `LEARNING` where it learns.
"""

import functools
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy import stats

from bandit import eligibility, moves
from bandit.events import ArmPut, Decided, Event, Rewarded, RouterPut
from bandit.learner import InMemory, Learner
from bandit.policy import AnyPolicy, Distribution, parse
from bandit.session import AttemptRow, SessionChange
from bandit.types import (
    Arm,
    Bar,
    BarKind,
    EscalationReason,
    Features,
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

FIXED = ("uniform", "always:B", "ladder:B>A>C")
LEARNING = (
    *("thompson", "thompson-single", "epsilon", "threshold:0.7", "linucb"),
    *("vw:squarecb", "vw:bag", "vw:regcb", "vw:cover"),
)
SPECS = FIXED + LEARNING

FALSE_ALARM = 1e-6
"""Chance with which a statistical check would fail a policy that is as good as the check asks, were the seed fresh."""

ARMS = tuple(
    Arm(id=name, price=Price(input_usd=price, output_usd=5 * price, cached_usd=price / 10))
    for name, price in [("A", 5.0), ("B", 0.5), ("C", 1.0), ("D", 3.0)]
)
HOSTILE: dict[str, Features] = {
    "none": {},
    "huge": {"number": 1e300, "negative": -1e300, "tiny": 5e-324, "zero": -0.0},
    "long text": {"text": Text("word " * 50_000), "empty": Text(""), "spaces": Text(" \n\t ")},
    "names": {"a:b|c d\ne": "x:1 |y z\n0:1:0.5", "": "", "|": "|", "shared |s": "\0", "ünï": "日本語 🚂"},
    "embedding": {
        "long": tuple(float(i) for i in range(1000)),
        "none": (),
        "nought": (0.0, 0.0),
        "large": (1e300,) * 9,
    },
    "many": {f"category {i}": f"value {i}" for i in range(500)},
    "unlike before": {"files": "many", "kind": 3.0, "flag": Text("yes"), "title": True, "vector": "v"},
}


def features(i: int) -> Features:
    """What session number `i` is about: some of it always there, some appearing and vanishing."""
    context: Features = {"kind": ("bug", "docs", "test")[i % 3], "files": float(i % 7)}
    if i % 2:
        context["title"] = Text(f"fix the {('parser', 'cache', 'socket')[i % 3]} in module {i % 5}")
    if i % 3 == 1:
        context["flag"] = i % 2 == 0
    if i > 15:
        context["vector"] = (float(i % 4), 1.0, -1.0)
    return context


def situation(
    offers: tuple[Offer, ...] | None = None, *, session: int | str = 0, about: Features | None = None, **rest: Any
) -> Situation:
    return Situation(
        router="default",
        seed=3,
        session_id=str(session),
        features=features(1) if about is None else about,
        offers=eligibility.offers(ARMS) if offers is None else offers,
        **{
            "attempt": 1,
            "attempts_left": 3,
            "objective": Objective(),
            "exploration_floor": 0.02,
            "draws": 64,
            "alpha": 0.6,
            **rest,
        },
    )


def barred(*names: str, kind: BarKind = BarKind.POLICY) -> tuple[Offer, ...]:
    bar = Bar(kind, "so")
    return tuple(Offer(arm=arm.id, price=arm.price, bar=bar if arm.id in names else None) for arm in ARMS)


SITUATIONS: dict[str, Situation] = {
    "the first attempt": situation(),
    "some barred": situation(barred("B", "D")),
    "one eligible": situation(barred("A", "B", "C")),
    "an arm never seen": situation((*eligibility.offers(ARMS), Offer(arm="new", price=Price(input_usd=1.0)))),
    "only arms never seen": situation((Offer(arm="x"), Offer(arm="y:|z"))),
    "arms removed": situation(eligibility.offers(ARMS[1:3])),
    "no prices": situation(tuple(Offer(arm=arm.id) for arm in ARMS)),
    "free arms": situation(tuple(Offer(arm=arm.id, price=Price()) for arm in ARMS)),
    "after an alarm": situation(
        barred("B", kind=BarKind.TRIED), attempt=2, attempts_left=2, alarmed=("B",), may_stop=True
    ),
    "after two": situation(
        barred("A", "B", kind=BarKind.TRIED), attempt=3, attempts_left=1, alarmed=("A", "B"), may_stop=True
    ),
    "rerouted": situation(barred("B", kind=BarKind.TRIED), attempt=2),
    "a cap on cost": situation(cost_cap_usd=20.0),
    "no floor": situation(exploration_floor=0.0),
    "nothing but floor": situation(exploration_floor=1.0),
    "a penny a success": situation(objective=Objective(value_usd=0.01)),
    "a fortune a success": situation(objective=Objective(value_usd=1e6)),
    "a floor": situation(objective=Objective(quality_floor=0.7)),
    "a floor after an alarm": situation(
        barred("B", kind=BarKind.TRIED),
        attempt=2,
        attempts_left=2,
        alarmed=("B",),
        may_stop=True,
        objective=Objective(quality_floor=0.9, quality_floor_relative=True),
    ),
    "seconds at a price": situation(objective=Objective(latency_usd_per_second=0.01)),
    "a tight budget": situation(budget_price=3.0),
    "to be read again": situation(reread_tokens=100_000, cost_cap_usd=20.0),
    **{f"features: {name}": situation(about=about) for name, about in HOSTILE.items()},
}


class Play:
    """Sessions of a policy on a router in memory, and all of its events."""

    def __init__(self, spec: str, seed: int = 0) -> None:
        priced = Objective(latency_usd_per_second=1e-3)
        self.settings = RouterSettings(seed=seed, policy=spec, draws=64, objective=priced)
        self.sessions = InMemory()
        self.learner = Learner(self.sessions)
        self.events: list[tuple[int, Event, str]] = []
        self.hashes: dict[int, str] = {}
        """Sequence number of the last event of an epoch -> its hash."""
        for arm in ARMS:
            self.feed(ArmPut(arm=arm))
        self.feed(RouterPut(settings=self.settings))

    def feed(self, event: Event, session_id: str = "") -> None:
        seq = len(self.events) + 1
        self.events.append((seq, event, session_id))
        if self.learner.feed(seq, event, session_id):
            self.hashes[seq] = self.learner.vintage.epoch_hash  # type: ignore[union-attr]

    def begin(self, session_id: str, about: Features) -> str:
        """Selects: the arm."""
        event = moves.select(
            self.settings,
            self.learner.vintage,  # type: ignore[arg-type]
            None,
            session_id=session_id,
            features=about,
            offers=eligibility.offers(ARMS),
            decision_id=f"{session_id}-1",
        )
        assert isinstance(event, Decided)
        self.feed(event, session_id)
        return event.decision.arm

    def escalate(self, session_id: str, reason: EscalationReason, outcome: Outcome) -> str | None:
        """Leaves the running attempt: the next arm, or None."""
        session = self.sessions.get(session_id)
        assert session is not None
        events = moves.escalate(
            self.settings,
            self.learner.vintage,  # type: ignore[arg-type]
            session,
            decision_id=session.attempts[-1].decision.decision_id,
            reason=reason,
            offers=eligibility.offers(ARMS),
            next_decision_id=f"{session_id}-{len(session.attempts) + 1}",
            outcome=outcome,
        )
        for event in events:
            self.feed(event, session_id)
        return events[1].decision.arm if len(events) == 2 else None

    def reward(self, session_id: str, outcome: Outcome) -> None:
        session = self.sessions.get(session_id)
        assert session is not None
        self.feed(Rewarded(session_id=session_id, outcome=outcome, revision=session.revision + 1), session_id)


def lively(spec: str, n: int) -> Play:
    """Sessions with all that may happen: alarms, reroutes, late, partial, missing and corrected outcomes."""
    play = Play(spec)
    rng = np.random.default_rng(0)
    chance = {"A": 0.9, "B": 0.7, "C": 0.4, "D": 0.1}
    for i in range(n):
        arm: str | None = play.begin(f"s{i}", features(i))
        usage = Usage(input_tokens=float(rng.integers(1e5)), output_tokens=float(rng.integers(1e4)))
        while arm is not None:
            good = bool(rng.random() < chance[arm])
            if not good and rng.random() < 0.8:
                arm = play.escalate(f"s{i}", EscalationReason.VERIFIED_FAILURE, Outcome(cost_usd=rng.exponential()))
            elif rng.random() < 0.1:
                arm = play.escalate(f"s{i}", EscalationReason.CAPABILITY, Outcome(usage=usage))
            else:
                break
        match i % 6:
            case 0:
                play.reward(f"s{i}", Outcome(success=float(good), usage=usage, latency_seconds=float(rng.gamma(2, 99))))
            case 1:
                play.reward(f"s{i}", Outcome(cost_usd=0.0))
                play.reward(f"s{i}", Outcome(success=float(good)))
            case 2:
                play.reward(f"s{i}", Outcome(success=0.5, cost_usd=1.0, latency_seconds=0.0))
            case 3 if i > 12:
                play.reward(f"s{i - 12}", Outcome(success=0.0, cost_usd=2.0))
            case 4:
                play.reward(f"s{i}", Outcome(success=float(good), cost_usd=1.0, served_arm="D"))
            case _:
                pass
    return play


@functools.cache
def played(spec: str) -> Play:
    """A lively history, shared by the checks, which only read it."""
    return lively(spec, 30)


def changes(play: Play) -> list[SessionChange]:
    """All that a play taught, as one block."""
    rows = ((session.session_id, session.rows()) for session in play.sessions.everything())
    return [SessionChange(session_id=session_id, before=(), after=after) for session_id, after in rows if after]


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def policy(spec: str) -> AnyPolicy:
    return parse(spec)


@pytest.fixture(params=["fresh", "learned"])
def state(request: pytest.FixtureRequest, spec: str, policy: AnyPolicy) -> Any:
    if request.param == "fresh":
        return policy.start(ARMS)
    vintage = played(spec).learner.vintage
    assert vintage is not None
    return vintage.state


@pytest.fixture(params=SITUATIONS)
def at(request: pytest.FixtureRequest) -> Situation:
    return SITUATIONS[request.param]


def assert_equal(one: Distribution, other: Distribution) -> None:
    assert np.array_equal(one.propensities, other.propensities)
    assert one.stop_propensity == other.stop_propensity
    assert one.bars == other.bars
    assert [one.plan(i) for i in np.flatnonzero(one.propensities)] == [
        other.plan(i) for i in np.flatnonzero(other.propensities)
    ]
    assert (one.beliefs is None) == (other.beliefs is None)
    if one.beliefs is not None and other.beliefs is not None:
        for name, values in vars(one.beliefs).items():
            assert np.array_equal(values, getattr(other.beliefs, name)), name


# One distribution


def test_it_is_a_distribution_over_the_eligible(policy: AnyPolicy, state: Any, at: Situation) -> None:
    answer = policy.distribution(state, at)
    assert answer.propensities.shape == (len(at.offers),)
    assert answer.propensities.dtype == np.float64
    assert np.all(answer.propensities >= 0.0)
    assert answer.propensities.sum() == pytest.approx(1.0, abs=1e-12)
    bars = answer.bars or tuple(offer.bar for offer in at.offers)
    for offer, bar, p in zip(at.offers, bars, answer.propensities.tolist(), strict=True):
        assert bar == offer.bar or offer.bar is None, "a policy adds bars and takes none away"
        assert bar is None or p == 0.0


def test_a_learning_policy_keeps_the_floor(spec: str, policy: AnyPolicy, state: Any, at: Situation) -> None:
    if spec not in LEARNING:
        return
    answer = policy.distribution(state, at)
    open_arms = np.array([bar is None for bar in answer.bars or tuple(offer.bar for offer in at.offers)])
    least = at.exploration_floor / np.count_nonzero(open_arms)
    assert np.all(answer.propensities[open_arms] >= least * (1.0 - 1e-9))


def test_giving_up_is_an_answer_only_where_it_is_allowed(policy: AnyPolicy, state: Any, at: Situation) -> None:
    stop = policy.distribution(state, at).stop_propensity
    assert 0.0 <= stop <= 1.0
    assert at.may_stop or stop == 0.0


def test_what_it_believes_lies_in_its_domain(policy: AnyPolicy, state: Any, at: Situation) -> None:
    beliefs = policy.distribution(state, at).beliefs
    if beliefs is None:
        return
    for values in vars(beliefs).values():
        assert values.shape == (len(at.offers),)
        assert np.all(np.isfinite(values))
    for rate in (beliefs.success_low, beliefs.success_mean, beliefs.success_high):
        assert np.all((rate >= 0.0) & (rate <= 1.0))
    assert np.all(beliefs.success_low <= beliefs.success_high)
    assert np.all(beliefs.cost_usd >= 0.0)


def test_its_plan_leads_to_other_eligible_arms(policy: AnyPolicy, state: Any, at: Situation) -> None:
    answer = policy.distribution(state, at)
    open_arms = {offer.arm for offer in at.offers if offer.bar is None}
    for i in np.flatnonzero(answer.propensities):
        plan = answer.plan(int(i))
        assert set(plan) <= open_arms - {at.offers[i].arm}
        assert len(set(plan)) == len(plan) <= at.attempts_left - 1
        assert policy.climbs or plan == ()


def test_it_is_a_pure_function(policy: AnyPolicy, state: Any, at: Situation) -> None:
    said, known = msgspec.json.encode(at), policy.dump(state)
    first = policy.distribution(state, at)
    policy.distribution(state, situation(session="another", about=features(2)))
    assert_equal(first, policy.distribution(state, at))
    assert_equal(first, parse(policy.spec).distribution(state, at))
    assert msgspec.json.encode(at) == said
    assert policy.dump(state) == known


def test_a_decision_survives_the_log(policy: AnyPolicy, state: Any, at: Situation) -> None:
    """What is recomputed from a situation that was written and read is what was decided."""
    read = msgspec.json.decode(msgspec.json.encode(at), type=Situation)
    assert_equal(policy.distribution(state, at), policy.distribution(state, read))


# States


def test_a_state_dumped_and_loaded_is_the_same_state(policy: AnyPolicy, state: Any, at: Situation) -> None:
    blob = policy.dump(state)
    again = policy.load(blob)
    assert policy.dump(again) == blob
    assert_equal(policy.distribution(state, at), policy.distribution(again, at))


def test_folding_is_deterministic_and_leaves_the_state_as_it_was(spec: str, policy: AnyPolicy, state: Any) -> None:
    news = changes(played(spec))
    before, said = policy.dump(state), msgspec.json.encode(news)
    one, other = policy.fold(state, ARMS, news), policy.fold(policy.load(before), ARMS, news)
    assert policy.dump(state) == before
    assert msgspec.json.encode(news) == said
    assert policy.dump(one) == policy.dump(other)
    if spec in LEARNING:
        assert policy.dump(one) != before


def test_a_session_told_twice_teaches_once(spec: str, policy: AnyPolicy) -> None:
    """It comes to what a block without news comes to, up to rounding: a draw or two of the 64 may tip over."""
    news = changes(played(spec))
    once = policy.fold(policy.start(ARMS), ARMS, news)
    again = [SessionChange(session_id=c.session_id, before=c.after, after=c.after) for c in news]
    twice, control = policy.fold(once, ARMS, again), policy.fold(once, ARMS, [])
    for i in range(5):
        at = situation(session=i, about=features(i))
        assert policy.distribution(twice, at).propensities == pytest.approx(
            policy.distribution(control, at).propensities, abs=0.05
        )


def test_arms_may_come_while_it_learns(spec: str, policy: AnyPolicy, state: Any) -> None:
    more = (*ARMS, Arm(id="new", price=Price(input_usd=2.0, output_usd=8.0)))
    offers = eligibility.offers(more)
    decided = policy.distribution(state, situation(offers))
    grown = policy.fold(state, more, [])
    new = next(c for c in changes(played(spec)) if c.after)
    told = SessionChange(
        session_id="new", before=(), after=(msgspec.structs.replace(new.after[0], arm="new", success=1.0),)
    )
    for after in (grown, policy.fold(grown, more, [told])):
        answer = policy.distribution(after, situation(offers))
        assert answer.propensities.sum() == pytest.approx(1.0, abs=1e-12)
        assert answer.propensities.shape == decided.propensities.shape


@pytest.mark.parametrize("about", HOSTILE.values(), ids=HOSTILE)
def test_it_learns_from_hostile_features(spec: str, policy: AnyPolicy, state: Any, about: Features) -> None:
    def hostile(row: AttemptRow) -> AttemptRow:
        where = msgspec.structs.replace(row.decision.situation, features=about)
        return msgspec.structs.replace(row, decision=msgspec.structs.replace(row.decision, situation=where))

    news = [
        SessionChange(session_id=c.session_id, before=(), after=tuple(map(hostile, c.after)))
        for c in changes(played(spec))
    ]
    after = policy.fold(state, ARMS, news)
    for at in (situation(about=about), situation(), situation(about={})):
        answer = policy.distribution(after, at)
        assert answer.propensities.sum() == pytest.approx(1.0, abs=1e-12)
        assert np.all(answer.propensities >= 0.0)


@pytest.mark.parametrize(
    "outcome",
    [
        {"cost_usd": 1e12, "success": 1.0},
        {"cost_usd": 0.0, "success": 0.5},
        {"cost_usd": None, "success": 0.0},
        {"cost_usd": 1.0, "success": None},
        {"usage": Usage(input_tokens=1e15), "cost_usd": None, "success": 1.0},
        {"usage": Usage(), "cost_usd": None, "success": 1.0},
        {"latency_seconds": 1e12, "success": 1.0},
        {"latency_seconds": 0.0, "success": 1.0},
    ],
    ids=str,
)
def test_it_learns_from_extreme_outcomes(spec: str, policy: AnyPolicy, state: Any, outcome: dict[str, Any]) -> None:
    news = [
        SessionChange(
            session_id=c.session_id, before=(), after=tuple(msgspec.structs.replace(row, **outcome) for row in c.after)
        )
        for c in changes(played(spec))
    ]
    after = policy.fold(state, ARMS, news)
    answer = policy.distribution(after, situation())
    assert answer.propensities.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.all(answer.propensities >= 0.0)


# The fold of a log


def test_a_learner_that_stopped_goes_on_to_the_same_epochs(spec: str) -> None:
    play = played(spec)
    ends = sorted(play.hashes)
    for stop in (ends[len(ends) // 2], ends[-3]):
        sessions = InMemory()
        learner = Learner(sessions)
        for seq, event, session_id in play.events[:stop]:
            learner.feed(seq, event, session_id)
        blob = learner.snapshot()
        resumed = Learner.resume(blob, sessions)
        assert resumed.snapshot() == blob
        for seq, event, session_id in play.events[stop:]:
            if resumed.feed(seq, event, session_id):
                assert resumed.vintage is not None
                assert resumed.vintage.epoch_hash == play.hashes[seq], f"epoch after event {seq}, resumed at {stop}"


def test_equal_histories_give_equal_bytes(spec: str) -> None:
    assert lively(spec, 12).hashes == lively(spec, 12).hashes


def test_a_policy_that_takes_over_learns_from_what_was_logged(spec: str, policy: AnyPolicy) -> None:
    """Also from pinned sessions, from other policies' propensities and from attempts after the first."""
    news = changes(played("thompson"))
    pinned = [
        msgspec.structs.replace(
            c,
            session_id=f"pinned {c.session_id}",
            after=tuple(
                msgspec.structs.replace(
                    row,
                    decision=msgspec.structs.replace(
                        row.decision, decision_id=f"pinned {row.decision.decision_id}", reason=SelectReason.PINNED
                    ),
                )
                for row in c.after
            ),
        )
        for c in news
    ]
    after = policy.fold(policy.start(ARMS), ARMS, news + pinned)
    assert policy.distribution(after, situation()).propensities.sum() == pytest.approx(1.0, abs=1e-12)


# Learning


def easy(_i: int, arm: str) -> Outcome:
    """One arm always resolves the session and is cheap; the others never do and are dear."""
    return Outcome(success=float(arm == "C"), cost_usd=0.1 if arm == "C" else 1.0)


def easy_by_kind(i: int, arm: str) -> Outcome:
    """Which arm resolves it depends on the kind of work."""
    good = arm == ("A", "C", "D")[i % 3]
    return Outcome(success=float(good), cost_usd=0.1 if good else 1.0)


@pytest.mark.parametrize(("world", "sessions"), [(easy, 200), pytest.param(easy_by_kind, 400, marks=pytest.mark.long)])
@pytest.mark.parametrize("spec", LEARNING)
def test_where_it_is_easy_it_beats_chance(spec: str, world: Callable[[int, str], Outcome], sessions: int) -> None:
    """In the second half it takes the good arm more often than the uniform policy would but once in `FALSE_ALARM`."""
    play = Play(spec, seed=11)
    good = 0
    for i in range(sessions):
        arm = play.begin(f"s{i}", {"kind": ("bug", "docs", "test")[i % 3]})
        outcome = world(i, arm)
        play.reward(f"s{i}", outcome)
        good += i >= sessions // 2 and outcome.success == 1.0
    assert good > stats.binom.isf(FALSE_ALARM, sessions - sessions // 2, 1 / len(ARMS))
