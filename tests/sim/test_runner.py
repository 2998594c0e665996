"""Runs of policies whose figures are known, and what a run tells the learner."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from bandit import policy_file
from bandit.errors import InvalidInput
from bandit.events import ArmPut, Decided, Escalated, Event, Rewarded, RouterPut
from bandit.learner import Learner
from bandit.pacing import NO_PACE
from bandit.session import Session, apply
from bandit.types import Arm, Outcome, Price, RouterSettings, Usage
from sim import references, runner, spread, synthetic
from sim.world import Change, Table, Task, Terms

ARMS = ("a", "b", "c")


def table(*, binary: bool, n_tasks: int = 40, seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    success = rng.random((n_tasks, len(ARMS)))
    return Table(
        name="random",
        arms=tuple(Arm(id=name) for name in ARMS),
        tasks=tuple(Task(id=f"t{i}", features={"category": f"c{i % 3}", "size": float(i)}) for i in range(n_tasks)),
        success=np.round(success) if binary else success,
        cost_usd=rng.exponential(0.5, (n_tasks, len(ARMS))),
        usage=np.concatenate([rng.integers(1, 9, (n_tasks, 3, 2)), np.zeros((n_tasks, 3, 1))], axis=2),
        latency_seconds=np.full((n_tasks, 3), np.nan),
    )


@pytest.mark.parametrize(
    ("policy", "ladder"), [("always:b", (1,)), ("ladder:c>a", (2, 0)), ("ladder:a>b>c", (0, 1, 2))]
)
@pytest.mark.parametrize("terms", [Terms(), Terms(detect=0.0), Terms(false_alarm=1.0)], ids=repr)
def test_fixed_policies_come_to_exactly_their_reference(policy: str, ladder: tuple[int, ...], terms: Terms) -> None:
    world = table(binary=True)
    run = runner.run(world, terms, policy, 3)
    expected = references.along(ladder, world.success, world.cost_usd, terms)
    assert sorted(run.task.tolist()) == list(range(40))
    assert run.success.tolist() == expected.success[run.task].tolist()
    assert run.cost_usd == pytest.approx(expected.cost_usd[run.task], abs=1e-12)


@pytest.mark.long
def test_chances_detection_and_false_alarms_agree_with_the_reference_on_average() -> None:
    """Utility within 5 standard errors: a false failure in 1.7 million."""
    world = table(binary=False, n_tasks=10)
    terms = Terms(value_usd=2.0, detect=0.7, false_alarm=0.2)
    run = runner.run(world, terms, "ladder:b>c>a", 1, sessions=20_000)
    expected = references.along((1, 2, 0), world.success, world.cost_usd, terms).utility(terms)
    gap = terms.value_usd * run.success - run.cost_usd - expected[run.task]
    assert abs(gap.mean()) < 5 * gap.std() / math.sqrt(len(gap))


def test_attempts_are_limited() -> None:
    world = table(binary=False)
    run = runner.run(world, Terms(false_alarm=1.0, max_attempts=2), "ladder:a>b>c", 0)
    assert run.attempts.tolist() == [2] * 40


def test_policies_meet_the_same_tasks_truths_and_alarms() -> None:
    """A ladder's first attempts are those of its first arm alone."""
    world = table(binary=False)
    terms = Terms(detect=0.5, false_alarm=0.2)
    alone = runner.run(world, terms, "always:b", 4)
    first = runner.run(world, terms, "ladder:b>a", 4)
    once = first.attempts == 1
    assert alone.task.tolist() == first.task.tolist()
    assert 0 < once.sum() < 40
    assert alone.success[once].tolist() == first.success[once].tolist()


