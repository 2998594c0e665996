"""`make bench`: prints what was measured side by side in one run, and appends it to history.jsonl."""

import argparse
import datetime
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from sim import synthetic
from sim.runner import run
from sim.world import Terms
from tests.benchmarks import decision, learning, serving

NAMES = ("decision", "learning", "simulate", "serving")
HISTORY = Path(__file__).with_name("history.jsonl")


def main() -> None:
    """Runs the benchmarks named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("only", nargs="*", metavar="NAME", help=", ".join(NAMES))
    chosen = set(parser.parse_args().only) or set(NAMES)
    if unknown := chosen - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}")
    console = Console(width=120)
    found: dict[str, object] = {}
    if "decision" in chosen:
        found["decision_microseconds"] = _decision(console)
    if "learning" in chosen:
        found["outcomes_learned_per_second"] = _learning(console)
    if "simulate" in chosen:
        found["simulate_attempts_per_second"] = _simulate(console)
    if "serving" in chosen:
        found["select_against_echo"] = _serving(console)
    entry = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        **{name: version(name) for name in ("numpy", "scipy", "grpcio", "vowpalwabbit")},
        **found,
    }
    with HISTORY.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def _decision(console: Console) -> dict[str, list[float]]:
    table = Table(title="The decision alone, K = 8, d = 64, M = 256, microseconds")
    for column in ("policy", "10 %", "median", "90 %", "aim now"):
        table.add_column(column, justify="right")
    found = {}
    for policy, aim in (("thompson-single", "45 to come"), ("thompson", "500")):
        found[policy] = np.quantile(decision.microseconds(policy), [0.1, 0.5, 0.9]).tolist()
        table.add_row(policy, *(f"{t:.0f}" for t in found[policy]), aim)
    console.print(table)
    return found


def _learning(console: Console) -> dict[str, float]:
    table = Table(title="Learning, K = 8, d = 32, blocks of 64, outcomes a second")
    table.add_column("policy")
    table.add_column("outcomes/s", justify="right")
    found = {policy: learning.outcomes_per_second(policy) for policy in ("thompson", "vw:squarecb", "vw:bag")}
    for policy, rate in found.items():
        table.add_row(policy, f"{rate:,.0f}")
    console.print(table)
    return found


def _simulate(console: Console) -> dict[str, float]:
    table = Table(title="simulate, one core, attempts decided and learned a second")
    table.add_column("policy")
    table.add_column("attempts/s", justify="right")
    world, terms = synthetic.make("correlated"), Terms()
    found = {}
    for policy in ("uniform", "thompson-single", "thompson", "vw:squarecb", "vw:bag"):
        played = run(world, terms, policy, seed=0)
        found[policy] = float(played.attempts.sum()) / played.wall_seconds
        table.add_row(policy, f"{found[policy]:,.0f}")
    console.print(table)
    return found


def _serving(console: Console) -> dict[str, dict[str, float]]:
    table = Table(
        title="Durable Select against a bare grpc.aio echo of equal messages, K = 8, d = 64, interleaved rounds"
    )
    for column in (
        "policy",
        "Selects/s",
        "of echo (64 in flight)",
        "lowest-highest",
        "one in flight: p50",
        "p99",
        "aim now",
    ):
        table.add_column(column, justify="right")
    found = {}
    for policy, aim in (("uniform", ""), ("thompson-single", ">= 0.60 x"), ("thompson", "printed")):
        found[policy] = r = serving.compare(policy)
        table.add_row(
            policy,
            f"{r['selects_per_second']:,.0f}",
            f"{r['ratio']:.2f} x",
            f"{r['lowest_ratio']:.2f}-{r['highest_ratio']:.2f}",
            f"echo + {r['p50_over_echo_ms']:.2f} ms",
            f"echo + {r['p99_over_echo_ms']:.2f} ms",
            aim,
        )
    console.print(table)
    return found


if __name__ == "__main__":
    main()
