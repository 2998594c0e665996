"""What `pointsman export | import` does with formats of other projects: their flags, and which module has which.

The service's side of these commands gives a folder of Parquet files, or takes one.
"""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim.formats import dsjson, obp_csv, obp_npz, rounds
from sim.formats.rounds import Range
from sim.formats.sessions import Sessions

_DSJSON, _OBP = "vw-dsjson", "obp"
FORMATS = (_DSJSON, _OBP)
"""Names of the formats."""


def add_export_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags with which other formats are written."""
    parser.add_argument(
        "--reward",
        choices=("utility", "success"),
        default="utility",
        help="of other formats: value x success - cost in dollars (default), or success alone; a cost is minus that",
    )
    parser.add_argument(
        "--value", metavar="USD", type=_value, help="what a success is worth (what the router said at the decision)"
    )


def add_import_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags with which other formats are read."""
    parser.add_argument(
        "--reward-range",
        metavar="LOW,HIGH",
        type=_range,
        default=Range(),
        help="of other formats: the rewards (minus the costs) that stand for success 0 and 1 (0,1); between, a share",
    )


def export(asked: argparse.Namespace, events: Path) -> Mapping[str, Any]:
    """Writes `asked.out` from a folder of events. Raises InvalidInput and OSError."""
    write = dsjson.write if asked.format == _DSJSON else obp_npz.write
    with Sessions(events, asked.router or "") as sessions:
        return write(sessions, asked.out, reward=asked.reward, value_usd=asked.value)._asdict()


def convert(asked: argparse.Namespace, events: Path) -> Mapping[str, Any]:
    """Makes the folder `events` from `asked.source`. Raises InvalidInput and OSError; then it is not there."""
    reader = dsjson.read if asked.format == _DSJSON else obp_csv.read if _is_table(asked.source) else obp_npz.read
    decisions, arms = rounds.write(reader(asked.source, asked.reward_range), events, asked.router)
    return {"decisions": decisions, "arms": arms}


def _is_table(source: Path) -> bool:
    return source.name.endswith((".csv", ".csv.gz"))


def _value(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value <= 1e12:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of dollars above 0")
    return value


def _range(text: str) -> Range:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW,HIGH") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW,HIGH with LOW below HIGH")
    return Range(low=low, high=high)