def test_the_learner_hears_what_the_chosen_arms_did_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[int, Event]] = []

    class Listening(Learner):
        def feed(self, seq: int, event: Event, session_id: str = "", at_us: int = 0) -> bool:
            heard.append((seq, event))
            return super().feed(seq, event, session_id, at_us)

    monkeypatch.setattr(runner, "Learner", Listening)
    world = table(binary=True)
    run = runner.run(world, Terms(), "uniform", 2)
    assert [seq for seq, _ in heard] == list(range(1, len(heard) + 1))
    events = [event for _, event in heard]
    assert [type(event) for event in events[:4]] == [ArmPut, ArmPut, ArmPut, RouterPut]
    decided = {e.decision.decision_id: e.decision for e in events if isinstance(e, Decided)}
    assert len(decided) == run.attempts.sum()
    ended = [e for e in events if isinstance(e, Rewarded)]
    assert [e.session_id for e in ended] == [f"2-{i}" for i in range(40)]
    for event in events:
        if not isinstance(event, Escalated | Rewarded):
            continue
        decision = decided[event.decision_id]
        task, arm = int(run.task[int(decision.session_id.split("-")[1])]), ARMS.index(decision.arm)
        assert event.outcome.cost_usd == world.cost_usd[task, arm]
        assert event.outcome.latency_seconds is None
        tokens = world.usage[task, arm].tolist() if world.usage is not None else []
        assert event.outcome.usage == Usage(input_tokens=tokens[0], output_tokens=tokens[1])
        if isinstance(event, Escalated):
            assert event.outcome.success is None
        else:
            assert event.final
            assert event.outcome.success == world.success[task, arm]


def test_sessions_are_drawn_with_replacement() -> None:
    world = table(binary=True, n_tasks=5)
    order = runner.tasks_of(0, world, 200)
    assert len(order) == 200
    assert set(order.tolist()) == set(range(5))
    world = table(binary=True, n_tasks=50)
    assert runner.tasks_of(0, world, None).tolist() != runner.tasks_of(1, world, None).tolist()


def changing(at: int) -> Table:
    """Arm b is cut in price, c is retired and d comes, each where the change is."""
    world = table(binary=True)
    success, cost = np.hstack([world.success, world.success[:, :1]]), np.hstack([world.cost_usd, world.cost_usd[:, :1]])
    success[:at, 3] = cost[:at, 3] = success[at:, 2] = cost[at:, 2] = np.nan
    put = (
        Arm(id="b", price=Price(input_usd=1.0, output_usd=1.0)),
        Arm(id="c", retired=True),
        Arm(id="d"),
    )
    return replace(
        world, success=success, cost_usd=cost, usage=None, latency_seconds=None, changes=(Change(at=at, put=put),)
    )


def test_a_change_is_fed_before_its_session_and_each_task_comes_in_its_time() -> None:
    world = changing(at=15)
    heard: list[Event] = []
    run = runner.run(world, Terms(), "uniform", 0, log=lambda seq, at_us, event, session_id: heard.append(event))
    assert sorted(run.task[:15].tolist()) == list(range(15))
    assert sorted(run.task[15:].tolist()) == list(range(15, 40))
    begun = [i for i, e in enumerate(heard) if isinstance(e, Decided) and e.decision.attempt == 1]
    puts = [i for i, e in enumerate(heard) if isinstance(e, ArmPut)]
    assert [heard[i] for i in puts[3:]] == [ArmPut(arm=arm) for arm in world.changes[0].put]
    assert begun[14] < puts[3] < puts[-1] < begun[15]
    for number, at in enumerate(begun):
        event = heard[at]
        assert isinstance(event, Decided)
        offers = {offer.arm: offer for offer in event.decision.situation.offers}
        assert ("d" in offers) == (number >= 15)
        assert (offers["c"].bar is not None) == (number >= 15)
        assert (offers["b"].price is not None) == (number >= 15)
    longer = runner.tasks_of(0, world, 1000)
    assert longer[:15].max() < 15 <= longer[15:].min()
    assert runner.tasks_of(0, world, 10).max() < 15


@pytest.mark.parametrize("verdicts", [(0.0, 1.0), (0.3, 0.8)])
def test_verdicts_go_missing_as_often_as_the_world_says(verdicts: tuple[float, float]) -> None:
    """Within 5 standard errors: a false failure in 1.7 million for each of the two shares."""
    told: list[float | None] = []

    def listen(seq: int, at_us: int, event: Event, session_id: str) -> None:
        if isinstance(event, Rewarded):
            assert event.final
            assert event.outcome.cost_usd is not None
            told.append(event.outcome.success)

    world = replace(table(binary=False), verdicts=verdicts)
    run = runner.run(world, Terms(), "always:b", 1, 3000, log=listen)
    for truth, share in enumerate(verdicts):
        known = [verdict is not None for verdict, good in zip(told, run.success, strict=True) if good == truth]
        error = 5 * math.sqrt(share * (1 - share) / len(known))
        assert abs(sum(known) / len(known) - share) <= error
    assert all(verdict in (None, good) for verdict, good in zip(told, run.success, strict=True))


