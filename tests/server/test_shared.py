"""Two engines on one database: whatever both are asked at the same time comes to one decision, counted once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from bandit import record
from bandit.errors import WrongOrder
from bandit.events import Decided, RouterPut
from bandit.types import EscalationReason, Outcome
from server import startup
from server.administration import Administration
from server.commands import Accepted, Escalate, PutArm, Reward, Select, SetAvailability
from server.config import parse
from server.engine import Engine
from server.fold import Fitter
from server.ids import repeat
from server.intake import Offered
from server.rounds import RepeatConflict
from server.routers import Router, refresh
from server.store.errors import StoreFenced, StoreUnavailable
from server.store.protocol import NewEvent

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'pointsman[postgres]'")
from server.store.postgres.place import Postgres
from server.store.postgres.store import PostgresStore

CONFIG = '[router]\npolicy = "uniform"\n[[arms]]\nid = "a"\n[[arms]]\nid = "b"\n[[arms]]\nid = "c"\n'


class Interrupted(PostgresStore):
    """A store into whose appends others come, or which fails when told to."""

    between: Callable[[], None] | None = None
    """Called once, between the taking of a round and its append."""
    looked: Callable[[], None] | None = None
    """Called once, when a round has looked up which of its requests are repeats."""
    lost = False
    """Whether the answer to the next append is lost on the way."""
    appends = 0

    def requests(self, keys):
        found = super().requests(keys)
        if keys and (looked := self.looked) is not None:
            self.looked = None
            looked()
        return found

    def append_unless(self, events, contradict):
        self.appends += 1
        if (between := self.between) is not None:
            self.between = None
            between()
        others = super().append_unless(events, contradict)
        if self.lost:
            self.lost, self._refusing, self._known = False, True, self._before_append
            raise StoreUnavailable("the answer was lost")
        return others


class Replica:
    """An engine, and what it is made of."""

    def __init__(self, url: str, data_dir: Path) -> None:
        place = Postgres(url)
        self.store = Interrupted.open(url)
        self.epochs = place.epochs()
        self.routers: dict[str, Router] = {}
        startup.bring_up_shared(parse(CONFIG, "test"), self.store, self.epochs, self.routers, data_dir)
        self.lease = place.fitter_lease()
        if (token := self.lease.take()) is not None:
            self.epochs.token = token
            Fitter(self.store, self.epochs).catch_up()
        refresh(self.routers, self.store, self.epochs)
        self.store.appends = 0
        self.health: list[bool] = []
        self.engine = Engine(
            store=self.store,
            shared=self.store,
            epochs=self.epochs,
            routers=self.routers,
            cached_sessions=100,
            hint=lambda: None,
            on_health=self.health.append,
        )
        self.admin = Administration(self.routers, self.store, lambda: 0.0, lambda: self.engine.round_us)

    async def select(self, session: str, request: str = "", body: str = ""):
        known = repeat("default", "Select", request, (session + body).encode())
        command = Select(router="default", session_id=session, request_id=request)
        return await self.engine.answer(known, lambda: self.engine.select(command), ("default", session))

    async def escalate(self, session: str, decision: str = "", request: str = ""):
        command = Escalate(
            router="default", session_id=session, decision_id=decision, reason=EscalationReason.VERIFIED_FAILURE
        )
        known = repeat("default", "Escalate", request, session.encode())
        return await self.engine.answer(known, lambda: self.engine.escalate(command), ("default", session))

    async def reward(self, decision: str, request: str = ""):
        known = repeat("default", "Reward", request, decision.encode())
        command = Reward(router="default", decision_id=decision, outcome=Outcome(success=1.0))
        return await self.engine.answer(known, lambda: self.engine.reward(command))

    async def close(self) -> None:
        await self.engine.close()
        for part in (self.lease, self.epochs, self.store):
            part.close()


@asynccontextmanager
async def replicas(url: str, folder: Path, count: int = 2) -> AsyncIterator[list[Replica]]:
    there = [Replica(url, folder / str(i)) for i in range(count)]
    try:
        yield there
    finally:
        assert there[0].store.verify() == []
        for replica in there:
            await replica.close()


def decided(store: PostgresStore) -> list[Decided]:
    events = (record.decode(e.kind, e.body, e.private).event for e in store.read(0, 10_000))
    return [event for event in events if isinstance(event, Decided)]


def meanwhile(loop: asyncio.AbstractEventLoop, call) -> Callable[[], None]:
    """Carries a call out on the loop, from a thread that waits for it."""
    return lambda: asyncio.run_coroutine_threadsafe(call(), loop).result(20) and None


def run(test, url: str, folder: Path, count: int = 2) -> None:
    async def go() -> None:
        async with replicas(url, folder, count) as there:
            await test(*there)

    asyncio.run(go())


def test_replicas_that_start_at_once_configure_once(database_url, tmp_path):
    async def test(*there: Replica) -> None:
        kinds = [event.kind for event in there[0].store.read(0, 100)]
        assert sorted(kinds) == ["arm_put", "arm_put", "arm_put", "configured", "router_put"]
        assert {replica.routers["default"].vintage.epoch_hash for replica in there} != set()
        hashes = {replica.routers["default"].vintage.epoch_hash for replica in there}
        assert len(hashes) == 1

    run(test, database_url, tmp_path, 3)


def test_one_request_at_two_replicas_is_one_decision(database_url, tmp_path):
    async def test(first: Replica, second: Replica) -> None:
        first.store.between = meanwhile(asyncio.get_running_loop(), lambda: second.select("s", "r"))
        one = await first.select("s", "r")
        two = await second.select("s", "r")
        assert one == two
        assert first.store.appends == 1, "the second time it was known as a repeat"
        with pytest.raises(RepeatConflict):
            await first.select("s", "r", "another message")
        # A hundred at once, each at both.
        both = await asyncio.gather(
            *(replica.select(f"s{i}", f"r{i}") for i in range(100) for replica in (first, second))
        )
        assert both[::2] == both[1::2]
        assert len(decided(first.store)) == 101

    run(test, database_url, tmp_path)


def test_a_session_that_both_begin_or_leave_is_begun_and_left_once(database_url, tmp_path):
    async def test(first: Replica, second: Replica) -> None:
        loop = asyncio.get_running_loop()
        first.store.between = meanwhile(loop, lambda: second.select("s"))
        one, two = await first.select("s"), await second.select("s")
        assert one.decision == two.decision
        assert one.sticky
        first.store.between = meanwhile(loop, lambda: second.escalate("s", one.decision.decision_id))
        with pytest.raises(WrongOrder):
            await first.escalate("s", one.decision.decision_id)
        assert (await first.select("s")).decision == (await second.select("s")).decision
        assert [event.decision.attempt for event in decided(first.store)] == [1, 2]

    run(test, database_url, tmp_path)


def test_what_a_round_reads_fits_together(database_url, tmp_path):
    async def test(first: Replica, second: Replica) -> None:
        one = await second.select("s")
        await first.engine.current()
        again = "s", one.decision.decision_id, "leave"
        first.store.looked = meanwhile(asyncio.get_running_loop(), lambda: second.escalate(*again))
        assert await first.escalate(*again) == await second.escalate(*again)
        assert first.store.looked is None

    run(test, database_url, tmp_path)


def test_what_one_knows_of_a_session_is_never_older_than_what_the_other_has_answered(database_url, tmp_path):
    async def test(first: Replica, second: Replica) -> None:
        one = await first.select("s")
        assert (await second.select("s")).sticky
        left = await first.escalate("s")
        assert (await second.select("s")).decision == left.next.decision
        assert await second.reward(one.decision.decision_id, "r") == Accepted(revision=2)
        assert await first.reward(one.decision.decision_id, "r") == Accepted(revision=2)
        assert await first.reward(one.decision.decision_id) == Accepted(revision=3)
        assert await second.reward(left.next.decision.decision_id) == Accepted(revision=4)

    run(test, database_url, tmp_path)


def test_events_that_make_no_difference_come_between_and_nothing_is_decided_again(database_url, tmp_path):
    async def test(first: Replica, second: Replica) -> None:
        first.store.between = meanwhile(asyncio.get_running_loop(), lambda: second.select("other"))
        one = await first.select("s")
        assert first.store.appends == 1
        assert [event.decision.decision_id for event in decided(first.store)][1:] == [one.decision.decision_id]
        assert (await first.select("other")).sticky

    run(test, database_url, tmp_path)


def test_what_another_says_of_arms_holds_from_the_next_answer_on(database_url, tmp_path):
    async def test(first: Replica, second: Replica) -> None:
        def down(replica: Replica, arm: str):
            command = SetAvailability(router="default", arm=arm, down_seconds=60.0)
            return replica.engine.answer(None, lambda: replica.admin.set_availability(command))

        await down(first, "a")
        first.store.between = meanwhile(asyncio.get_running_loop(), lambda: down(second, "b"))
        assert {(await first.select(f"s{i}")).decision.arm for i in range(20)} == {"c"}
        assert {(await second.select(f"t{i}")).decision.arm for i in range(20)} == {"c"}

    run(test, database_url, tmp_path)


def test_a_router_that_another_made_is_there(database_url, tmp_path):
    async def test(first: Replica, second: Replica) -> None:
        settings = second.routers["default"].configuration.settings
        put = record.encode(RouterPut(settings=type(settings)(id="new", policy="uniform")), salt=b"0" * 16)
        second.store.append([NewEvent(at_us=5, kind=put.kind, router="new", body=put.body)])
        await first.engine.current()
        assert first.routers["new"].created_us == 5
        assert first.admin.router("new").settings.id == "new"

    run(test, database_url, tmp_path)


def test_a_lost_answer_is_resolved_by_reading_the_log(database_url, tmp_path):
    async def test(first: Replica, second: Replica) -> None:
        first.store.lost = True
        with pytest.raises(StoreUnavailable):
            await first.select("s", "r")
        assert first.health == [False]
        there = await second.select("s", "r")
        while first.health[-1] is False:
            with pytest.raises(StoreUnavailable):
                await first.select("s", "r")
            await asyncio.sleep(0.02)
        assert await first.select("s", "r") == there
        assert len(decided(first.store)) == 1

    run(test, database_url, tmp_path)


def test_an_import_gets_through_however_much_others_append(database_url, tmp_path):
    async def test(first: Replica, second: Replica) -> None:
        ending = asyncio.Event()

        async def busy() -> int:
            for i in range(100_000):
                if ending.is_set():
                    return i
                await second.select(f"busy-{i}")
            raise AssertionError("it never ended")

        stream = asyncio.create_task(busy())
        event = first.store.read(0, 10)[0]
        fields = {name: getattr(event, name) for name in NewEvent.__struct_fields__}
        for _ in range(20):
            offered = [Offered(seq=0, event=NewEvent(**fields))]
            taken = await first.engine.answer(None, lambda offered=offered: first.engine.take_in(offered, 0))
            assert taken.imported == 1
        ending.set()
        assert await stream > 0

    run(test, database_url, tmp_path)


def test_a_round_that_is_undone_leaves_nothing_behind(database_url, tmp_path):
    async def test(first: Replica, second: Replica) -> None:
        router = first.routers["default"]
        before = router.state()

        def fail(events, contradict):
            raise StoreUnavailable("down")

        first.store.append_unless = fail
        another = msgspec.structs.replace(router.configuration.arms[0], id="another")
        with pytest.raises(StoreUnavailable):
            await first.engine.answer(None, lambda: first.admin.put_arm(PutArm(router="default", arm=another)))
        del first.store.append_unless
        after = router.state()
        assert (after.configuration, after.pace, after.created_us) == (
            before.configuration,
            before.pace,
            before.created_us,
        )
        while not first.health[-1]:
            await asyncio.sleep(0.02)
        assert (await first.select("s")).decision.attempt == 1

    run(test, database_url, tmp_path)


def test_who_lost_the_lease_cannot_publish(database_url, tmp_path):
    async def test(first: Replica, second: Replica) -> None:
        assert second.epochs.token == 0
        with pytest.raises(StoreFenced):
            second.epochs.save("default", "v", 1, 1, b"never")
        first.epochs.save("default", "v", 1, 1, b"there")
        first.epochs.save("default", "v", 1, 1, b"there")
        assert second.epochs.load("default", "v", 1) == (1, b"there")
        # Its time runs out without being renewed, and the other takes over.
        first.lease.close()
        while (token := second.lease.take()) is None:
            await asyncio.sleep(0.1)
        assert token > first.epochs.token
        with pytest.raises(StoreFenced):
            first.epochs.save("default", "v", 2, 2, b"stale")
        second.epochs.token = token
        second.epochs.save("default", "v", 2, 2, b"there")
        assert first.epochs.load("default", "v", 2) == (2, b"there")

    run(test, database_url, tmp_path)
