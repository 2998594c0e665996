"""`pointsman simulate`: its flags, and what they lead to."""

import argparse
import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bandit import policy as policies
from bandit import policy_file
from bandit.errors import InvalidInput
from bandit.types import Arm, RouterSettings
from sim import compare, outcomes, references, runner, spread, struggling, study, synthetic, tables
from sim.result import OptimumResult, Result
from sim.workers import cores
from sim.world import Terms, World, every_arm, shares


def add_simulate(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand `simulate`; the parsed arguments' `run` is what to call with them."""
    parser = subparsers.add_parser(
        "simulate",
        help="run policies online, from nothing, on tasks whose outcomes are known",
        description="Runs policies online, from nothing, revealing only what the chosen arm did.",
    )
    parser.set_defaults(run=run)
    world = parser.add_mutually_exclusive_group(required=True)
    world.add_argument(
        "--outcomes", metavar="FILE", type=Path, help="task_id, model, success, cost_usd; Parquet or CSV"
    )
    world.add_argument("--world", metavar="NAME", help=f"a synthetic world: {', '.join(synthetic.NAMES)}")
    parser.add_argument("--tasks", metavar="FILE", type=Path, help="task_id and any features; Parquet or CSV")
    parser.add_argument(
        "--prices", metavar="FILE", type=Path, help="model, input_price, output_price, cache_read_price"
    )
    parser.add_argument(
        "--figures",
        metavar="FILE",
        type=Path,
        help="what benchmarks say of the models: model, success_rate, category, cost_usd_mean; Parquet or CSV",
    )
    parser.add_argument("--arms", metavar="A,B,…", help="the models to choose from (default: all)")
    parser.add_argument(
        "--policy",
        metavar="P",
        action="append",
        help=f"may be given several times: {', '.join(policies.KNOWN)}, or a policy file, TOML",
    )
    parser.add_argument("--value", metavar="USD", type=above_zero, default=5.0, help="what a success is worth (5)")
    parser.add_argument(
        "--detect", metavar="P", type=_probability, default=1.0, help="chance that a failure is noticed (1)"
    )
    parser.add_argument(
        "--false-alarm", metavar="P", type=_probability, default=0.0, help="chance that a success is thought failed (0)"
    )
    parser.add_argument("--max-attempts", metavar="N", type=_count, default=3, help="attempts of a session (3)")
    parser.add_argument(
        "--sessions", metavar="N", type=_count, help="draw N tasks with replacement (default: each task once)"
    )
    parser.add_argument("--seeds", metavar="N", type=_count, default=20, help="independent runs of each policy (20)")
    add_spreading(parser)
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - is standard output")
    parser.add_argument(
        "--delay",
        metavar="N",
        type=_from_zero,
        default=0,
        help="outcomes are told when N more sessions have begun, alarms at once (0)",
    )
    parser.add_argument(
        "--log", metavar="DIR", type=Path, help="write the events as the archive does: DIR/POLICY/seed-N/*.parquet"
    )
    parser.add_argument(
        "--report", metavar="DIR", type=Path, help="write a report: DIR/report.html, one file, and its pictures"
    )


def add_spreading(parser: argparse.ArgumentParser) -> None:
    """Adds `--jobs` and `--ray`: where the work is done."""
    spreading = parser.add_mutually_exclusive_group()
    spreading.add_argument("--jobs", metavar="N", type=_count, help="processes (default: one a core)")
    spreading.add_argument(
        "--ray", metavar="ADDRESS", help="spread over a Ray cluster instead: local, auto, or its address (extra: ray)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs `simulate`: 0, or 2 after one line on standard error that says what was wrong and where."""
    try:
        result = _simulate(args)
    except InvalidInput as error:
        one_line = str(error).replace("\n", " ")  # names in files may hold anything
        print(f"pointsman simulate: {one_line}", file=sys.stderr)
        return 2
    if args.json is not None:
        document = msgspec.json.format(msgspec.json.encode(result), indent=2).decode()
        if args.json == "-":
            print(document)
        else:
            try:
                Path(args.json).write_text(document + "\n", encoding="utf-8")
            except OSError as error:
                print(f"pointsman simulate: --json: {args.json} cannot be written: {error.strerror}", file=sys.stderr)
                return 2
    tables.show(result, Console(stderr=args.json == "-"))
    return 0


def _simulate(args: argparse.Namespace) -> Result:
    world = _world(args)
    terms = Terms(
        value_usd=args.value,
        detect=args.detect,
        false_alarm=args.false_alarm,
        max_attempts=args.max_attempts,
        delay=args.delay,
    )
    routers = _routers(args.policy or ["thompson"], terms, world.arms)
    # References first: whatever they refuse should not cost the time of a run.
    hindsight = references.look_back(world.success, world.cost_usd, terms, shares(world, args.sessions))
    check_writable(args.json)
    if args.log is not None:
        _make_empty(args.log)
    if args.report is not None:
        imported("report_folder").check(args.report)
    with progress_bar() as progress:
        bar = progress.add_task("runs", total=len(routers) * args.seeds)
        runs = spread.run_all(
            world,
            terms,
            routers,
            seeds=args.seeds,
            sessions=args.sessions,
            jobs=args.jobs or cores(),
            ray=args.ray,
            on_run=lambda: progress.advance(bar),
            log=args.log,
        )
    result = compare.compare(world, terms, hindsight, runs)
    if args.world is not None:
        best = _optimum(world, synthetic.optimum(world.name, terms, args.sessions))
        result = msgspec.structs.replace(result, optimum=best)
    if args.report is not None:
        found = study.gather(world, terms, hindsight, runs, result)
        with progress_bar() as progress:
            bar = progress.add_task("pictures", total=len(imported("report").plan(found)))
            imported("report").write(args.report, found, on_picture=lambda: progress.advance(bar))
    return result


def imported(name: str) -> ModuleType:
    """A module of the report's, imported when it is asked for: what draws takes longer to import than a short run."""
    return importlib.import_module(f"sim.{name}")


def progress_bar() -> Progress:
    """A bar on standard error, where somebody looks."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _world(args: argparse.Namespace) -> World:
    if args.world is None:
        return outcomes.read(
            outcomes=args.outcomes,
            tasks=args.tasks,
            prices=args.prices,
            figures=args.figures,
            arms=_arms(args.arms),
        )
    for flag in ("tasks", "prices", "figures", "arms"):
        if getattr(args, flag) is not None:
            raise InvalidInput(f"--{flag}", "a synthetic world has its own")
    table = synthetic.make(args.world)
    return struggling.running(table) if table.name == "struggling" else table


def _optimum(world: World, best: synthetic.Optimum) -> OptimumResult:
    arms = every_arm(world)
    (single, single_utility), (ladder, ladder_utility) = best.best_single, best.best_fixed_ladder
    return OptimumResult(
        first_session=best.first_session,
        best_single=arms[single].id,
        best_single_utility=single_utility,
        best_fixed_ladder=">".join(arms[k].id for k in ladder),
        best_fixed_ladder_utility=ladder_utility,
        best_policy_utility=best.best_policy,
        phases=tuple(_optimum(world, phase) for phase in best.phases),
    )


def _arms(text: str | None) -> Sequence[str]:
    if text is None:
        return ()
    arms = [arm.strip() for arm in text.split(",")]
    if not all(arms):
        raise InvalidInput("--arms", f"{text!r} has an empty name")
    if len(set(arms)) < len(arms):
        raise InvalidInput("--arms", f"{text!r} names an arm twice")
    return arms


def _routers(given: Sequence[str], terms: Terms, arms: Sequence[Arm]) -> Mapping[str, RouterSettings]:
    """The policies as given, and what the router of each is set to; each is known to start on these arms."""
    routers: dict[str, RouterSettings] = {}
    for name in given:
        if name in routers:
            raise InvalidInput("--policy", f"{name!r} is given twice")
        try:
            routers[name] = _router(name, terms)
            policies.parse(routers[name].policy).start(arms)
        except InvalidInput as error:
            raise InvalidInput("--policy", f"{name!r}: {error.why}") from error
    return routers


def _router(name: str, terms: Terms) -> RouterSettings:
    """What a specification or a policy file makes of a router under these terms."""
    if not name.endswith(".toml") and not _is_file(name):
        return runner.plain(name, terms)
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidInput("--policy", f"cannot be read: {error}") from error
    try:
        said = policy_file.parse(text)
    except InvalidInput as error:
        raise InvalidInput("--policy", f"{error.field}: {error.why}" if error.field else error.why) from error
    return said.over(runner.plain(said.policy, terms))


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # a name too long for a file, say
        return False


def _make_empty(log: Path) -> None:
    """Makes the folder of events. Raises InvalidInput where it holds anything, which might be taken for this run's."""
    try:
        log.mkdir(parents=True, exist_ok=True)
        if any(log.iterdir()):
            raise InvalidInput("--log", f"{log} is not empty")
    except OSError as error:
        raise InvalidInput("--log", f"{log} cannot be used: {error.strerror}") from error


def check_writable(target: str | None) -> None:
    """A run of minutes must not end at a file that cannot be written. Leaves none where there was none.

    Raises InvalidInput naming `--json`.
    """
    if target in (None, "-"):
        return
    try:
        path = Path(str(target))
        there = path.exists()
        path.open("a", encoding="utf-8").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise InvalidInput("--json", f"{target} cannot be written: {error.strerror}") from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


N = TypeVar("N", int, float)


def _checked(what: str, parse: Callable[[str], N], lowest: N, highest: N) -> Callable[[str], N]:
    """A type of flag: what `parse` makes of it, within its range."""

    def check(text: str) -> N:
        try:
            number = parse(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None
        if not lowest <= number <= highest:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return number

    return check


above_zero = _checked("a number of dollars above 0", _finite, 1e-9, 1e12)
_probability = _checked("a probability from 0 to 1", _finite, 0.0, 1.0)
_count = _checked("a whole number from 1", int, 1, 10**9)
_from_zero = _checked("a whole number from 0", int, 0, 10**9)
