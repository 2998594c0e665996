"""`make coverage`: do the intervals of `pointsman replay` hold the truth, and how far off are its estimates?

Sessions are drawn with replacement from measured outcomes, so the truth of any fixed policy is known from the matrix.
Each log is made by a policy that learns, or by chance alone; fixed rules and a policy frozen after its first half are
scored on it, and the truth must lie within 95 % intervals in 95 % of the logs.
"""

import argparse
import concurrent.futures
import functools
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress

from bandit import eligibility, moves, sampling
from bandit.decision import Vintage
from bandit.events import Decided, Escalated, Event
from bandit.session import Session, apply
from bandit.types import EscalationReason, RouterSettings
from sim import references, runner
from sim.candidates import Learned
from sim.event_log import EventLog
from sim.logged import Log
from sim.replay import candidate as candidate_of
from sim.scoring import evaluate
from sim.world import Table, Terms
from tests.benchmarks import measured, sheets
from tests.benchmarks.sheets import Row, Sheet

TERMS = Terms()
LOGGING = ("uniform", "thompson")
FROZEN = "thompson"
RULES = {
    "eight": (
        "always:MiniMax-M3",
        "always:claude-opus-4-8",
        "ladder:MiniMax-M2.7>claude-opus-4-8",
        "ladder:DeepSeek-V4-Pro>MiniMax-M3>claude-opus-4-8",
    ),
    "factory3": ("always:Kimi-K2.6", "ladder:MiniMax-M2.7>claude-opus-4-7", "ladder:Kimi-K2.6>claude-opus-4-7"),
}
METRICS = ("success", "cost", "utility")
_PASSES = 3
"""How often every task is played for the truth of a frozen policy."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; 2 where there are no outcomes."""
    parser = argparse.ArgumentParser(prog="coverage", description=__doc__)
    parser.add_argument("--data", metavar="DIR", type=Path, help="folder of measured outcomes")
    parser.add_argument("--pool", choices=sorted(RULES), default="factory3")
    parser.add_argument("--logs", metavar="N", type=int, default=200, help="logs by each logging policy (200)")
    parser.add_argument("--sessions", metavar="N", type=int, default=1_000, help="sessions of each log (1,000)")
    parser.add_argument("--jobs", metavar="N", type=int, default=2, help="processes (2)")
    parser.add_argument("--markdown", metavar="FILE", type=Path)
    asked = parser.parse_args(arguments)
    data = measured.folder(asked.data)
    if data is None:
        print("coverage: no measured outcomes; name their folder with --data", file=sys.stderr)
        return 2
    console = Console()
    sheet = coverage(data, asked.pool, logs=asked.logs, sessions=asked.sessions, jobs=asked.jobs, console=console)
    sheet.show(console)
    if asked.markdown is not None:
        asked.markdown.write_text(sheet.markdown(), encoding="utf-8")
    return 0


def coverage(data: Path, pool: str, *, logs: int, sessions: int, jobs: int, console: Console) -> Sheet:
    """The table of a pool: for each logging policy, candidate and figure, how often the interval held the truth."""
    work = [(logging, seed) for seed in range(logs) for logging in LOGGING]
    found: dict[tuple[str, str], list[list[float]]] = {}
    spawn = multiprocessing.get_context("spawn")
    with (
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
        concurrent.futures.ProcessPoolExecutor(jobs, mp_context=spawn) as executor,
    ):
        bar = progress.add_task("logs", total=len(work))
        futures = {executor.submit(one_log, data, pool, *case, sessions): case for case in work}
        for future in concurrent.futures.as_completed(futures):
            for name, row in future.result().items():
                found.setdefault((futures[future][0], name), []).append(row)
            progress.advance(bar)
    return Sheet(
        name="coverage",
        title=f"95 % intervals of replay, pool {pool}, {logs} logs of {sessions} sessions each",
        columns=(
            ("logged by", sheets.text("logging")),
            ("candidate", sheets.text("candidate")),
            ("figure", sheets.text("metric")),
            ("covered", sheets.share("covered")),
            ("half width", sheets.text("half")),
            ("RMSE DR", sheets.text("dr")),
            ("IPS", sheets.text("ips")),
            ("SNIPS", sheets.text("snips")),
            ("DM", sheets.text("dm")),
            ("effective", sheets.text("effective")),
            ("balance", sheets.text("balance")),
        ),
        rows=[row for key in sorted(found) for row in _rows(*key, np.array(found[key]))],
    )


