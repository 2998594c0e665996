"""Logged bandit feedback as a table: CSV with a header, as Open Bandit Dataset's files are.

The file is read twice: once for the arms and for which columns hold numbers alone.
"""

import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bandit.errors import InvalidInput
from bandit.types import FeatureValue
from sim.formats import files
from sim.formats.obp_npz import spread
from sim.formats.rounds import Range, Round, as_text, told_twice

_NAMES = {
    "action": ("action", "item_id"),
    "reward": ("reward", "click"),
    "pscore": ("pscore", "propensity_score"),
    "position": ("position",),
}
"""What a column is -> what it may be called: as Open Bandit Pipeline does, and as Open Bandit Dataset."""
_DISTRIBUTION = ("pi_b_", "action_dist_")
_IGNORED = ("", "timestamp", "rank")
_MOST_ARMS = 1000


class _Table(NamedTuple):
    """What the first reading found out."""

    columns: dict[str, int]
    """Of those in `_NAMES` their positions."""
    arms: tuple[str, ...]
    chances: tuple[int, ...]
    """Where each arm's probability stands; empty: nowhere."""
    features: dict[str, tuple[int, bool]]
    """By name the position, and whether it holds numbers alone."""


def read(source: Path, rewards: Range) -> Callable[[], Iterator[tuple[str, Round]]]:
    """The rows of a file, each time it is called from the beginning, with their places; as `rounds.Rounds`.

    - action (or item_id), reward (or click) and pscore (or propensity_score) must be there. The arms are the
      different actions, by name.
    - pi_b_ARM or action_dist_ARM, one for every arm: the distribution. Without it, what pscore leaves stands evenly
      on the others.
    - Every other column is a feature: numbers where it holds nothing else, else categories; empty: absent. The
      columns timestamp, rank and those without a name are not kept. A position, if there is one, is a category.
    - `rewards` maps reward to success.

    Everything else that cannot be is refused with InvalidInput naming file, line and field.
    """
    table: list[_Table] = []

    def rounds() -> Iterator[tuple[str, Round]]:
        if not table:
            table.append(_scan(source))
        for number, (line, row) in enumerate(_rows(source), 1):
            if number == 1:
                continue
            place = f"{source} line {line}"
            try:
                yield place, _round(table[0], row, number - 1, rewards)
            except InvalidInput as error:
                raise InvalidInput(f"{place}: {error.field}", error.why) from error

    return rounds


def _rows(source: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows with the number of the line on which each ends; the header is the first."""
    at = 0

    def texts() -> Iterator[str]:
        nonlocal at
        for number, line in files.lines(source):
            at = number
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")

    width = 0
    try:
        for row in csv.reader(texts(), strict=True):
            width = width or len(row)
            if len(row) != width:
                raise InvalidInput(f"{source} line {at}", f"has {len(row)} fields, the header {width}")
            yield at, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise InvalidInput(f"{source} line {at}", f"not CSV: {error}") from error


def _scan(source: Path) -> _Table:
    rows = _rows(source)
    _, header = next(rows, (0, list[str]()))
    columns = _columns(source, header)
    seen: dict[str, None] = {}
    numeric = [True] * len(header)
    for line, row in rows:
        seen.setdefault(row[columns["action"]])
        if len(seen) > _MOST_ARMS:
            raise InvalidInput(f"{source} line {line}: action", f"there are more than {_MOST_ARMS} different ones")
        numeric = [was and (not text or _is_number(text)) for was, text in zip(numeric, row, strict=True)]
    stem = next((stem for stem in _DISTRIBUTION if any(name.startswith(stem) for name in header)), None)
    # Arms that were never taken are told of by the distribution alone.
    arms = [name.removeprefix(stem) for name in header if name.startswith(stem)] if stem else list(seen)
    if missing := [arm for arm in seen if arm not in arms]:
        raise InvalidInput(f"{source}: {stem}{missing[0]}", "is missing")
    taken = {*columns.values(), *(i for i, name in enumerate(header) if name.startswith(_DISTRIBUTION))}
    return _Table(
        columns=columns,
        arms=tuple(arms),
        chances=tuple(header.index(f"{stem}{arm}") for arm in arms) if stem else (),
        features={name: (i, numeric[i]) for i, name in enumerate(header) if i not in taken and name not in _IGNORED},
    )


def _columns(source: Path, header: list[str]) -> dict[str, int]:
    named = [name for name in header if name]
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise InvalidInput(f"{source} line 1", f"there are two columns {twice!r}")
    found = {what: header.index(name) for what, names in _NAMES.items() for name in names if name in header}
    for what in ("action", "reward", "pscore"):
        if what not in found:
            raise InvalidInput(f"{source} line 1: {' or '.join(_NAMES[what])}", "is missing")
    return found


def _round(table: _Table, row: list[str], number: int, rewards: Range) -> Round:
    chosen = table.arms.index(row[table.columns["action"]])
    pscore = _number("pscore", row[table.columns["pscore"]])
    if not 0.0 < pscore <= 1.0:
        raise InvalidInput("pscore", f"{pscore:g} does not lie in (0, 1]")
    if table.chances:
        propensities = [_number(f"probability of {table.arms[k]}", row[i]) for k, i in enumerate(table.chances)]
        told_twice("pscore", pscore, propensities[chosen])
        propensities[chosen] = pscore
    else:
        propensities = spread(pscore, chosen, len(table.arms))
    features: dict[str, FeatureValue] = {
        name: float(row[i]) if numeric else as_text(row[i]) for name, (i, numeric) in table.features.items() if row[i]
    }
    if "position" in table.columns and row[table.columns["position"]] not in ("", "0"):
        features["position"] = row[table.columns["position"]]
    return Round(
        id=str(number),
        at_us=number * 1_000_000,
        arms=table.arms,
        propensities=tuple(propensities),
        chosen=chosen,
        features=features,
        success=rewards.success("reward", _number("reward", row[table.columns["reward"]])),
    )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _number(field: str, text: str) -> float:
    if not _is_number(text):
        raise InvalidInput(field, f"{text[:40]!r} is no finite number")
    return float(text)
