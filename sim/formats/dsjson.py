"""Vowpal Wabbit's dsjson: one decision a line, with what came of it. What ``vw --dsjson --cb_explore_adf`` reads.

Written: every decision whose success is known, by itself, and among the arms that could have been drawn. The cost is
minus the reward. The arm is the only feature of an action, in the namespace ``arm``; those of the session are in the
namespace ``shared``, so that ``-q sa`` lets shared features tell arms apart. Numbers, categories and flags stand
there as they are; texts and embeddings as the few columns that are learned from. `o` tells success and dollars apart.

Read: each line becomes a session of one attempt. See `read` for what is made of a line.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bandit.errors import InvalidInput
from bandit.features import Encoder
from bandit.types import Decision, Features, FeatureValue, Text
from sim.formats import files
from sim.formats.rounds import Range, Round, as_text, told_twice
from sim.formats.sessions import Past, Told, is_lottery

_SHARED, _ARM = "shared", "arm"
_MOST_COLUMNS = 4096
_GREATEST = 1e18
"""Of a number that is written: Vowpal Wabbit computes in single precision, products of two included."""
_DEEPEST = 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Counts(NamedTuple):
    """What was written, and what was left out."""

    decisions: int = 0
    unknown: int = 0
    """Left out: their success is not known."""
    pinned: int = 0
    """Left out: the user had said which arm."""


# --- writing -----------------------------------------------------------------------------------------------------


def write(sessions: Iterable[Past], target: Path, *, reward: str, value_usd: float | None) -> Counts:
    """Writes a file; gzip where its name ends in ``.gz``. `reward` and `value_usd` are as in `Told.reward`.

    Raises OSError and what the sessions raise; then there is no file, or the one that was there before.
    """
    decisions = unknown = pinned = 0
    with files.replacing(target) as file:
        for past in sessions:
            for decision, told in past.attempts():
                if not is_lottery(decision):
                    pinned += 1
                elif told is None:
                    unknown += 1
                else:
                    decisions += 1
                    file.write(msgspec.json.encode(_line(told, -told.reward(reward, value_usd))) + b"\n")
    return Counts(decisions, unknown, pinned)


def _line(told: Told, cost: float) -> dict[str, Any]:
    decision = told.decision
    open_scores = [score for score in decision.scores if score.bar is None or score.arm == decision.arm]
    chosen = next(i for i, score in enumerate(open_scores) if score.arm == decision.arm)
    order = [chosen, *(i for i in range(len(open_scores)) if i != chosen)]
    outcome = {"success": told.success, "cost_usd": told.cost_usd}
    return {
        "_label_cost": cost,
        "_label_probability": decision.propensity,
        "_label_Action": chosen + 1,
        "_labelIndex": chosen,
        "o": [{"EventId": decision.decision_id, "v": outcome}],
        "Timestamp": f"{(_EPOCH + told.at_us * _MICROSECOND).replace(tzinfo=None).isoformat(timespec='microseconds')}Z",
        "Version": "1",
        "EventId": decision.decision_id,
        "SessionId": decision.session_id,
        "Attempt": decision.attempt,
        "a": [i + 1 for i in order],
        "c": {
            _SHARED: _shared(decision),
            "_multi": [{"_tag": score.arm, _ARM: {"id": score.arm}} for score in open_scores],
        },
        "p": [open_scores[i].propensity for i in order],
    }


def _shared(decision: Decision) -> dict[str, Any]:
    features = decision.situation.features
    cells: dict[str, Any] = {}
    for name in sorted(features):
        value = features[name]
        if isinstance(value, Text | tuple):
            one: Features = {name: value}
            encoder = Encoder(cap=_MOST_COLUMNS).grow([one])
            row, _ = encoder.encode(one)
            cells |= zip(encoder.columns[1:], row[1:].tolist(), strict=True)
        elif isinstance(value, float) and not isinstance(value, bool):
            cells[_escaped(name)] = min(_GREATEST, max(-_GREATEST, value))
        else:
            cells[_escaped(name)] = value
    return cells


def _escaped(name: str) -> str:
    """A name that begins with an underscore would mean something else."""
    return f".{name}" if name[:1] in ("_", ".") else name


def _unescaped(name: str) -> str:
    return name[1:] if name[:2] in ("._", "..") else name


# --- reading -----------------------------------------------------------------------------------------------------


class _Line(msgspec.Struct, kw_only=True, omit_defaults=True):
    cost: float | None = msgspec.field(name="_label_cost", default=None)
    probability: float | None = msgspec.field(name="_label_probability", default=None)
    action: int | None = msgspec.field(name="_label_Action", default=None)
    index: int | None = msgspec.field(name="_labelIndex", default=None)
    skip: bool = msgspec.field(name="_skipLearn", default=False)
    outcomes: Any = msgspec.field(name="_outcomes", default=None)
    event_id: str | None = msgspec.field(name="EventId", default=None)
    timestamp: str | None = msgspec.field(name="Timestamp", default=None)
    dropped: float = msgspec.field(name="pdrop", default=0.0)
    a: list[int] | None = None
    p: list[float] | None = None
    c: dict[str, Any] | None = None
    o: Any = None


_decoder = msgspec.json.Decoder(_Line)


def read(source: Path, rewards: Range) -> Callable[[], Iterator[tuple[str, Round]]]:
    """The decisions of a file, each time it is called from the beginning, with their places; as `rounds.Rounds`.

    - The arms are the entries of ``c._multi``, each named by its ``_tag``, its ``id``, the ``id`` in one of its
      namespaces, or else its number from 1. Their other features are not kept.
    - ``a`` and ``p`` are the actions and their probabilities, of which ``_label_Action`` and ``_label_probability``
      must be one.
    - Everything else in ``c`` is a feature: numbers, flags, categories, texts (``_text`` and very long strings) and
      vectors, in namespaces other than ``shared`` named ``namespace.feature``. Names that begin with an underscore
      mean nothing here.
    - Success and dollars are those in ``o`` where they stand there as `write` has them. Else minus ``_label_cost`` is
      a reward, which `rewards` maps to success.
    - Lines with ``_skipLearn`` are passed over: those decisions were never carried out.

    Everything else that cannot be is refused with InvalidInput naming file, line and field.
    """

    def rounds() -> Iterator[tuple[str, Round]]:
        for number, text in files.lines(source):
            place = f"{source} line {number}"
            try:
                line = _decode(text)
                if line.skip:
                    continue
                found = _round(line, number, rewards)
            except InvalidInput as error:
                raise InvalidInput(f"{place}: {error.field}", error.why) from error
            yield place, found

    return rounds


def _decode(text: bytes) -> _Line:
    try:
        return _decoder.decode(text)
    except msgspec.ValidationError as error:
        why, _, path = str(error).partition(" - at `$")
        raise InvalidInput(path.strip("`.") or "line", why) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput("line", f"not JSON: {error}") from error


def _round(line: _Line, number: int, rewards: Range) -> Round:
    if line.outcomes is not None or (line.c is not None and "_slots" in line.c):
        raise InvalidInput("_outcomes" if line.outcomes is not None else "c._slots", "several decisions in one line")
    if line.dropped:
        raise InvalidInput("pdrop", "lines were dropped at random; what is left is not what happened")
    context = _there("c", line.c)
    arms = _arms(context.get("_multi"))
    action, probability = _there("_label_Action", line.action), _there("_label_probability", line.probability)
    if not 1 <= action <= len(arms):
        raise InvalidInput("_label_Action", f"there is no action {action}, of {len(arms)}")
    if line.index is not None and line.index != action - 1:
        raise InvalidInput("_labelIndex", f"{line.index}, but _label_Action is {action}")
    if not 0.0 < probability <= 1.0:
        raise InvalidInput("_label_probability", f"{probability:g} does not lie in (0, 1]")
    propensities = _propensities(_there("a", line.a), _there("p", line.p), len(arms))
    told_twice("p", propensities[action - 1], probability)
    propensities[action - 1] = probability
    success, cost_usd = _outcome(line, rewards)
    return Round(
        id=line.event_id if line.event_id is not None else str(number),
        at_us=_at_us(line.timestamp) if line.timestamp is not None else number * 1_000_000,
        arms=arms,
        propensities=tuple(propensities),
        chosen=action - 1,
        features=_features(context),
        success=success,
        cost_usd=cost_usd,
    )


def _there(field: str, value: Any) -> Any:
    if value is None:
        raise InvalidInput(field, "is missing")
    return value


def _arms(entries: Any) -> tuple[str, ...]:
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidInput("c._multi", "must be a list of objects, one an action")
    return tuple(_arm(entry, number) for number, entry in enumerate(entries, 1))


def _arm(entry: dict[str, Any], number: int) -> str:
    for found in (entry.get("_tag"), entry.get("id"), *(v.get("id") for v in entry.values() if isinstance(v, dict))):
        if isinstance(found, str | int) and not isinstance(found, bool):
            return str(found)
    return str(number)


def _propensities(actions: list[int], propensities: list[float], n_arms: int) -> list[float]:
    """By the order of the arms."""
    if sorted(actions) != list(range(1, n_arms + 1)):
        raise InvalidInput("a", f"must hold each of 1 to {n_arms} once")
    if len(propensities) != n_arms:
        raise InvalidInput("p", f"must hold {n_arms} numbers, as `a` does")
    by_arm = dict(zip(actions, propensities, strict=True))
    return [by_arm[action] for action in range(1, n_arms + 1)]


def _outcome(line: _Line, rewards: Range) -> tuple[float | None, float | None]:
    for told in line.o if isinstance(line.o, list) else ():
        value = told.get("v") if isinstance(told, dict) else None
        if isinstance(value, dict) and "success" in value:
            return _number("o.v.success", value["success"]), (
                _number("o.v.cost_usd", value["cost_usd"]) if "cost_usd" in value else None
            )
    return rewards.success("_label_cost", -_there("_label_cost", line.cost)), None


def _number(field: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(field, "must be a number")
    return _float(field, value)


def _float(field: str, value: float) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise InvalidInput(field, "is too large") from error


def _at_us(timestamp: str) -> int:
    """Vowpal Wabbit's clients write seven digits of a second."""
    shortened = re.sub(r"(\.\d{6})\d+", r"\1", timestamp)
    try:
        at = datetime.fromisoformat(shortened)
        at_us = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)) - _EPOCH
    except (ValueError, OverflowError) as error:
        raise InvalidInput("Timestamp", f"{timestamp[:40]!r} is no time") from error
    return at_us // _MICROSECOND


