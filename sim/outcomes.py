"""A world read from files: a task x arm matrix of real outcomes, as Parquet or CSV.

The files come from outside, so everything is checked, and each error says which file, column and row is at fault.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bandit.errors import InvalidInput
from bandit.types import Arm, Features, FeatureValue, Figure, Price, Text
from sim import duck
from sim.world import Floats, Table, Task

_TOKENS = ("input_tokens", "output_tokens", "cached_tokens")
_LARGEST = 1e12
"""No dollars, tokens or seconds of one attempt come near it; sums of squares stay finite below it."""
_LABELS = ("VARCHAR", "ENUM", "UUID", "DATE", "TIME")
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
            "UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL")  # fmt: skip
_NOTHING = '"NULL"'
"""The type of a column that holds nothing but nulls."""

_PARQUET = "select * from read_parquet(?)"
# Nothing about a CSV file is guessed: a guess may skip rows that do not fit it, and read the key 007 as 7.
_CSV = """select * from read_csv(?, header = true, delim = ',', quote = '"', escape = '"', skip = 0, comment = '',
    all_varchar = true, null_padding = false, ignore_errors = false, strict_mode = true)"""

Row = dict[str, Any]


def read(
    *,
    outcomes: Path,
    tasks: Path | None = None,
    prices: Path | None = None,
    figures: Path | None = None,
    arms: Sequence[str] = (),
) -> Table:
    """The world of a file of outcomes, with the tasks on which every arm has a verdict, in the order of their ids.

    `outcomes` has columns task_id, model, success, cost_usd and optionally input_tokens, output_tokens,
    cached_tokens, latency_seconds; `tasks` has task_id and any features; `prices` has model, input_price,
    output_price and optionally cache_read_price, in dollars per million tokens; `figures` has model, success_rate and
    optionally category and cost_usd_mean, where a row without a category is the model's overall figure. `arms` are
    the models of the run, in order; none: all, by name. A missing cost becomes its arm's mean over
    the tasks that count.
    Raises InvalidInput naming file, column and row.
    """
    rows = _read(outcomes, "--outcomes", ("task_id", "model"), ("success", "cost_usd"), (*_TOKENS, "latency_seconds"))
    models = sorted({row["model"] for row in rows})
    for arm in arms:
        if arm not in models:
            raise InvalidInput("--arms", f"{outcomes} has no outcomes of {arm!r}; it has {', '.join(models)}")
    names = list(arms) or models
    at = {name: k for k, name in enumerate(names)}
    ids = sorted({row["task_id"] for row in rows})
    row_of = {task_id: i for i, task_id in enumerate(ids)}

    def matrix(column: str, lowest: float, highest: float) -> Floats:
        values = np.full((len(ids), len(names)), np.nan)
        for row in rows:
            number = _number(row, column, outcomes, "--outcomes", lowest, highest)
            if number is not None and row["model"] in at:
                values[row_of[row["task_id"]], at[row["model"]]] = number
        return values

    success = matrix("success", 0.0, 1.0)
    cost = matrix("cost_usd", 0.0, _LARGEST)
    counts = np.asarray(~np.isnan(success).any(axis=1))
    if not counts.any():
        raise InvalidInput("--outcomes", f"{outcomes} has no task with a verdict from every arm of {', '.join(names)}")
    success, cost = success[counts], cost[counts]
    for name, known in zip(names, np.asarray(~np.isnan(cost).all(axis=0)), strict=True):
        if not known:
            raise InvalidInput("--outcomes", f"{outcomes}: cost_usd: none is known of {name!r}")
    cost = np.where(np.isnan(cost), np.nanmean(cost, axis=0), cost)
    columns = rows[0].keys()
    usage = latency = None
    if "input_tokens" in columns and "output_tokens" in columns:
        usage = np.stack([matrix(c, 0.0, _LARGEST)[counts] if c in columns else 0.0 * cost for c in _TOKENS], axis=2)
        usage[..., 2] = np.nan_to_num(usage[..., 2], nan=0.0)
        usage[np.isnan(usage).any(axis=2)] = np.nan
    if "latency_seconds" in columns:
        latency = matrix("latency_seconds", 0.0, _LARGEST)[counts]
    features = _features(tasks) if tasks is not None else {}
    price = _prices(prices) if prices is not None else {}
    told = _figures(figures) if figures is not None else {}
    return Table(
        name=outcomes.name,
        arms=tuple(Arm(id=name, price=price.get(name), figures=told.get(name, ())) for name in names),
        tasks=tuple(
            Task(id=task_id, features=features.get(task_id, {}))
            for task_id, here in zip(ids, counts, strict=True)
            if here
        ),
        success=success,
        cost_usd=cost,
        usage=usage,
        latency_seconds=latency,
    )


def _features(path: Path) -> Mapping[str, Features]:
    """The features of each task of a file, by task id; nulls are absent."""
    read: dict[str, Features] = {}
    lengths: dict[str, int] = {}
    for row in _read(path, "--tasks", ("task_id",), (), None):
        features: Features = {}
        for column, value in row.items():
            if column == "task_id" or value is None:
                continue
            features[column] = _feature(row, column, path)
            if isinstance(value, list) and lengths.setdefault(column, len(value)) != len(value):
                raise InvalidInput(
                    "--tasks", f"{path}: {column} of {_key(row)}: {len(value)} numbers, not {lengths[column]}"
                )
        read[row["task_id"]] = features
    return read


def _feature(row: Row, column: str, path: Path) -> FeatureValue:
    value = row[column]
    match value:
        case bool():
            return value
        case str():
            return Text(value) if column == "text" else value
        case list():
            if value and all(isinstance(x, int | float) and math.isfinite(x) for x in value):
                return tuple(float(x) for x in value)
            raise InvalidInput("--tasks", f"{path}: {column} of {_key(row)}: an embedding holds finite numbers only")
    number = _number(row, column, path, "--tasks", -math.inf, math.inf)
    assert number is not None, "nulls are absent"
    return number


def _prices(path: Path) -> Mapping[str, Price]:
    """The list price of each model of a file."""
    read = {}
    for row in _read(path, "--prices", ("model",), ("input_price", "output_price"), ("cache_read_price",)):
        paid = {c: _number(row, c, path, "--prices", 0.0, _LARGEST) for c in row if c != "model"}
        if (into := paid["input_price"]) is None or (out := paid["output_price"]) is None:
            raise InvalidInput("--prices", f"{path}: {_key(row)} has no input_price or no output_price")
        read[row["model"]] = Price(input_usd=into, output_usd=out, cached_usd=paid.get("cache_read_price"))
    return read


def _figures(path: Path) -> Mapping[str, tuple[Figure, ...]]:
    """The benchmark figures of each model of a file."""
    read: dict[str, dict[str | None, Figure]] = {}
    rows = _read(path, "--figures", ("model",), ("success_rate",), ("category", "cost_usd_mean"), unique=False)
    for row in rows:
        rate = _number(row, "success_rate", path, "--figures", 0.0, 1.0)
        cost = _number(row, "cost_usd_mean", path, "--figures", 0.0, _LARGEST) if "cost_usd_mean" in row else None
        category = row.get("category") or None
        if category is not None and not isinstance(category, str):
            raise InvalidInput("--figures", f"{path}: category of {_key(row)}: {category!r} is not a string")
        if rate is None:
            raise InvalidInput("--figures", f"{path}: {_key(row)} has no success_rate")
        mine = read.setdefault(row["model"], {})
        if category in mine:
            of = f"category {category!r}" if category is not None else "no category"
            raise InvalidInput("--figures", f"{path} has {_key(row)} with {of} more than once")
        mine[category] = Figure(category=category, success_rate=rate, cost_usd=cost)
    return {model: tuple(mine.values()) for model, mine in read.items()}


def _read(
    path: Path,
    field: str,
    keys: Sequence[str],
    required: Sequence[str],
    optional: Sequence[str] | None,
    *,
    unique: bool = True,
) -> list[Row]:
    """The rows of a file in the order of their keys, with the columns asked for; `optional` None: all there are.

    Keys are strings, present, and where `unique` says so each there once. Raises InvalidInput.
    """
    if not path.is_file():
        raise InvalidInput(field, f"no file {path}")
    try:
        rows = _query(path, field, keys, required, optional)
    except (duck.Error, OSError, UnicodeError) as error:
        first = str(error).strip().splitlines()[0]
        raise InvalidInput(field, f"{path} cannot be read: {first}") from error
    _check_keys(rows, keys, path, field, unique=unique)
    return rows


def _query(
    path: Path, field: str, keys: Sequence[str], required: Sequence[str], optional: Sequence[str] | None
) -> list[Row]:
    with path.open("rb") as file:
        parquet = file.read(4) == b"PAR1" or path.suffix == ".parquet"
    with duck.connect() as connection:
        try:
            table = connection.sql(_PARQUET if parquet else _CSV, params=[_literally(path)])
        except duck.NotTheShape as error:
            shape = "Parquet" if parquet else "CSV: a header, commas, as many columns in every row, quotes closed"
            raise InvalidInput(field, f"{path} is not {shape}") from error
        types = dict(zip(table.columns, map(str, table.types), strict=True))
        for column in (*keys, *required):
            if column not in types:
                raise InvalidInput(field, f"{path} has no column {column}; it has {', '.join(types)}")
        wanted = types if optional is None else (*required, *optional)
        others = [c for c in wanted if c in types and c not in keys]
        as_what = _feature_type if optional is None else _number_type
        casts = [(key, "VARCHAR") for key in keys]
        for column in others:
            if (kind := as_what(types[column])) is None:
                raise InvalidInput(field, f"{path}: column {column} cannot be used: it is a {types[column]}")
            casts.append((column, kind))
        selected = ", ".join(f"cast({_quoted(column)} as {kind})" for column, kind in casts)
        fetched = table.project(selected).order(", ".join(f"#{i + 1}" for i in range(len(keys)))).fetchall()
    rows = [dict(zip((*keys, *others), row, strict=True)) for row in fetched]
    if not rows:
        raise InvalidInput(field, f"{path} has no rows")
    if not parquet and optional is None:
        for column in others:
            _guess_type(rows, column)
    return rows


def _literally(path: Path) -> str:
    """The path as DuckDB takes it, which would read brackets, stars and question marks as patterns."""
    return re.sub(r"([*?[])", r"[\1]", str(path))


def _guess_type(rows: Sequence[Row], column: str) -> None:
    """CSV has strings only: a feature of which every value is a number or a flag becomes one, save prose."""
    values = [row[column] for row in rows if row[column] is not None]
    parse: Callable[[str], FeatureValue]
    if column == "text":
        return
    if all(value.lower() in ("true", "false") for value in values):
        parse = _flag
    elif all(_is_number(value) for value in values):
        parse = float
    else:
        return
    for row in rows:
        if row[column] is not None:
            row[column] = parse(row[column])


def _flag(value: str) -> bool:
    return value.lower() == "true"


def _is_number(value: str) -> bool:
    try:
        return "_" not in value and math.isfinite(float(value))
    except ValueError:
        return False


def _number_type(kind: str) -> str | None:
    """What a column is read as where it should hold numbers; strings are looked at one by one, later."""
    if kind.endswith("]"):
        return None
    if kind.startswith(_NUMBERS) or kind == "BOOLEAN":
        return "DOUBLE"
    return "VARCHAR" if kind in ("VARCHAR", _NOTHING) else None


def _feature_type(kind: str) -> str | None:
    """What a column is read as where it holds a feature: number, flag, label or embedding."""
    if kind.endswith("]"):
        return "DOUBLE[]" if kind.startswith(_NUMBERS) and kind.count("[") == 1 else None
    if kind == "BOOLEAN":
        return kind
    if kind.startswith(_NUMBERS):
        return "DOUBLE"
    return "VARCHAR" if kind.startswith(_LABELS) or kind == _NOTHING else None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _check_keys(rows: Sequence[Row], keys: Sequence[str], path: Path, field: str, *, unique: bool) -> None:
    """Rows are sorted by their keys, so equal ones are neighbours."""
    before: tuple[str, ...] | None = None
    for row in rows:
        key = tuple(row[k] for k in keys)
        for name, value in zip(keys, key, strict=True):
            if not value:
                raise InvalidInput(field, f"{path} has a row without {name}")
        if unique and key == before:
            raise InvalidInput(field, f"{path} has {_key(row)} more than once")
        before = key


def _key(row: Row) -> str:
    return ", ".join(f"{name} {row[name]!r}" for name in ("task_id", "model") if name in row)


def _number(row: Row, column: str, path: Path, field: str, lowest: float, highest: float) -> float | None:
    """The finite number in a column of a row, or None. Raises InvalidInput where it is none or outside its range."""
    value = row[column]
    if value is None:
        return None
    try:
        number = float(value.replace("_", "?") if isinstance(value, str) else value)  # 1_0 is ten to Python only
    except ValueError:
        raise InvalidInput(field, f"{path}: {column} of {_key(row)}: {value!r} is not a number") from None
    if not math.isfinite(number) or not lowest <= number <= highest:
        within = f" from {lowest:g} to {highest:g}" if math.isfinite(lowest) else ""
        raise InvalidInput(field, f"{path}: {column} of {_key(row)}: {number:g} is not a finite number{within}")
    return number
