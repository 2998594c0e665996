"""Traffic and faults from one seed, and what clients were told of it checked against a plain model.

Clients share sessions, repeat calls, give up on them, and send them again later. Meanwhile the server is killed, its
disk fails, it is paused, its children are killed, and its clock jumps. Each session's history must have an order that
the model in `model.py` allows. That the check can fail is tried with histories changed afterwards, and with servers
that have a defect (`defective.py`).
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from server.store.sqlite import SqliteReader
from tests.faults import linearize
from tests.faults.clients import CONFIG, Clients
from tests.faults.defective import DEFECTS
from tests.faults.history import Chosen, History, Inconsistent, Look, Operation, Seen, merged
from tests.faults.processes import Server, start
from tests.faults.shim import Kind, Shim
from tests.faults.trial import Broken, Figures, Trial, require

AIM = "concurrent clients under every fault, from a seed: histories consistent with a plain model; defects are caught"
MINUTES = 5.0

_CLIENTS = 12
_KINDS = (Kind.SYNC, Kind.FULL, Kind.SHORT, Kind.TORN)


@dataclass
class _Run:
    """One server after another on one data directory, and who works against them."""

    trial: Trial
    seed: str
    seconds: float
    module: Sequence[str] = ("server.cli",)
    faults: Counter[str] = field(default_factory=Counter)

    async def run(self) -> History:
        """The history."""
        data_dir = self.trial.folder / f"data-{self.seed}"
        clients, ending = Clients(self.seed), asyncio.Event()
        with Shim(self.trial.folder, data_dir) as shim:
            self._shim = shim
            self._server = await asyncio.to_thread(self._start, data_dir)
            try:
                address = self._server.grpc
                working = [asyncio.create_task(clients.work(address, ending)) for _ in range(_CLIENTS)]
                await self._torment(data_dir)
                ending.set()
                await asyncio.gather(*working)
                await clients.look_at_all(address)
            finally:
                shim.heal()
                self._server.kill()
        _require_whole(data_dir, clients.history)
        return clients.history

    def _start(self, data_dir: Path, *flags: str) -> Server:
        return start(data_dir, CONFIG, *flags, module=self.module, environment=self._shim.environment)

    async def _torment(self, data_dir: Path) -> None:
        rng = random.Random(f"faults {self.seed}")
        ends = time.monotonic() + self.seconds
        while (left := ends - time.monotonic()) > 0:
            await asyncio.sleep(rng.uniform(0.1, min(1.0, max(0.1, left))))
            fault = rng.choice((self._kill, self._spoil, self._spoil, self._pause, self._orphan, self._jump))
            self.faults[fault.__name__.strip("_")] += 1
            await fault(rng, data_dir)
            self.trial.tell(self.seconds - max(0.0, left), self.seconds)

    async def _kill(self, rng: random.Random, data_dir: Path) -> None:
        address = self._server.grpc
        self._server.kill()
        self._server = await asyncio.to_thread(self._start, data_dir, "--listen", address)

    async def _spoil(self, rng: random.Random, data_dir: Path) -> None:
        first = rng.randint(1, 12)
        self._shim.fail(rng.choice(_KINDS), first, first + rng.choice((0, 3, 30)))
        await asyncio.sleep(rng.uniform(0.05, 0.8))
        self._shim.heal()

    async def _pause(self, rng: random.Random, data_dir: Path) -> None:
        self._server.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(rng.uniform(0.05, 0.5))
        self._server.process.send_signal(signal.SIGCONT)

    async def _orphan(self, rng: random.Random, data_dir: Path) -> None:
        pid = self._server.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            with suppress(ProcessLookupError):
                os.kill(int(rng.choice(children)), signal.SIGKILL)

    async def _jump(self, rng: random.Random, data_dir: Path) -> None:
        self._shim.set_clock(rng.choice((-3600.0, 0.0, 3600.0)))


def _require_whole(data_dir: Path, history: History) -> None:
    """The log holds what the last looks were told, and is whole."""
    reader = SqliteReader(data_dir)
    try:
        problems = reader.verify()
        require(not problems, f"the log is not whole: {problems[:3]}")
        there = Counter(event.session_id for event in reader.read(0, 10_000_000) if event.kind == "decided")
    finally:
        reader.close()
    last = {one.session: one.answer for one in history.operations if isinstance(one.asked, Look)}
    told = {session: len(seen.attempts) for session, seen in last.items() if isinstance(seen, Seen)}
    require(told == dict(there), "the log holds other attempts than the last looks at the sessions")


def check(history: History) -> int:
    """Raises Inconsistent; how many sessions there are."""
    sessions = history.by_session()
    decisions = {(one.answer.decision, one.session) for one in history.operations if isinstance(one.answer, Chosen)}
    if len({decision for decision, _ in decisions}) < len(decisions):
        raise Inconsistent("a decision's id was given to two sessions")
    for operations in sessions.values():
        linearize.check(operations)
    return len(sessions)


# --- that it can fail -------------------------------------------------------------------------------------------


def _lies(seen: Seen) -> list[Seen]:
    """What a look could have been told wrongly."""
    first = seen.attempts[0]
    return [
        seen._replace(attempts=seen.attempts[:-1]),
        seen._replace(attempts=(*seen.attempts, first._replace(decision="another"))),
        seen._replace(attempts=(first._replace(decision="another"), *seen.attempts[1:])),
        seen._replace(attempts=(first._replace(cost=77.0), *seen.attempts[1:])),
        seen._replace(final=not seen.final),
        seen._replace(exhausted=not seen.exhausted),
    ]


def change_and_check(history: History, rng: random.Random, sessions: int) -> int:
    """Changes the last answer of some sessions in every way; how often. Raises Broken where that is not noticed."""
    changed = 0
    # What was never answered may or may not have happened, and explains more than one end.
    there = [
        operations
        for operations in history.by_session().values()
        if isinstance(operations[-1].answer, Seen) and all(one.answer is not None for one in merged(operations))
    ]
    for operations in rng.sample(there, min(sessions, len(there))):
        last: Operation = operations[-1]
        assert isinstance(last.answer, Seen)
        for lie in _lies(last.answer):
            try:
                linearize.check([*operations[:-1], replace(last, answer=lie)])
            except Inconsistent:
                changed += 1
            else:
                raise Broken(f"the checker takes {lie} for {last.answer}")
    return changed


def _is_caught(trial: Trial, defect: str) -> bool:
    """Whether a server with that defect does not pass, within some tries."""
    for attempt in range(3):
        run = _Run(trial, f"{trial.seed}-{defect}-{attempt}", 20.0, ("tests.faults.defective", defect))
        try:
            check(asyncio.run(run.run()))
        except (Inconsistent, Broken):
            return True
    return False


def run(trial: Trial) -> Figures:
    """Runs for the minutes given, and then sees that defects are caught."""
    seconds = 4.0 if trial.quick else 60.0 * MINUTES * trial.share
    torment = _Run(trial, str(trial.seed), seconds)
    history = asyncio.run(torment.run())
    try:
        sessions = check(history)
    except Inconsistent as error:
        raise Broken(str(error)) from error
    caught = change_and_check(history, random.Random(trial.seed), trial.size(full=50, quick=10))
    if not trial.quick:
        for defect in DEFECTS:
            require(_is_caught(trial, defect), f"a server with the defect {defect} passes")
            caught += 1
    unanswered = sum(one.answer is None for one in history.operations)
    return {
        "operations": len(history.operations),
        "unanswered": unanswered,
        "sessions": sessions,
        **{f"faults_{name}": count for name, count in torment.faults.items()},
        "defects_caught": caught,
        "inconsistent": 0,
    }
