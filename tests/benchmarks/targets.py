"""`make targets`: what is aimed at on measured outcomes of real sessions, each cell run again and held to its aim.

Utility a session = value x success - dollars, from nothing, exploration included, one pass in random order, failures
always noticed unless said otherwise. An aim is reached where mean + 2 standard errors reach it. References are the
best in hindsight on the very tasks of a run.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sim import compare, workers
from sim.references import Expected
from sim.result import Result
from sim.runner import Run
from sim.world import Terms
from tests.benchmarks import cases, measured, sheets
from tests.benchmarks.cases import Case, Place
from tests.benchmarks.sheets import Column, Row, Sheet

VALUES_USD = (2.0, 5.0, 10.0)
AIMS = {
    ("eight", 2.0): (0.985, 1.02),
    ("eight", 5.0): (1.0, 1.005),
    ("eight", 10.0): (0.985, 1.0),
    ("factory3", 2.0): (1.02, 1.05),
    ("factory3", 5.0): (1.01, 1.02),
    ("factory3", 10.0): (1.0, 1.005),
}
"""Pool and value -> share of the best fixed ladder's utility to reach from nothing, and with honest figures."""
SECOND_HALF_AIM = 0.995
SAVED_AIM = 0.55
"""Dollars to save against the arm that is most successful alone."""
LENGTHS = (100, 200, 300)
"""Sessions of short streams."""
SINGLE_SHOT = ("vw:squarecb", "vw:regcb", "vw:bag", "vw:cover", "linucb", "epsilon")
"""Baselines that never escalate."""
POLICIES = ("thompson", "thompson-single", *SINGLE_SHOT, "threshold:0.7")
CONDITIONS = {
    "plain": Terms(),
    "detect .8, false alarm .1": Terms(detect=0.8, false_alarm=0.1),
    "delay 50": Terms(delay=50),
}


class Runs:
    """Runs by case, each made once, with a bar while they are made."""

    def __init__(self, data: Path, jobs: int, console: Console) -> None:
        self.data = data
        self._jobs = jobs
        self._console = console
        self._done: dict[Case, Run] = {}

    def need(self, wanted: Iterable[Case], what: str) -> None:
        """Makes what is not there yet."""
        missing = [case for case in wanted if case not in self._done]
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        quiet = not self._console.is_terminal
        with Progress(*columns, *times, console=self._console, transient=True, disable=quiet) as progress:
            bar = progress.add_task(what, total=len(missing))
            self._done |= cases.run_all(self.data, missing, jobs=self._jobs, on_run=lambda: progress.advance(bar))

    def of(self, place: Place, terms: Terms, policy: str, seeds: int) -> list[Run]:
        """The runs of a policy by seed."""
        return [self._done[Case(place=place, terms=terms, policy=policy, seed=seed)] for seed in range(seeds)]

    def one(self, case: Case) -> Run:
        """The run of a case."""
        return self._done[case]

    def compared(self, place: Place, terms: Terms, policies: Sequence[str], seeds: int) -> Result:
        """As `simulate` compares."""
        world, hindsight = cases.world(self.data, place), cases.hindsight(self.data, place, terms)
        return compare.compare(world, terms, hindsight, {p: self.of(place, terms, p, seeds) for p in policies})


def utility(run: Run, terms: Terms) -> np.ndarray:
    """Dollars of each session, shape (n_sessions,)."""
    return terms.value_usd * run.success - run.cost_usd