def test_unknown_arms_and_policies_are_refused() -> None:
    for policy in ("always:nobody", "no such policy"):
        with pytest.raises(InvalidInput):
            runner.run(table(binary=True), Terms(), policy, 0)


@pytest.mark.parametrize("policy", ["uniform", "thompson"])
def test_the_number_of_processes_changes_nothing(policy: str) -> None:
    world = table(binary=False)
    terms, policies = Terms(detect=0.9), [policy, "ladder:a>b"]
    told: list[int] = []
    one, two = (
        spread.run_all(
            world,
            terms,
            {name: runner.plain(name, terms) for name in policies},
            seeds=2,
            sessions=30,
            jobs=jobs,
            on_run=lambda: told.append(1),
        )
        for jobs in (1, 2)
    )
    assert len(told) == 8
    assert list(one) == list(two) == policies
    for name in policies:
        for mine, theirs in zip(one[name], two[name], strict=True):
            for field in ("task", "success", "cost_usd", "attempts"):
                assert getattr(mine, field).tolist() == getattr(theirs, field).tolist()


def test_a_seed_is_reproducible_and_another_differs() -> None:
    world = table(binary=False)
    first, again, other = (runner.run(world, Terms(), "uniform", seed) for seed in (5, 5, 6))
    assert first.cost_usd.tolist() == again.cost_usd.tolist()
    assert first.cost_usd.tolist() != other.cost_usd.tolist()


class _Heard(Learner):
    """Notes what it is fed."""

    log: list[tuple[Event, str, int]]

    def feed(self, seq: int, event: Event, session_id: str = "", at_us: int = 0) -> bool:
        self.log.append((event, session_id, at_us))
        return super().feed(seq, event, session_id, at_us)


def heard(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Event, str, int]]:
    log: list[tuple[Event, str, int]] = []
    monkeypatch.setattr(_Heard, "log", log, raising=False)
    monkeypatch.setattr(runner, "Learner", _Heard)
    return log


def test_with_a_delay_all_but_the_alarm_is_told_that_many_sessions_later(monkeypatch: pytest.MonkeyPatch) -> None:
    log = heard(monkeypatch)
    world = table(binary=True)
    run = runner.run(world, Terms(delay=7), "uniform", 2)
    begun = 0
    told: dict[str, int] = {}
    outcomes: dict[str, list[Rewarded]] = {}
    attempts: dict[str, list[str]] = {}
    for event, session_id, at_us in log:
        match event:
            case Decided(decision=decision):
                begun += decision.attempt == 1
                assert at_us == (begun - 1) * 1_000_000
                attempts.setdefault(session_id, []).append(decision.decision_id)
            case Escalated(outcome=outcome):
                assert outcome == Outcome()
            case Rewarded():
                told[session_id] = begun
                outcomes.setdefault(session_id, []).append(event)
    assert begun == 40
    for i in range(40):
        name = f"2-{i}"
        assert told[name] == min(40, i + 1 + 7)
        reports = [event for event in outcomes[name] if not event.final]
        (last,) = (event for event in outcomes[name] if event.final)
        assert outcomes[name][-1] == last
        assert last.decision_id == attempts[name][-1]
        assert last.outcome.success == run.success[i]
        assert all(event.outcome.success is None for event in reports)
        told_usd = {event.decision_id: event.outcome.cost_usd or 0.0 for event in outcomes[name]}
        assert list(told_usd) == attempts[name]
        assert sum(told_usd.values()) == pytest.approx(run.cost_usd[i])


@pytest.mark.parametrize("delay", [3, 1000])
def test_a_delay_changes_nothing_for_a_policy_that_does_not_learn(delay: int) -> None:
    world = table(binary=False)
    at_once, later = (runner.run(world, Terms(delay=d, detect=0.7), "ladder:a>b", 4) for d in (0, delay))
    assert at_once.success.tolist() == later.success.tolist()
    assert at_once.cost_usd.tolist() == later.cost_usd.tolist()


