"""`pointsman demo`: a real server as a process, a fleet of simulated agents talking gRPC to it, and what was saved."""

import argparse
import asyncio
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as TextTable

from bandit.types import Arm, Figure
from pointsman import AsyncClient
from pointsman.v1 import admin_pb2
from pointsman.v1 import routing_pb2 as pb
from sim import fleet
from sim.world import Table

_AGENTS = 32
_SESSIONS = 3000
_SEED = 7
_STOP_SECONDS = 60.0
_SESSIONS_A_SECOND = 8.0
_ATTEMPT_SECONDS = (0.5, 4.0)
"""Of those that go on."""


def add_demo(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the `demo` command."""
    parser = subparsers.add_parser(
        "demo",
        help="a server, a fleet of simulated agents, and what was saved",
        description="Starts a server on a free local port with an empty store, drives it with a fleet of simulated "
        "agents over gRPC, and compares the bill with always using the best arm. Nothing is left behind.",
    )
    parser.add_argument(
        "--sessions", type=_positive, default=_SESSIONS, metavar="N", help="sessions to run (%(default)s)"
    )
    parser.add_argument("--agents", type=_positive, default=_AGENTS, metavar="N", help="agents at once (%(default)s)")
    parser.add_argument(
        "--serve",
        action="store_true",
        help="then go on, at a few sessions a second, until Ctrl-C: for whoever looks at the dashboard",
    )
    parser.add_argument("--seed", type=int, default=_SEED, help="of the simulated work (%(default)s)")
    parser.add_argument(
        "--json", metavar="FILE", help="also write the result as JSON; - for stdout, and nothing else there"
    )
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


@dataclass
class Ledger:
    """What the sessions that are over came to."""

    tasks: list[int] = field(default_factory=list)
    success: list[float] = field(default_factory=list)
    cost_usd: list[float] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    first_arm: Counter[str] = field(default_factory=Counter)
    last_arm: Counter[str] = field(default_factory=Counter)

    def add(self, task: int, arms: list[str], success: float, cost_usd: float) -> None:
        """Books one session: the arms of its attempts in order, its success and its dollars."""
        self.tasks.append(task)
        self.success.append(success)
        self.cost_usd.append(cost_usd)
        self.attempts.append(len(arms))
        self.first_arm[arms[0]] += 1
        self.last_arm[arms[-1]] += 1


def run(args: argparse.Namespace) -> int:
    """Runs the demo; 0 where every session was brought to its end."""
    # The server is to end with this, however it is told to.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _server() as (target, page):
        try:
            asyncio.run(_play(args, target, page))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
    return 0


async def _play(args: argparse.Namespace, target: str, page: str) -> None:
    """All that talks to the server, in one event loop. Signals cancel it: what they raise amid grpc's own code, or a
    second loop beside what the first left there, has corrupted its memory."""
    loop, playing = asyncio.get_running_loop(), asyncio.current_task()
    assert playing is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, playing.cancel)
    to_stdout = args.json == "-"
    console = Console(stderr=to_stdout)
    async with AsyncClient(target, timeout_seconds=30.0) as client:
        started = time.monotonic()
        world, ledger = await _drive(client, args.sessions, args.agents, args.seed, console)
        result = _result(world, ledger, time.monotonic() - started)
        _show(result, console)
        if args.json:
            text = json.dumps(result, indent=2)
            if to_stdout:
                print(text)
            else:
                Path(args.json).write_text(text + "\n")
        if args.serve:
            with suppress(asyncio.CancelledError):
                console.print(f"\nThe dashboard is at [bold]http://{page}/[/], gRPC at {target}. Ctrl-C ends both.")
                await _go_on(client, world, args.agents, args.seed)


@contextmanager
def _server() -> Iterator[tuple[str, str]]:
    """A server of its own on free ports, with an empty store that goes with it; yields its gRPC and HTTP addresses."""
    with tempfile.TemporaryDirectory(prefix="pointsman-demo-") as folder:
        command = [sys.executable, "-m", "server.cli", "serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        log = Path(folder, "server.log")
        with log.open("w") as said:
            process = subprocess.Popen(
                [*command, "--data-dir", f"{folder}/data"], stdout=subprocess.PIPE, stderr=said, text=True
            )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("pointsman ready grpc="):
                raise RuntimeError(f"the server did not start:\n{log.read_text()}")
            grpc, http = line.split()[2:4]
            yield grpc.removeprefix("grpc="), http.removeprefix("http=")
        finally:
            process.terminate()
            process.wait(_STOP_SECONDS)


async def _drive(client: AsyncClient, sessions: int, agents: int, seed: int, console: Console) -> tuple[Table, Ledger]:
    """Brings every session to its end, `agents` at a time, and shows how it goes."""
    ledger = Ledger()
    world = fleet.world([_arm(arm) for arm in await client.list_arms()], n_tasks=sessions, seed=seed)
    best = int(np.argmax(world.success.mean(axis=0)))
    queue = iter(range(sessions))
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} sessions"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("starting", total=sessions)

        async def agent() -> None:
            for task in queue:
                await _session(client, world, task, ledger, world.tasks[task].id)
                spent, always = sum(ledger.cost_usd), float(world.cost_usd[ledger.tasks, best].sum())
                rate = sum(ledger.success) / len(ledger.tasks)
                told = f"{rate:6.1%} resolved, ${spent:9.2f} spent, {1 - spent / always:4.0%} saved"
                progress.update(bar, advance=1, description=told)

        async with asyncio.TaskGroup() as group:
            for _ in range(agents):
                group.create_task(agent())
    return world, ledger


async def _go_on(client: AsyncClient, world: Table, agents: int, seed: int) -> None:
    """Begins the same work over and over, a few sessions a second, for ever; each attempt takes some seconds."""
    rng = random.Random(seed)
    again = ((f"again-{round_}", task) for round_ in itertools.count(1) for task in range(len(world.tasks)))

    async def agent() -> None:
        for name, task in again:
            await asyncio.sleep(rng.expovariate(_SESSIONS_A_SECOND / agents))
            session_id = f"{world.tasks[task].id}-{name}"
            await _session(client, world, task, Ledger(), session_id, seconds=rng.uniform(*_ATTEMPT_SECONDS))

    async with asyncio.TaskGroup() as group:
        for _ in range(agents):
            group.create_task(agent())


async def _session(
    client: AsyncClient, world: Table, task: int, ledger: Ledger, session_id: str, seconds: float = 0.0
) -> None:
    """One session as an agent lives it: ask, work (for so long), and on failure ask again."""
    position = {arm.id: k for k, arm in enumerate(world.arms)}
    # The fleet's features are numbers and categories, which mean the same on both sides of the wire.
    features = {name: value for name, value in world.tasks[task].features.items() if isinstance(value, float | str)}
    choice = await client.select(features, session_id=session_id)
    arms, spent = [choice.arm], 0.0
    while True:
        k = position[choice.arm]
        await asyncio.sleep(seconds)
        success, cost_usd = float(world.success[task, k]), float(world.cost_usd[task, k])
        spent += cost_usd
        following = None
        if not success:
            following = await client.escalate(choice, reason=pb.ESCALATION_REASON_VERIFIED_FAILURE, cost_usd=cost_usd)
        if following is None:
            await client.reward(decision_id=choice.decision_id, success=success, cost_usd=cost_usd, final=True)
            ledger.add(task, arms, success, spent)
            return
        choice = following
        arms.append(choice.arm)


def _arm(arm: admin_pb2.Arm) -> Arm:
    figures = tuple(
        Figure(
            category=figure.category or None,
            success_rate=figure.success_rate,
            cost_usd=figure.cost_usd_mean if figure.HasField("cost_usd_mean") else None,
        )
        for figure in arm.figures
    )
    return Arm(id=arm.id, provider=arm.provider, figures=figures)


def _result(world: Table, ledger: Ledger, seconds: float) -> dict[str, object]:
    """The demo's outcome; the arms are held to the very same sessions."""
    always = {
        arm.id: {
            "success_rate": float(world.success[:, k].mean()),
            "cost_usd_per_session": float(world.cost_usd[:, k].mean()),
        }
        for k, arm in enumerate(world.arms)
    }
    best = max(always, key=lambda arm: always[arm]["success_rate"])
    attempts, n = np.array(ledger.attempts), len(ledger.tasks)
    ours = {
        "success_rate": float(np.mean(ledger.success)),
        "cost_usd_per_session": float(np.mean(ledger.cost_usd)),
        "escalation_rate": float(np.mean(attempts > 1)),
    }
    return {
        "sessions": n,
        "seconds": seconds,
        "pointsman": ours,
        "always": always,
        "best_arm": best,
        "saved_share": 1.0 - ours["cost_usd_per_session"] / always[best]["cost_usd_per_session"],
        "saved_usd": n * (always[best]["cost_usd_per_session"] - ours["cost_usd_per_session"]),
        "success_difference": ours["success_rate"] - always[best]["success_rate"],
        "first_arm_share": {arm: count / n for arm, count in ledger.first_arm.most_common()},
        "last_arm_share": {arm: count / n for arm, count in ledger.last_arm.most_common()},
    }


def _show(result: dict[str, object], console: Console) -> None:
    ours, always, best = result["pointsman"], result["always"], result["best_arm"]
    first, last = result["first_arm_share"], result["last_arm_share"]
    assert isinstance(ours, dict) and isinstance(always, dict) and isinstance(first, dict) and isinstance(last, dict)
    table = TextTable(title=f"{result['sessions']} sessions, every arm held to the same ones")
    table.add_column("", no_wrap=True)
    for column in ("resolved", "$ a session", "begun on it", "ended on it"):
        table.add_column(column, justify="right")
    row = f"{ours['success_rate']:.1%}", f"{ours['cost_usd_per_session']:.3f}"
    table.add_row("Pointsman", *row, "", "", style="bold green", end_section=True)
    for arm, figures in sorted(always.items(), key=lambda item: -item[1]["success_rate"]):
        table.add_row(
            f"always {arm}",
            f"{figures['success_rate']:.1%}",
            f"{figures['cost_usd_per_session']:.3f}",
            f"{first.get(arm, 0.0):.0%}",
            f"{last.get(arm, 0.0):.0%}",
        )
    console.print(table)
    points = 100.0 * float(str(result["success_difference"]))
    saved, usd = float(str(result["saved_share"])), float(str(result["saved_usd"]))
    bill = f"costs {saved:.0%} less (${usd:,.2f})" if saved >= 0 else f"costs {-saved:.0%} more (${-usd:,.2f})"
    console.print(
        f"Against always using {best}, the best arm, Pointsman resolves {abs(points):.1f} points "
        f"{'more' if points >= 0 else 'less'} and {bill}; {ours['escalation_rate']:.0%} of the sessions were escalated."
    )
    console.print(
        "The work is simulated from the catalogue's published figures, with surprises the router is not told.",
        style="dim",
    )
