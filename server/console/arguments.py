"""What may stand after a flag. Each function is an argparse `type`: it raises ArgumentTypeError, in words."""

import argparse
import math
import re
from collections.abc import Callable
from typing import TypeVar

from pointsman import Text
from pointsman.requests import Feature
from pointsman.v1 import routing_pb2 as pb

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_FLAGS = {"true": True, "false": False}
_MAX_COUNT = 2**53
_MAX_AMOUNT = 1e12

_N = TypeVar("_N", int, float)


def word(text: str) -> str:
    """A name or id, not empty."""
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return encodable(text)


def encodable(text: str) -> str:
    """Text that a message can carry."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8") from None
    return text


def words(text: str) -> list[str]:
    """Names, with commas between."""
    found = [name.strip() for name in encodable(text).split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name")
    return found


def number(text: str) -> float:
    """Any finite number, in decimal notation."""
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def _within(what: str, parse: Callable[[str], _N], lowest: _N, highest: _N) -> Callable[[str], _N]:
    def check(text: str) -> _N:
        try:
            value = parse(text)
        except (ValueError, argparse.ArgumentTypeError):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return check


def _whole(text: str) -> int:
    # int() would take underscores and other scripts' digits, and time without bound for very long ones.
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise ValueError(text)
    return int(text)


dollars = _within("a number of dollars from 0", number, 0.0, _MAX_AMOUNT)
seconds = _within("a number of seconds from 0", number, 0.0, _MAX_AMOUNT)
deadline = _within("a number of seconds above 0", number, 1e-3, 1e6)
share = _within("a number from 0 to 1", number, 0.0, 1.0)
count = _within("a whole number from 0", _whole, 0, _MAX_COUNT)


def feature(text: str) -> tuple[str, Feature]:
    """`name=value`: numbers are numbers, true and false flags, all else categories; `name:kind=value` says which."""
    name, equals, value = encodable(text).partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    name, colon, kind = name.rpartition(":") if ":" in name else (name, "", "")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} has no name")
    if not colon:
        return name, _guessed(value)
    if kind not in _KINDS:
        raise argparse.ArgumentTypeError(f"{text!r}: {kind!r} is no kind of feature; kinds: {', '.join(_KINDS)}")
    try:
        return name, _KINDS[kind](value)
    except (KeyError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r}: {value!r} is no {kind}") from None


def metric(text: str) -> tuple[str, float]:
    """`name=number`."""
    name, equals, value = encodable(text).rpartition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=NUMBER")
    return name, number(value)


def reason(text: str) -> "pb.EscalationReason.ValueType":
    """Why an attempt is left, by its name in lower case with hyphens."""
    if text not in REASONS:
        raise argparse.ArgumentTypeError(f"{text!r} is no reason; reasons: {', '.join(REASONS)}")
    return REASONS[text]


def _guessed(value: str) -> Feature:
    if value in _FLAGS:
        return _FLAGS[value]
    return number(value) if _NUMBER.fullmatch(value) else value


def _embedding(value: str) -> list[float]:
    return [number(part.strip()) for part in value.split(",")]


_KINDS: dict[str, Callable[[str], Feature]] = {
    "number": number,
    "category": str,
    "text": Text,
    "flag": _FLAGS.__getitem__,
    "embedding": _embedding,
}

_PREFIX = "ESCALATION_REASON_"
REASONS = {
    name.removeprefix(_PREFIX).lower().replace("_", "-"): value
    for name, value in pb.EscalationReason.items()
    if value != pb.ESCALATION_REASON_UNSPECIFIED
}
"""Reasons to escalate, by their names on the command line."""
