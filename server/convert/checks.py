"""What every message is checked for: the domains of its values. Each check raises InvalidInput, naming the field."""

import math
import re
from collections.abc import Callable, Collection, Sized
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from bandit.errors import InvalidInput
from server import ids
from server.limits import Limits

DEFAULT_ROUTER = "default"
MAX_COUNT = 2**53
"""Of tokens, revisions and signals: up to here floats count exactly."""

_MAX_AMOUNT = 1e12
"""Of dollars and seconds: far beyond any real one, and sums of them stay finite."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NO_NAMES: frozenset[str] = frozenset()

_Number = TypeVar("_Number", int, float)


class Keyed(Protocol):
    """A request that can be repeated."""

    router: str
    request_id: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes:  # noqa: N802 - named by protobuf
        """The message as bytes."""
        ...


class Checks:
    """Checks of names and lists, whose bounds an operator may set."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def repeat(self, method: str, request: Keyed) -> ids.Repeat | None:
        """How a repeat of the request is known; None where it has no request id."""
        self.id("request_id", request.request_id)
        request.router = self.router(request.router)
        # Deterministic, for maps have no order of their own.
        return ids.repeat(request.router, method, request.request_id, request.SerializeToString(deterministic=True))

    def router(self, router: str) -> str:
        """The router meant."""
        return self.id("router", router) or DEFAULT_ROUTER

    def id(self, field: str, value: str) -> str:
        """An id or name of ours or the caller's; may be empty."""
        if len(value) > self._limits.id_chars:
            raise InvalidInput(field, f"longer than {self._limits.id_chars} characters")
        if _CONTROL.search(value):
            raise InvalidInput(field, "holds a control character")
        return value

    def required_id(self, field: str, value: str) -> str:
        """An id that must be given."""
        if not value:
            raise InvalidInput(field, "required")
        return self.id(field, value)

    def names(self, field: str, names: Collection[str]) -> frozenset[str]:
        """Names of which each must be given, in no order."""
        if not names:
            return _NO_NAMES
        count(field, names, self._limits.list_items)
        return frozenset(self.required_id(field, name) for name in names)


def count(field: str, items: Sized, most: int) -> None:
    """At most so many entries."""
    if len(items) > most:
        raise InvalidInput(field, f"has {len(items)} entries, at most {most} are taken")


def optional(message: Message, field: str, check: Callable[[str, _Number], _Number], path: str = "") -> _Number | None:
    """A field that may be absent; `path` is what leads to the message."""
    return check(path + field, getattr(message, field)) if message.HasField(field) else None


def finite(field: str, number: float) -> float:
    """A number."""
    if not math.isfinite(number):
        raise InvalidInput(field, f"is {number}, must be a finite number")
    return number


def amount(field: str, number: float) -> float:
    """Dollars or seconds."""
    if not 0 <= finite(field, number) <= _MAX_AMOUNT:
        raise InvalidInput(field, f"is {number}, must lie in 0 to {_MAX_AMOUNT:g}")
    return number


def positive(field: str, number: float) -> float:
    """Dollars or seconds, more than none."""
    if amount(field, number) == 0:
        raise InvalidInput(field, "is 0, must be above it")
    return number


def share(field: str, number: float) -> float:
    """A probability or a part of something."""
    if not 0 <= finite(field, number) <= 1:
        raise InvalidInput(field, f"is {number}, must lie in 0 to 1")
    return number


def whole(field: str, number: int) -> int:
    """A count."""
    if not 0 <= number <= MAX_COUNT:
        raise InvalidInput(field, f"is {number}, must lie in 0 to 2^53")
    return number


def within(least: int, most: int) -> Callable[[str, int], int]:
    """A check of a whole number with both bounds."""

    def check(field: str, number: int) -> int:
        if not least <= number <= most:
            raise InvalidInput(field, f"is {number}, must lie in {least} to {most}")
        return number

    return check
