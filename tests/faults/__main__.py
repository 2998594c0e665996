"""`make faults`: faults that are survived, each held to its aim.

Without names all of them are tried. Exit status 1 where what is promised does not hold, 2 for bad usage.
"""

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tests.faults.shim import NoShim
from tests.faults.trial import Broken, Trial

FAULTS = (
    "kills",
    "disk",
    "power",
    "damage",
    "rewards",
    "backups",
    "hostile",
    "parsers",
    "clocks",
    "checker",
    "soak",
    "replicas",
)
RESULTS = Path(__file__).with_name("RESULTS.json")


def main() -> int:
    """Tries the faults named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FAULTS))
    parser.add_argument("--quick", action="store_true", help="a sample of each aim; nothing is written down")
    parser.add_argument("--share", type=float, default=1.0, metavar="S", help="this much of each aim, such as 0.1")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="how long the checker and the soak are to go on, instead")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="where to draw what is measured over time")
    parser.add_argument("--json", metavar="FILE", help="write what came of it as JSON; - is standard output")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(FAULTS):
        parser.error(f"no fault {', '.join(sorted(unknown))}")
    console = Console(stderr=asked.json == "-", width=None if sys.stdout.isatty() else 140)
    told = []
    for name in asked.names or FAULTS:
        told.append(_try(name, asked, console))
        if not asked.quick:
            _write_down(told[-1])
    _show(console, told)
    if asked.json is not None:
        text = json.dumps(told, indent=2, ensure_ascii=False) + "\n"
        sys.stdout.write(text) if asked.json == "-" else Path(asked.json).write_text(text, encoding="utf-8")
    return int(any(entry["verdict"] == "broken" for entry in told))


def _try(name: str, asked: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Runs one; what came of it."""
    module = importlib.import_module(f"tests.faults.{name}")
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f} of {task.total:,.0f}"))
    bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
    timed = getattr(module, "MINUTES", None)
    share = asked.minutes / timed if timed and asked.minutes else asked.share
    entry: dict[str, Any] = {"name": name, "aim": module.AIM, "share_of_the_aim": share, "seed": asked.seed}
    begun = time.monotonic()
    with bar, tempfile.TemporaryDirectory(prefix=f"pointsman-{name}-", ignore_cleanup_errors=True) as folder:
        task = bar.add_task(name, total=1)
        trial = Trial(
            folder=Path(folder),
            seed=asked.seed,
            quick=asked.quick,
            share=share,
            pictures=asked.pictures,
            tell=lambda done, of: bar.update(task, completed=done, total=of),
        )
        try:
            entry |= {"verdict": "holds", "figures": dict(module.run(trial))}
        except Broken as error:
            entry |= {"verdict": "broken", "why": str(error)}
        except NoShim as error:
            entry |= {"verdict": "left out", "why": str(error)}
    return entry | {"seconds": round(time.monotonic() - begun, 1)}


def _show(console: Console, told: list[dict[str, Any]]) -> None:
    table = Table(title="Faults", title_justify="left")
    for heading in ("fault", "aim", "what was found", "seed", "seconds", ""):
        table.add_column(heading, overflow="fold", justify="right" if heading in ("seed", "seconds") else "left")
    for entry in told:
        found = entry.get("why") or in_words(entry["figures"])
        row = (entry["name"], entry["aim"], found, str(entry["seed"]), f"{entry['seconds']:,.0f}", entry["verdict"])
        table.add_row(*row, style="red" if entry["verdict"] == "broken" else "")
    console.print(table)


def in_words(figures: dict[str, float | str]) -> str:
    """Figures on one line."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:,.4g}"
        if isinstance(value, float)
        else f"{name.replace('_', ' ')} {value:,}"
        if isinstance(value, int)
        else f"{name.replace('_', ' ')} {value}"
        for name, value in figures.items()
    )


def _write_down(entry: dict[str, Any]) -> None:
    """Keeps the last full run of each fault."""
    kept = {entry["name"]: entry for entry in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    where = {"python": platform.python_version(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    if entry["verdict"] != "left out":
        kept[entry["name"]] = entry | where
    entries = [kept[name] for name in FAULTS if name in kept]
    RESULTS.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
