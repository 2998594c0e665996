"""Requests of one round, whose arms are drawn together, and changes of the router between them."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bandit import record
from bandit.configuration import Configuration
from bandit.errors import NoEligibleArm
from bandit.events import AvailabilitySet, Decided
from bandit.types import EscalationReason, Requirements
from server.administration import Administration
from server.commands import Choice, Escalate, RetireArm, Select
from server.config import parse
from server.engine import Engine
from server.routers import Router
from server.startup import bring_up
from server.store.epochs import EpochFiles
from server.store.sqlite import SqliteStore

CONFIG = """
[service]
fitter = "inline"
[router]
policy = "uniform"
[[arms]]
id = "a"
[[arms]]
id = "b"
[[arms]]
id = "c"
"""


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def running(data_dir: Path, clock: Time) -> AsyncIterator[tuple[Engine, Administration, SqliteStore]]:
    store, epochs = SqliteStore.open(data_dir), EpochFiles(data_dir)
    routers: dict[str, Router] = {}
    fitting = bring_up(parse(CONFIG, "test"), store, epochs, routers, data_dir)
    engine = Engine(
        store=store,
        epochs=epochs,
        routers=routers,
        cached_sessions=100,
        hint=fitting.hint,
        on_health=lambda _well: None,
        clock=clock,
    )
    try:
        yield engine, Administration(routers, store, clock, lambda: engine.round_us), store
    finally:
        await engine.close()
        store.close()


def select(engine: Engine, session: str, **more):
    return engine.answer(None, lambda: engine.select(Select(router="default", session_id=session, **more)))


def fail(engine: Engine, session: str):
    command = Escalate(router="default", session_id=session, reason=EscalationReason.UNAVAILABLE)
    return engine.answer(None, lambda: engine.escalate(command))


def retire(engine: Engine, administration: Administration, arm: str):
    return engine.answer(None, lambda: administration.retire_arm(RetireArm(router="default", arm=arm)))


def check_log(store: SqliteStore) -> list[AvailabilitySet]:
    """Every decision took an arm that the router had at its place in the log; the outages found there."""
    configuration, outages = Configuration(), []
    for stored in store.read(0, 100_000):
        event = record.decode(stored.kind, stored.body, stored.private).event
        configuration = configuration.apply(event)
        if isinstance(event, AvailabilitySet):
            outages.append(event)
        if isinstance(event, Decided):
            arm = configuration.arm(event.decision.arm)
            assert arm is not None and not arm.retired, stored.seq
            assert arm.id not in configuration.unavailable(stored.at_us), stored.seq
    return outages


def test_a_round_comes_out_as_one_request_after_the_other(tmp_path: Path) -> None:
    rng = random.Random(4)

    async def run() -> None:
        async with running(tmp_path, Time()) as (engine, administration, store):
            only_a = Requirements(allow=frozenset("a"))
            await asyncio.gather(*(select(engine, f"on-a-{i}", requirements=only_a) for i in range(3)))
            calls = [select(engine, f"s{i}") for i in range(120)] + [fail(engine, f"on-a-{i}") for i in range(3)]
            rng.shuffle(calls)
            answers = await asyncio.gather(
                *calls, retire(engine, administration, "b"), *(select(engine, f"t{i}") for i in range(20))
            )
            assert len(check_log(store)) == 1
            assert {answer.decision.arm for answer in answers[-20:] if isinstance(answer, Choice)} == {"c"}

    asyncio.run(run())


def test_who_is_down_returns_when_the_time_has_passed_and_the_clock_may_jump(tmp_path: Path) -> None:
    async def run() -> None:
        clock = Time()
        async with running(tmp_path, clock) as (engine, _, store):
            only_a = Requirements(allow=frozenset("a"))
            for i in range(3):
                await select(engine, f"s{i}", requirements=only_a)
                await fail(engine, f"s{i}")
            (outage,) = check_log(store)
            last = store.last_seq

            async def offered(at: float) -> bool:
                clock.now = at
                try:
                    await select(engine, f"at {at}", requirements=only_a)
                except NoEligibleArm:
                    return False
                return True

            up = outage.until_us / 1e6
            assert [await offered(at) for at in (up - 1, up - 0.001)] == [False, False]
            assert await offered(up)
            # Back and forth: what holds is what the log says of that time.
            assert [await offered(at) for at in (up - 2, up + 3600, up - 3)] == [False, True, False]
            assert store.last_seq == last + 2
            check_log(store)

    asyncio.run(run())