def _rows(logging: str, candidate: str, found: np.ndarray) -> list[Row]:
    """Of numbers, shape (n_logs, 2 + 7 * n_metrics): effective sample, by how many errors weights went with what was
    foretold (a gate refuses at 4), and for each figure whether it was covered, the interval's half width, the truth,
    and what four estimators said."""
    rows: list[Row] = []
    for i, metric in enumerate(METRICS):
        covered, half, truth, *estimates = found[:, 2 + 7 * i : 9 + 7 * i].T
        off = [f"{np.sqrt(np.mean((estimate - truth) ** 2)):.3f}" for estimate in estimates]
        share = float(covered.mean())
        rows.append(
            {
                "logging": logging,
                "candidate": candidate,
                "metric": metric,
                "covered": share,
                "covered_stderr": float(np.sqrt(share * (1 - share) / len(found))),
                "half": f"{np.median(half):.3f}",
                **dict(zip(("dr", "ips", "snips", "dm"), off, strict=True)),
                "effective": f"{np.median(found[:, 0]):.0f}",
                "balance": f"{np.median(found[:, 1]):.1f}, at most {found[:, 1].max():.1f}",
            }
        )
    return rows


def one_log(data: Path, pool: str, logging: str, seed: int, sessions: int) -> dict[str, list[float]]:
    """Makes one log and scores every candidate on it; see `_rows` for the numbers."""
    world = measured.pool(data, pool)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        with EventLog(Path(folder), seed) as events:
            runner.run(world, TERMS, logging, seed, sessions, log=events.add)
        with Log(Path(folder)) as log:
            for name in (*RULES[pool], FROZEN):
                candidate = candidate_of(log, name, TERMS.value_usd, "--candidate")
                if isinstance(candidate, Learned):
                    truth = _frozen_truth(world, candidate.settings, candidate.vintage, seed)
                else:
                    truth = _truth(data, pool, name)
                evaluation = evaluate(log, candidate, value_usd=TERMS.value_usd)
                others = evaluation.others
                row = [evaluation.trust.effective_sample_size, evaluation.trust.imbalance_z]
                for metric, true in zip(METRICS, truth, strict=True):
                    interval = evaluation.level(metric)
                    said = [getattr(others[estimator], metric).value for estimator in ("ips", "snips", "dm")]
                    half = (interval.high - interval.low) / 2
                    row += [float(interval.low <= true <= interval.high), half, true, interval.estimate, *said]
                found[f"{name} (frozen)" if isinstance(candidate, Learned) else name] = row
    return found


@functools.cache
def _truth(data: Path, pool: str, name: str) -> tuple[float, float, float]:
    world = measured.pool(data, pool)
    rungs = name.partition(":")[2].split(">")
    ladder = [next(k for k, arm in enumerate(world.arms) if arm.id == rung) for rung in rungs]
    expected = references.along(ladder, world.success, world.cost_usd, TERMS)
    return expected.success.mean(), expected.cost_usd.mean(), expected.utility(TERMS).mean()


def _frozen_truth(world: Table, settings: RouterSettings, vintage: Vintage, seed: int) -> tuple[float, float, float]:
    """What the frozen policy comes to on all tasks, its own lotteries averaged over a few passes."""
    offers = eligibility.offers(world.arms)
    position = {arm.id: k for k, arm in enumerate(world.arms)}
    settings = msgspec.structs.replace(settings, seed=10_000 + seed)
    success = cost = 0.0
    for number in range(_PASSES * len(world.tasks)):
        task, session_id = number % len(world.tasks), f"truth-{number}"
        session: Session | None = None
        event: Event = moves.select(
            settings, vintage, None, session_id=session_id, features=world.tasks[task].features, offers=offers,
            decision_id=f"{session_id}-1",
        )  # fmt: skip
        while isinstance(event, Decided):
            session = apply(session, event)
            assert session is not None
            arm = position[event.decision.arm]
            cost += float(world.cost_usd[task, arm])
            key = f"{session_id}\0{event.decision.arm}"
            if sampling.uniform(b"truth", settings.seed, key, 0) < world.success[task, arm]:
                success += 1.0
                break
            events = moves.escalate(
                settings, vintage, session, decision_id=event.decision.decision_id,
                reason=EscalationReason.VERIFIED_FAILURE, offers=offers,
                next_decision_id=f"{session_id}-{event.decision.attempt + 1}",
            )  # fmt: skip
            assert isinstance(events[0], Escalated)
            session = apply(session, events[0])
            event = events[-1]
    n = _PASSES * len(world.tasks)
    return success / n, cost / n, TERMS.value_usd * success / n - cost / n


if __name__ == "__main__":
    sys.exit(main())
