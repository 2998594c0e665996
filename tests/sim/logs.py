"""Small logs made by the simulator, and read back; shared by the tests of what reads logs."""

from pathlib import Path

import numpy as np

from bandit.events import Event
from bandit.session import Session, apply
from bandit.types import Arm, Price
from sim import runner
from sim.event_log import EventLog
from sim.logged import Log
from sim.piece import Piece
from sim.world import Table, Task, Terms

ARMS = ("a", "b", "c")
PLAIN = Terms()
Timed = tuple[int, Event, str]


def world(n_tasks: int = 60, seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    return Table(
        name="random",
        arms=tuple(Arm(id=name, price=Price(input_usd=float(k + 1), output_usd=2.0)) for k, name in enumerate(ARMS)),
        tasks=tuple(Task(id=f"t{i}", features={"category": f"c{i % 3}", "size": float(i)}) for i in range(n_tasks)),
        success=rng.uniform(0.2, 0.8, (n_tasks, 3)),
        cost_usd=rng.exponential(0.5, (n_tasks, 3)),
    )


def events_of(
    policy: str, terms: Terms = PLAIN, sessions: int = 60, seed: int = 0, table: Table | None = None
) -> list[Timed]:
    found: list[Timed] = []

    def keep(_seq: int, at_us: int, event: Event, session_id: str) -> None:
        found.append((at_us, event, session_id))

    runner.run(table or world(), terms, policy, seed, sessions, log=keep)
    return found


def write(events: list[Timed], target: Path) -> Path:
    with EventLog(target, 0) as log:
        for number, (at_us, event, session_id) in enumerate(events, start=1):
            log.add(number, at_us, event, session_id)
    return target


def folded(events: list[Timed]) -> list[Session]:
    sessions: dict[str, Session] = {}
    for _, event, session_id in events:
        if session_id and (session := apply(sessions.get(session_id), event)) is not None:
            sessions[session_id] = session
    return list(sessions.values())


def whole(log: Log) -> Piece:
    return log.piece(0, log.sessions)