def _features(context: dict[str, Any]) -> Features:
    """The features of a context, by name. Raises InvalidInput where two have the same."""
    found: Features = {}
    for name, value in _walk(context, "", _DEEPEST):
        if name in found:
            raise InvalidInput(f"c.{name}", "is there twice")
        found[name] = value
    return found


def _walk(namespace: dict[str, Any], prefix: str, deep: int) -> Iterator[tuple[str, FeatureValue]]:
    if not deep:
        raise InvalidInput("c", f"namespaces lie deeper than {_DEEPEST}")
    for name, value in namespace.items():
        if name == "_text" and isinstance(value, str):
            yield prefix.removesuffix(".") or "text", Text(value)
        elif not name.startswith("_") and value is not None:
            yield from _of(f"{prefix}{_unescaped(name)}", name, prefix, value, deep)


def _of(full: str, name: str, prefix: str, value: Any, deep: int) -> Iterator[tuple[str, FeatureValue]]:
    match value:
        case bool():
            yield full, value
        case int() | float():
            yield full, _float(f"c.{full}", value)
        case str():
            yield full, as_text(value)
        case dict():
            inner = "" if name == _SHARED and not prefix else f"{full}."
            yield from _walk(value, inner, deep - 1)
        case list() if all(isinstance(item, dict) for item in value):
            for item in value:
                yield from _walk(item, f"{full}.", deep - 1)
        case list() if all(isinstance(item, int | float) and not isinstance(item, bool) for item in value):
            yield full, tuple(_float(f"c.{full}", item) for item in value)
        case _:
            raise InvalidInput(f"c.{full}", "is neither a number, a text, a flag, numbers nor objects")
