"""The real server on a log that has grown: refitting beside it, starting again, memory.

The log is written directly, for a server would take long to fill it: sessions with one open attempt each, and rewards
of the last of them.
"""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from bandit import moves, record
from bandit.eligibility import offers
from bandit.events import Decided, Event, Rewarded
from bandit.types import Outcome
from server.store.protocol import NewEvent
from server.store.sqlite import SqliteStore
from tests.benchmarks.decision import arms, context, learned
from tests.benchmarks.serving import Driver, caught_up, process, serve, status

POLICY = "thompson-single"
_PIECE = 2000
_TEMPLATES = 500
_IN_FLIGHT = 8


def refitting(*, rewards: int, count: int = 2000) -> dict[str, float]:
    """The p99 of Select in milliseconds while rewards are being folded, and after that; and their ratio."""
    with log(rewards, rewards) as folder, process(serve(folder, POLICY)) as server:
        return asyncio.run(_while_and_after(server.address, count))


async def _while_and_after(address: str, count: int) -> dict[str, float]:
    driver = Driver(address, "refitting")
    begun = await status(address)
    while (before := await status(address)).learned_sequence == begun.learned_sequence:
        await driver.round(50, _IN_FLIGHT)
    _, during = await driver.round(count, _IN_FLIGHT)
    folded = (await status(address)).learned_sequence - before.learned_sequence
    await caught_up(address, begun.last_sequence)
    _, after = await driver.round(count, _IN_FLIGHT)
    await driver.close()
    p99_during, p99_after = (float(np.quantile(latencies, 0.99)) for latencies in (during, after))
    return {
        "events_folded_meanwhile": folded,
        "p99_refitting_ms": p99_during,
        "p99_ms": p99_after,
        "ratio": p99_during / p99_after,
    }


def standing(*, sessions: int) -> dict[str, float]:
    """Of a server with so many open sessions: seconds from its start until it is ready, and its memory in MiB once
    many of them were asked for; the latter without and with the process that learns."""
    with log(sessions, 2000) as folder:
        with process(serve(folder, POLICY)) as server:
            asyncio.run(_until_caught_up(server.address))
        start = time.perf_counter()
        with process(serve(folder, POLICY)) as server:
            ready = time.perf_counter() - start
            asyncio.run(_ask(server.address, sessions))
            own, fitter = _peak_mib(server.pid), sum(map(_peak_mib, _children(server.pid)))
    return {"ready_seconds": ready, "server_mib": own, "with_fitter_mib": own + fitter}


async def _until_caught_up(address: str) -> None:
    await caught_up(address, (await status(address)).last_sequence)


async def _ask(address: str, sessions: int) -> None:
    """Selects for more sessions than the server caches."""
    driver = Driver(address, "standing")
    some = np.random.default_rng(7).integers(sessions, size=20_000)
    await driver.repeat([f"grown-{i}" for i in some], _IN_FLIGHT)
    await driver.close()


@contextmanager
def log(sessions: int, rewarded: int, *, step_us: int = 1, begin_us: int = 0, final: bool = False) -> Iterator[Path]:
    """A folder to serve from, with a log of `sessions` decisions, the last `rewarded` of which got their reward.

    They begin `step_us` after one another, from `begin_us` on.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A server's first start writes what its configuration says.
        with process(serve(folder, POLICY)):
            pass
        store = SqliteStore.open(folder / "data")
        templates, rng = _decisions(), np.random.default_rng(6)
        for first in range(0, sessions, _PIECE):
            piece = range(first, min(first + _PIECE, sessions))
            at_us = begin_us + step_us * first
            store.append([_new(_begun(templates[i % _TEMPLATES], i), i, at_us + step_us * (i - first)) for i in piece])
            at_us = begin_us + step_us * (piece[-1] + 1)
            if rewards := [_new(_rewarded(rng, i, final), i, at_us) for i in piece if i >= sessions - rewarded]:
                store.append(rewards)
        store.close()
        yield folder


def _decisions() -> list[Decided]:
    vintage, settings = learned(POLICY)
    rng = np.random.default_rng(4)
    found = []
    for i in range(_TEMPLATES):
        event = moves.select(
            settings, vintage, None, session_id=f"{i}", features=context(rng), offers=offers(arms()), decision_id=f"{i}"
        )
        assert isinstance(event, Decided)
        found.append(event)
    return found


def _begun(template: Decided, i: int) -> Decided:
    situation = msgspec.structs.replace(template.decision.situation, session_id=f"grown-{i}")
    decision = msgspec.structs.replace(template.decision, decision_id=_decision_id(i), situation=situation)
    return msgspec.structs.replace(template, decision=decision)


def _rewarded(rng: np.random.Generator, i: int, final: bool) -> Rewarded:
    outcome = Outcome(success=float(rng.random() < 0.6), cost_usd=float(rng.lognormal()))
    return Rewarded(session_id=f"grown-{i}", decision_id=_decision_id(i), outcome=outcome, revision=1, final=final)


def _decision_id(i: int) -> str:
    return f"{i:032x}"


def _new(event: Event, i: int, at_us: int) -> NewEvent:
    recorded = record.encode(event, salt=bytes(record.SALT_BYTES))
    return NewEvent(
        at_us=at_us,
        kind=recorded.kind,
        router="default",
        session_id=f"grown-{i}",
        decision_id=_decision_id(i),
        body=recorded.body,
        private=recorded.private,
    )


def _children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()]


def _peak_mib(pid: int) -> float:
    """The most memory that a process has had, resident."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has ended")
