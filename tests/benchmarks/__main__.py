"""`make bench`: prints what was measured side by side in one run, and appends it to history.jsonl."""

import argparse
import datetime
import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from sim import synthetic
from sim.runner import run
from sim.world import Terms
from tests.benchmarks import decision, grown, learning, replaying, replicas, serving

NAMES = ("decision", "learning", "simulate", "replay", "serving", "replicas", "grown")
HISTORY = Path(__file__).with_name("history.jsonl")


def main() -> None:
    """Runs the benchmarks named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("only", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--full", action="store_true", help="logs of the sizes that the aims name: takes much longer")
    given = parser.parse_args()
    chosen = set(given.only) or set(NAMES)
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
    if "replay" in chosen:
        found["replay"] = _replay(console, full=given.full)
    if "serving" in chosen:
        found["select_against_echo"] = _serving(console)
    if "replicas" in chosen:
        found["replicas_against_sqlite"] = _replicas(console)
    if "grown" in chosen:
        found["on_a_grown_log"] = _grown(console, full=given.full)
    entry = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        **{name: version(name) for name in ("numpy", "scipy", "grpcio", "vowpalwabbit")},
        **found,
    }
    with HISTORY.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


def _decision(console: Console) -> dict[str, object]:
    table = _table(
        "The decision alone, K = 8, d = 64, M = 256, microseconds each", "decided", "10 %", "median", "90 %", "aim"
    )
    found: dict[str, object] = {}
    for policy, together, aim in (
        ("thompson-single", 1, "45"),
        ("thompson-single", 64, "12"),
        ("thompson", 1, "400"),
        ("thompson", 64, ""),
    ):
        name = f"{policy}, {together} together"
        quantiles = np.quantile(decision.microseconds(policy, together=together), [0.1, 0.5, 0.9]).tolist()
        found[name] = quantiles
        table.add_row(name, *(f"{t:.0f}" for t in quantiles), aim)
    other = decision.mabwiser_microseconds()
    found["mabwiser"] = other
    table.add_row("MABWiser LinTS", "", "not installed" if other is None else f"{other:.0f}", "", "5 x the single one")
    console.print(table)
    return found


def _learning(console: Console) -> dict[str, float]:
    table = _table("Learning, K = 8, d = 32, blocks of 64, outcomes a second", "policy", "outcomes/s", "aim")
    found = {policy: learning.outcomes_per_second(policy) for policy in ("thompson", "vw:squarecb", "vw:bag")}
    for policy, rate in found.items():
        table.add_row(policy, f"{rate:,.0f}", "5,000" if policy == "thompson" else "")
    console.print(table)
    return found


def _simulate(console: Console) -> dict[str, float]:
    table = _table("simulate, one core, attempts decided and learned a second", "policy", "attempts/s")
    world, terms = synthetic.make("correlated"), Terms()
    found = {}
    for policy in ("uniform", "thompson-single", "thompson", "vw:squarecb", "vw:bag"):
        played = run(world, terms, policy, seed=0)
        found[policy] = float(played.attempts.sum()) / played.wall_seconds
        table.add_row(policy, f"{found[policy]:,.0f}")
    console.print(table)
    return found


def _replay(console: Console, *, full: bool) -> list[dict[str, float]]:
    sizes = (740_000, 7_400_000) if full else (74_000, 740_000)
    columns = ("decisions", "seconds", "a million", "of processors", "MiB", "aim")
    table = _table("replay of one ladder, from Parquet", *columns)
    found = []
    for sessions in sizes:
        measured = replaying.measure(sessions)
        found.append(measured)
        seconds, millions = measured["seconds"], measured["decisions"] / 1e6
        numbers = (seconds, seconds / millions, measured["processor_seconds"])
        cells = [f"{measured['decisions']:,.0f}", *(f"{number:.1f}" for number in numbers), f"{measured['mib']:,.0f}"]
        table.add_row(*cells, "10 million in 30 s, 2,048 MiB")
    console.print(table)
    if (on_ray := replaying.on_three_nodes(sizes[0])) is None:
        console.print("no Ray: three nodes of which one is killed left out")
        return found
    console.print(
        f"the scoring of {on_ray['decisions']:,.0f} decisions: {on_ray['alone_seconds']:.1f} s in one process, "
        f"{on_ray['nodes_seconds']:.1f} s on three nodes of Ray's, of which one is killed; the same to the bit"
    )
    return [*found, on_ray]


def _serving(console: Console) -> dict[str, dict[str, float]]:
    found = {policy: serving.compare(policy) for policy in ("uniform", "thompson-single", "thompson")}
    table = _table(
        "Durable Select against a bare grpc.aio echo of equal messages, K = 8, d = 64, interleaved rounds",
        "what",
        *found,
        "aim",
    )

    def row(what: str, show: Callable[[dict[str, float]], str], aim: str = "") -> None:
        table.add_row(what, *map(show, found.values()), aim)

    row("Selects a second, 64 in flight", lambda r: f"{r['selects_per_second']:,.0f}")
    row("... of echo's", lambda r: f"{r['ratio']:.2f} x", "0.75 single, 0.35 ladders")
    row("... lowest and highest round", lambda r: f"{r['lowest_ratio']:.2f}-{r['highest_ratio']:.2f} x")
    row("processor time of the server, µs", lambda r: f"{r['cpu_us']:.0f} (echo {r['echo_cpu_us']:.0f})")
    row("one in flight: p50 over echo's, ms", lambda r: f"{r['p50_over_echo_ms']:.2f}", "0.5")
    row("one in flight: p99 over echo's, ms", lambda r: f"{r['p99_over_echo_ms']:.2f}", "2")
    row("BatchSelect of 64, of Selects one by one", lambda r: f"{r['batched_over_one_by_one']:.1f} x", "5 x")
    row("BatchSelect of 64, of Selects 64 in flight", lambda r: f"{r['batched_over_in_flight']:.1f} x", "5 x")
    console.print(table)
    return found


def _replicas(console: Console) -> dict[str, dict[str, dict[str, float]]]:
    found = {}
    table = _table(
        "Replicas on PostgreSQL against SQLite, K=8, d=64",
        "policy",
        "kind",
        "Selects/s",
        "CPU µs each",
        "p50 ms",
        "p99 ms",
    )
    for policy in ("thompson-single", "thompson"):
        found[policy] = replicas.compare(policy)
        for kind, of in found[policy].items():
            figures = (of["selects_per_second"], of["cpu_us"], of["alone_p50_ms"], of["alone_p99_ms"])
            table.add_row(policy, kind.replace("_", " "), *(f"{figure:,.4g}" for figure in figures))
    console.print(table)
    return found


def _grown(console: Console, *, full: bool) -> dict[str, float]:
    sessions, rewards = (1_000_000, 100_000) if full else (50_000, 20_000)
    standing, refitting = grown.standing(sessions=sessions), grown.refitting(rewards=rewards)
    table = _table(f"{grown.POLICY} on a grown log", "what", "measured", "aim")
    table.add_row(
        f"started again with {sessions:,} open sessions: ready in", f"{standing['ready_seconds']:.1f} s", "3 s"
    )
    table.add_row("memory of the server then, at its highest", f"{standing['server_mib']:,.0f} MiB", "1,024 MiB")
    table.add_row("with the process that learns", f"{standing['with_fitter_mib']:,.0f} MiB", "")
    table.add_row(
        f"p99 of Select while {rewards:,} rewards are folded, of that without",
        f"{refitting['p99_refitting_ms']:.1f} / {refitting['p99_ms']:.1f} ms = {refitting['ratio']:.1f} x",
        "2 x",
    )
    console.print(table)
    return {"sessions": sessions, "rewards": rewards, **standing, **refitting}


if __name__ == "__main__":
    main()