def whole_pools(runs: Runs, seeds: int) -> Sheet:
    """The table of targets: each pool and value, from nothing."""
    cells = [(Place(pool=pool), Terms(value_usd=value)) for pool, value in AIMS]
    runs.need(
        (Case(place=p, terms=t, policy="thompson", seed=s) for p, t in cells for s in range(seeds)), "whole pools"
    )
    rows = []
    for place, terms in cells:
        result = runs.compared(place, terms, ["thompson"], seeds)
        (policy,), references = result.policies, result.references
        best = references.best_fixed_ladder
        strongest = max(references.always.values(), key=lambda three: three.success_rate)
        share, stderr = (x.utility_per_session / best.utility_per_session for x in (policy, policy.stderr))
        second = [u[len(u) // 2 :].mean() / best.utility_per_session for u in _utilities(runs, place, terms, seeds)]
        half, half_stderr = sheets.mean_and_stderr(second)
        aim = AIMS[place.pool, terms.value_usd][0]
        paired = result.paired["thompson"]
        rows.append(
            {
                "cell": f"{place.pool}, {terms.value_usd:g}",
                "ladder": best.utility_per_session,
                "ladder_arms": best.ladder,
                "share": share,
                "share_stderr": stderr,
                "aim": aim,
                "met": sheets.reached(share, stderr, aim),
                "second_half": half,
                "second_half_stderr": half_stderr,
                "second_half_met": sheets.reached(half, half_stderr, SECOND_HALF_AIM),
                "success": policy.success_rate,
                "usd": policy.cost_usd_per_session,
                "minus_ladder": paired["best_fixed_ladder"],
                "minus_single": paired["best_single"],
                "points": policy.success_rate - strongest.success_rate,
                "saved": 1.0 - policy.cost_usd_per_session / strongest.cost_usd_per_session,
            }
        )
    columns: list[Column] = [
        ("pool, value", sheets.text("cell")),
        ("ladder", sheets.usd("ladder")),
        ("of it", sheets.share("share")),
        ("aim", sheets.at_least("aim")),
        ("met", sheets.yes("met")),
        ("2nd half", sheets.share("second_half")),
        (f"≥ {100 * SECOND_HALF_AIM:g} %", sheets.yes("second_half_met")),
        ("success", sheets.share("success")),
        ("$ each", sheets.usd("usd")),
        ("minus the ladder", sheets.gap("minus_ladder")),
        ("minus the best arm", sheets.gap("minus_single")),
    ]
    return Sheet(name="targets", title=f"From nothing: thompson, {seeds} seeds", columns=columns, rows=rows)


def strongest_arm(sheet: Sheet) -> Sheet:
    """In plain words: success and dollars of the runs at value 5 against the arm that is most successful alone."""
    rows = [
        {"cell": row["cell"], "points": row["points"], "saved": row["saved"], "met": row["saved"] >= SAVED_AIM}
        for row in sheet.rows
        if str(row["cell"]).endswith(", 5")
    ]
    columns: list[Column] = [
        ("pool, value", sheets.text("cell")),
        ("success, points more", lambda row: f"{100 * row['points']:+.1f}"),
        ("dollars saved", sheets.share("saved")),
        (f"≥ {100 * SAVED_AIM:g} %", sheets.yes("met")),
    ]
    return Sheet(name="strongest", title="Against the arm of most success alone", columns=columns, rows=rows)


def on_halves(runs: Runs, splits: int, *, figures: bool) -> Sheet:
    """Each half of each split by itself, with the figures of the other half or from nothing; references on the half."""

    def case(pool: str, value: float, split: int, side: int) -> Case:
        place = Place(pool=pool, half=(split, side), figures=figures)
        # A seed of its own, or all halves would share their draws.
        return Case(place=place, terms=Terms(value_usd=value), policy="thompson", seed=2 * split + side)

    sides = [(split, side) for split in range(splits) for side in (0, 1)]
    what = "honest figures" if figures else "random halves"
    runs.need((case(pool, value, *at) for pool, value in AIMS for at in sides), what)
    rows = []
    for pool, value in AIMS:
        # (mine, second half of mine, ladder) of each half, weighed alike: halves differ by one task at most.
        sums = np.array([_three(runs, case(pool, value, *at)) for at in sides]).reshape(splits, 2, 3).sum(axis=1)
        share, stderr = sheets.mean_and_stderr(sums[:, 0] / sums[:, 2])
        half, half_stderr = sheets.mean_and_stderr(sums[:, 1] / sums[:, 2])
        row: dict[str, object] = {
            "cell": f"{pool}, {value:g}",
            "share": share,
            "share_stderr": stderr,
            "second_half": half,
            "second_half_stderr": half_stderr,
        }
        if figures:
            aim = AIMS[pool, value][1]
            row |= {"aim": aim, "met": sheets.reached(share, stderr, aim)}
        rows.append(row)
    columns: list[Column] = [("pool, value", sheets.text("cell")), ("of the ladder", sheets.share("share"))]
    if figures:
        columns += [("aim", sheets.at_least("aim")), ("met", sheets.yes("met"))]
    columns.append(("2nd half", sheets.share("second_half")))
    title = f"Random halves, {'honest figures' if figures else 'no figures'}: thompson, {splits} splits, each half once"
    return Sheet(name="honest" if figures else "halves", title=title, columns=columns, rows=rows)


def _three(runs: Runs, case: Case) -> tuple[float, float, float]:
    """Means a session: of the run, of its second half, and of the ladder that is best on its tasks."""
    mine = utility(runs.one(case), case.terms)
    ladder = cases.hindsight(runs.data, case.place, case.terms).best_ladder
    return float(mine.mean()), float(mine[len(mine) // 2 :].mean()), float(ladder.utility(case.terms).mean())


def short_streams(runs: Runs, seeds: int) -> Sheet:
    """The first sessions of the runs on `eight`, against the pool's best ladder on the same sessions."""
    place = Place(pool="eight")
    terms = [Terms(value_usd=value) for value in VALUES_USD]
    runs.need(
        (Case(place=place, terms=t, policy="thompson", seed=s) for t in terms for s in range(seeds)), "short streams"
    )
    rows = []
    for t in terms:
        hindsight = cases.hindsight(runs.data, place, t)
        ladder = hindsight.best_ladder.utility(t)
        for length in LENGTHS:
            streams = [(run.task[:length], utility(run, t)[:length]) for run in runs.of(place, t, "thompson", seeds)]
            share, stderr = _of_ladder(streams, ladder)
            single, single_stderr = _of_ladder(streams, _single(hindsight.always, t))
            rows.append(
                {
                    "cell": f"{place.pool}, {t.value_usd:g}",
                    "sessions": length,
                    "share": share,
                    "share_stderr": stderr,
                    "single": single,
                    "single_stderr": single_stderr,
                }
            )
    columns: list[Column] = [
        ("pool, value", sheets.text("cell")),
        ("first sessions", sheets.text("sessions")),
        ("of the ladder", sheets.share("share")),
        ("of the best arm", sheets.share("single")),
    ]
    return Sheet(name="short", title=f"Short streams: thompson, {seeds} seeds", columns=columns, rows=rows)


def _single(always: Sequence[Expected], terms: Terms) -> np.ndarray:
    return max((expected.utility(terms) for expected in always), key=lambda u: float(u.mean()))


def _of_ladder(streams: Sequence[tuple[np.ndarray, np.ndarray]], ladder: np.ndarray) -> tuple[float, float]:
    """Streams of (tasks, utilities) against a reference by task: the ratio of means, and its standard error.

    By linearisation of a ratio estimator (Cochran, Sampling Techniques, 3rd ed., 1977, eq. 6.13): a ratio a stream
    would weigh a stream of easy tasks as much as one of hard tasks.
    """
    mine = np.array([float(u.mean()) for _, u in streams])
    theirs = np.array([float(ladder[tasks].mean()) for tasks, _ in streams])
    ratio = float(mine.mean() / theirs.mean())
    return ratio, sheets.mean_and_stderr((mine - ratio * theirs) / theirs.mean())[1]


def peers(runs: Runs, seeds: int) -> list[Sheet]:
    """All policies on `eight` at value 5, under each condition; `thompson` and `thompson-single` against each."""
    place = Place(pool="eight")
    found = []
    for name, terms in CONDITIONS.items():
        runs.need(
            (Case(place=place, terms=terms, policy=p, seed=s) for p in POLICIES for s in range(seeds)),
            f"policies, {name}",
        )
        found.append(_peers(name, runs.compared(place, terms, POLICIES, seeds), seeds))
    return found


def _peers(condition: str, result: Result, seeds: int) -> Sheet:
    ladder = result.references.best_fixed_ladder.utility_per_session
    rows = []
    for policy in sorted(result.policies, key=lambda p: -p.utility_per_session):
        ahead = result.paired["thompson"].get(policy.name)
        single = result.paired["thompson-single"].get(policy.name) if policy.name in SINGLE_SHOT else None
        # Its own row holds it to the best arm alone, which stands for every arm.
        met = (ahead or result.paired["thompson"]["best_single"]).low > 0.0
        if single is not None:
            met = met and single.high >= 0.0
        rows.append(
            {
                "policy": policy.name,
                "utility": policy.utility_per_session,
                "utility_stderr": policy.stderr.utility_per_session,
                "share": policy.utility_per_session / ladder,
                "second_half": policy.second_half.utility_per_session / ladder,
                "success": policy.success_rate,
                "usd": policy.cost_usd_per_session,
                "thompson": ahead,
                "single": single,
                "minus_single": result.paired[policy.name]["best_single"],
                "met": met,
            }
        )
    columns: list[Column] = [
        ("policy", sheets.text("policy")),
        ("utility", sheets.usd("utility")),
        ("of ladder", sheets.share("share")),
        ("2nd half", sheets.share("second_half")),
        ("success", sheets.share("success")),
        ("$ each", sheets.usd("usd")),
        ("thompson minus it", sheets.gap("thompson")),
        ("thompson-single minus it", sheets.gap("single")),
        ("minus the best arm", sheets.gap("minus_single")),
        ("met", sheets.yes("met")),
    ]
    title = f"eight, value 5, {condition}: {seeds} seeds"
    return Sheet(name=f"peers, {condition}", title=title, columns=columns, rows=rows)


def _utilities(runs: Runs, place: Place, terms: Terms, seeds: int) -> list[np.ndarray]:
    return [utility(run, terms) for run in runs.of(place, terms, "thompson", seeds)]


def _whole(runs: Runs, seeds: int) -> list[Sheet]:
    sheet = whole_pools(runs, seeds)
    return [sheet, strongest_arm(sheet)]


PARTS: Mapping[str, Callable[[Runs, int, int], list[Sheet]]] = {
    "targets": lambda runs, seeds, splits: _whole(runs, seeds),
    "honest": lambda runs, seeds, splits: [on_halves(runs, splits, figures=True)],
    "halves": lambda runs, seeds, splits: [on_halves(runs, splits, figures=False)],
    "short": lambda runs, seeds, splits: [short_streams(runs, seeds)],
    "peers": lambda runs, seeds, splits: peers(runs, seeds),
}


def write(found: Sequence[Sheet], markdown: Path | None, json: Path | None) -> None:
    """Writes what was found so far."""
    if markdown is not None:
        markdown.write_text("\n".join(sheet.markdown() for sheet in found), encoding="utf-8")
    if json is not None:
        rows: dict[str, Sequence[Row]] = {sheet.name: sheet.rows for sheet in found}
        json.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")


def main() -> int:
    """Runs the parts named, or all: 0, or 2 where there are no outcomes to run on."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.targets", description=__doc__)
    parser.add_argument("only", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--data", type=Path, help="folder of measured outcomes (POINTSMAN_DATA, or ../shared/data)")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--splits", type=int, default=20, help="random splits into halves (20)")
    parser.add_argument("--quick", action="store_true", help="2 seeds and 2 splits, to see that it works")
    parser.add_argument("--jobs", type=int, default=workers.cores(), help="processes (one a core)")
    parser.add_argument("--markdown", type=Path, help="write the tables there as well")
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    given = parser.parse_args()
    if unknown := set(given.only) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}")
    data = measured.folder(given.data)
    if data is None:
        print("targets: no measured outcomes: name their folder with --data or POINTSMAN_DATA", file=sys.stderr)
        return 2
    console = Console() if sys.stdout.isatty() else Console(width=200)
    runs = Runs(data, given.jobs, Console(stderr=True))
    seeds, splits = (2, 2) if given.quick else (given.seeds, given.splits)
    found: list[Sheet] = []
    for name, part in PARTS.items():
        if not given.only or name in given.only:
            for sheet in part(runs, seeds, splits):
                sheet.show(console)
                found.append(sheet)
            # After each part: a long run that is stopped has not run for nothing.
            write(found, given.markdown, given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
