"""`pointsman replay`: its flags, and what they lead to.

Exit status: 0 where every candidate passes the gate, or there is none; 2 for bad usage or input; 3 where a candidate
fails it; 4 where none fails it and one is undecided.
"""

import argparse
import functools
import sys
from pathlib import Path

import msgspec
from rich.console import Console

from bandit import policy as policies
from bandit.errors import InvalidInput
from sim import replay_tables
from sim.cli import above_zero, add_spreading, check_writable, imported, progress_bar
from sim.logged import Log
from sim.replay import Asked, replay
from sim.replay_result import ReplayResult
from sim.workers import cores


def add_replay(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand `replay`; the parsed arguments' `run` is what to call with them."""
    parser = subparsers.add_parser(
        "replay",
        help="how other policies would have done on a log, and whether they pass a gate",
        description="Scores policies on logged decisions, off-policy, with intervals that mean what they say.",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--events", metavar="DIR", type=Path, required=True, help="an archive, an export, or what simulate --log wrote"
    )
    parser.add_argument(
        "--candidate",
        metavar="P",
        action="append",
        required=True,
        help=f"may be given several times: {', '.join(policies.KNOWN)}, a policy file, or a saved epoch's file",
    )
    parser.add_argument("--baseline", metavar="P", default="logged", help="what to compare with (what was logged)")
    parser.add_argument("--value", metavar="USD", type=above_zero, default=5.0, help="what a success is worth (5)")
    parser.add_argument("--router", metavar="R", default="", help="whose events, where there are several routers'")
    parser.add_argument(
        "--gate", metavar="EXPR", help="'success|cost|utility >=|<= [number *] baseline [+|- number]', joined by 'and'"
    )
    add_spreading(parser)
    parser.add_argument("--report", metavar="DIR", type=Path, help="write a page with pictures: DIR/report.html")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - is standard output")


def run(args: argparse.Namespace) -> int:
    """Runs `replay`: its exit status, 2 after one line on standard error that says what was wrong and where."""
    try:
        check_writable(args.json)
        result = _replay(args)
    except InvalidInput as error:
        one_line = str(error).replace("\n", " ")
        print(f"pointsman replay: {one_line}", file=sys.stderr)
        return 2
    if args.json is not None:
        document = msgspec.json.format(msgspec.json.encode(result), indent=2).decode()
        if args.json == "-":
            print(document)
        else:
            try:
                Path(args.json).write_text(document + "\n", encoding="utf-8")
            except OSError as error:
                print(f"pointsman replay: --json: {args.json} cannot be written: {error.strerror}", file=sys.stderr)
                return 2
    replay_tables.show(result, Console(stderr=args.json == "-"))
    verdicts = [candidate.gate.verdict for candidate in result.candidates if candidate.gate is not None]
    return 3 if "fail" in verdicts else 4 if "undecided" in verdicts else 0


def _replay(args: argparse.Namespace) -> ReplayResult:
    if len(set(args.candidate)) < len(args.candidate):
        raise InvalidInput("--candidate", "one is given twice")
    asked = Asked(candidates=args.candidate, baseline=args.baseline, value_usd=args.value, gate=args.gate)
    if args.report is not None:
        imported("report_folder").check(args.report)
    with progress_bar() as progress:
        jobs = args.jobs or cores()
        with Log(args.events, router=args.router, threads=jobs) as log:
            sessions = progress.add_task("sessions", total=log.sessions)
            advance = functools.partial(progress.advance, sessions)
            result = replay(log, asked, jobs=jobs, ray=args.ray, on_sessions=advance)
        if args.report is not None:
            report = imported("replay_report")
            pictures = progress.add_task("pictures", total=len(report.plan(result)))
            report.write(args.report, result, on_picture=lambda: progress.advance(pictures))
    return result
