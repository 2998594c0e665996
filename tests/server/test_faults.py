"""The engine while its store fails: nothing half-done is answered, and it comes back."""

import asyncio
import threading
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from server.commands import Reward, Select
from server.config import parse
from server.engine import Engine
from server.ids import DecisionIds, repeat
from server.routers import Router
from server.startup import bring_up
from server.store.epochs import EpochFiles
from server.store.errors import StoreUnavailable
from server.store.sqlite import SqliteStore


class Flaky:
    """A store whose appends fail when told to, before or after the events have entered the log."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.failing = ""
        self.free = threading.Event()
        """While it is not set, appends wait."""
        self.free.set()

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    def append(self, events):
        self.free.wait()
        if self.failing == "after":
            self._store.append(events)
        if self.failing:
            raise StoreUnavailable("the disk is full")
        return self._store.append(events)

    def recover(self) -> int:
        if self.failing:
            raise StoreUnavailable("the disk is full")
        return self._store.recover()


@asynccontextmanager
async def running(data_dir: Path):
    store, epochs = Flaky(SqliteStore.open(data_dir)), EpochFiles(data_dir)
    text = '[service]\nfitter = "inline"\n[router]\npolicy = "uniform"\n[[arms]]\nid = "a"\n[[arms]]\nid = "b"\n'
    routers = {"default": Router("default")}
    fitting = bring_up(parse(text, "test"), store, epochs, routers, data_dir)
    health: list[bool] = []
    engine = Engine(
        store=store, epochs=epochs, routers=routers, cached_sessions=100, hint=fitting.hint, on_health=health.append
    )
    try:
        yield engine, store, health
    finally:
        await engine.close()
        store.close()


def select(engine: Engine, session: str, request: str = ""):
    known = repeat("default", "Select", request, session.encode())
    return engine.answer(known, lambda: engine.select(Select(router="default", session_id=session, request_id=request)))


@pytest.mark.parametrize("failing", ["before", "after"])
def test_what_cannot_be_made_durable_is_not_answered(tmp_path, failing):
    async def run() -> None:
        async with running(tmp_path) as (engine, store, health):
            kept = await select(engine, "kept", "kept")
            store.failing = failing
            lost = await asyncio.gather(
                *(select(engine, f"lost-{i}", f"lost-{i}") for i in range(5)),
                select(engine, "kept"),
                return_exceptions=True,
            )
            assert all(isinstance(answer, StoreUnavailable) for answer in lost)
            assert health == [False]
            with pytest.raises(StoreUnavailable):
                await select(engine, "kept", "kept")
            store.failing = ""
            while health[-1] is False:
                await asyncio.sleep(0.01)
            assert await select(engine, "kept", "kept") == kept
            assert (await select(engine, "kept")).decision == kept.decision
            # Whether or not it had entered the log, sending it again comes to one decision.
            again = [await select(engine, f"lost-{i}", f"lost-{i}") for i in range(5)]
            assert [await select(engine, f"lost-{i}", f"lost-{i}") for i in range(5)] == again
            assert len(store.session("default", "lost-0")) == 1
            assert store.verify() == []

    asyncio.run(run())


@pytest.mark.parametrize("failing", ["", "before", "after"])
def test_what_rests_on_events_that_are_not_durable_yet_waits_and_fails_with_them(tmp_path, failing):
    async def run() -> None:
        async with running(tmp_path) as (engine, store, _):
            store.free.clear()
            first = [asyncio.create_task(select(engine, f"s{i}", f"s{i}")) for i in range(32)]
            await asyncio.sleep(0.05)
            # As many again are decided while the first wait: repeats of them, and sessions that they have begun.
            repeats = [asyncio.create_task(select(engine, f"s{i}", f"s{i}")) for i in range(16)]
            sticky = [asyncio.create_task(select(engine, f"s{i}")) for i in range(16)]
            await asyncio.sleep(0.05)
            assert not any(call.done() for call in (*first, *repeats, *sticky))
            store.failing = failing
            store.free.set()
            answers = await asyncio.gather(*first, *repeats, *sticky, return_exceptions=True)
            if failing:
                assert all(isinstance(answer, StoreUnavailable) for answer in answers)
                return
            assert answers[32:48] == answers[:16]
            assert [answer.decision for answer in answers[48:]] == [answer.decision for answer in answers[:16]]
            assert store.last_seq == 36, "two arms, the router, the file that says so, and a decision for each session"

    asyncio.run(run())


def test_a_cancelled_call_does_not_take_others_with_it(tmp_path):
    async def run() -> None:
        async with running(tmp_path) as (engine, store, _):
            calls = [asyncio.create_task(select(engine, f"s{i}")) for i in range(10)]
            await asyncio.sleep(0)
            calls[3].cancel()
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert [isinstance(answer, BaseException) for answer in answers].count(True) == 1
            assert not store.session("default", "s3"), "nobody waits for it any more"
            store.free.clear()
            late, other = (asyncio.create_task(select(engine, name)) for name in ("late", "other"))
            await asyncio.sleep(0.05)
            late.cancel()
            store.free.set()
            await other
            assert len(store.session("default", "late")) == 1, "it was under way and may as well stay"

    asyncio.run(run())


def test_sessions_that_left_the_cache_are_rebuilt(tmp_path):
    async def run() -> None:
        async with running(tmp_path) as (engine, _, _):
            first = {i: (await select(engine, f"s{i}")).decision for i in range(150)}
            for i, decision in first.items():
                reward = Reward(router="default", decision_id=decision.decision_id)
                assert (await engine.answer(None, lambda reward=reward: engine.reward(reward))).revision == 1
                assert (await select(engine, f"s{i}")).decision == decision

    asyncio.run(run())


def test_decision_ids_sort_by_time_even_where_the_clock_jumps_back():
    times = iter([1000.0, 1000.0, 1000.001, 5.0, 999.0, 1001.0])
    ids = DecisionIds(lambda: next(times), lambda count: b"\xff" * count)
    made = [ids.next() for _ in range(6)]
    assert made == sorted(set(made))
    assert len({len(one) for one in made}) == 1