def test_a_budget_that_is_never_reached_leaves_decisions_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    log = heard(monkeypatch)
    world, terms = synthetic.sample("correlated", n_tasks=60, seed=3), Terms(delay=5, detect=0.9)
    without = runner.plain("thompson", terms)
    objective = msgspec.structs.replace(without.objective, budget_usd=1e6, budget_period_seconds=50.0)
    played = []
    for settings in (without, msgspec.structs.replace(without, objective=objective)):
        runner.run(world, terms, settings, 6)
        decisions = [event.decision for event, _, _ in log if isinstance(event, Decided)]
        assert all(decision.situation.budget_price == 0.0 for decision in decisions)
        played.append([(d.decision_id, d.arm, d.scores, d.ladder, d.epoch_hash) for d in decisions])
        log.clear()
    assert len(played[0]) >= 60
    assert played[0] == played[1]


def test_decisions_are_made_at_the_price_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """The price each decision was made at is that of the pace just before it."""
    log = heard(monkeypatch)
    terms = Terms(delay=5)
    plain = runner.plain("thompson", terms)
    objective = msgspec.structs.replace(plain.objective, budget_usd=5.0, budget_period_seconds=40.0)
    runner.run(
        synthetic.sample("correlated", n_tasks=120, seed=3),
        terms,
        msgspec.structs.replace(plain, objective=objective),
        6,
    )
    sessions: dict[str, Session] = {}
    pace, prices = NO_PACE, []
    for event, session_id, at_us in log:
        if isinstance(event, Decided):
            prices.append(event.decision.situation.budget_price)
            if event.decision.attempt == 1:
                assert prices[-1] == pace.price(objective, at_us)
        before = sessions.get(session_id)
        if (after := apply(before, event)) is not None:
            sessions[session_id] = after
            pace = pace.observe(objective, at_us, before, after)
    assert max(prices) > 0.0


@pytest.mark.long
def test_a_policy_that_learns_keeps_a_budget() -> None:
    """Costs come 100 sessions late; what is still untold at the end has a standard deviation of 0.7 % of the budget.

    Without a budget about 1.6 times as much is spent.
    """
    terms, n_sessions, budget_usd = Terms(delay=100), 2000, 280.0
    plain = runner.plain("thompson-single", terms)
    objective = msgspec.structs.replace(plain.objective, budget_usd=budget_usd, budget_period_seconds=float(n_sessions))
    paced = msgspec.structs.replace(plain, draws=32, objective=objective)
    run = runner.run(synthetic.make("independent"), terms, paced, 0, n_sessions)
    assert abs(run.cost_usd.sum() / budget_usd - 1.0) < 0.03


def test_a_quality_floor_is_held_at_less_cost_than_the_strongest_arm() -> None:
    """A whole run, what is spent on learning included; a success is worth so little that only the floor asks for it.

    Success is compared with .9 of the strongest arm's chance on the same tasks, and cost with that arm's. The bounds
    are 5 standard errors over sessions. Over twelve seeds the success of a run was .022 above the floor with a spread
    of .022 (the standard error is .011), so that a run falls below the bound when it is 3.5 spreads off: once in 4,000.
    The cost was half that of the strongest arm, by 18 standard errors or more. Without the floor success
    was .16 below it, 13 standard errors.
    """
    world, terms = synthetic.make("correlated"), Terms(value_usd=0.25)
    strongest = int(world.success.mean(axis=0).argmax())
    without = runner.plain("thompson-single", terms)
    file = """
        policy = "thompson-single"
        [objective]
        quality_floor = 0.9
        quality_floor_relative = true
    """
    floored = policy_file.parse(file).over(without)

    def standard_errors(settings: RouterSettings) -> tuple[float, float]:
        """By how many the success is above the floor, and the cost above the strongest arm's."""
        run = runner.run(world, terms, settings, 0)
        above = run.success - 0.9 * world.success[run.task, strongest]
        return z(above), z(run.cost_usd - world.cost_usd[run.task, strongest])

    def z(gap: np.ndarray) -> float:
        return float(gap.mean() / gap.std() * math.sqrt(len(gap)))

    success, cost = standard_errors(floored)
    assert success > -5.0
    assert cost < -5.0
    assert standard_errors(without)[0] < -5.0
