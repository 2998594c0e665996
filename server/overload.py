"""What is too much: bounds on what is under way, and the error that says when to come back."""

import time
from collections.abc import Callable

from bandit.errors import PointsmanError

_COME_BACK_SECONDS = 0.5
"""A full server has worked off what it holds in about that time."""


class Overloaded(PointsmanError):
    """More was asked than is taken now; nothing was done."""

    def __init__(self, why: str, retry_seconds: float) -> None:
        super().__init__(why, retry_seconds)
        self.why = why
        self.retry_seconds = retry_seconds

    def __str__(self) -> str:
        return f"{self.why}; try again in {self.retry_seconds:.2g} s"


class TooLate(PointsmanError):
    """The time that the caller gave has passed; nothing was done."""


class Bound:
    """So many calls at once, and so many bytes of their messages."""

    def __init__(self, what: str, *, calls: int, bytes_: int) -> None:
        self._what = what
        self._most_calls = calls
        self._calls = 0
        self._most_bytes = bytes_
        self._bytes = 0

    def enter(self) -> None:
        """A call begins, and is under way until `leave`. Raises Overloaded where there are too many."""
        if self._calls >= self._most_calls or self._bytes >= self._most_bytes:
            raise Overloaded(f"too many {self._what} are under way", _COME_BACK_SECONDS)
        self._calls += 1

    def leave(self) -> None:
        """Such a call has ended."""
        self._calls -= 1

    def hold(self, size: int) -> None:
        """A message of so many bytes is kept until `release`. Raises Overloaded where they are too many.

        A message that is larger than all of that is taken where there is no other.
        """
        if self._bytes and self._bytes + size > self._most_bytes:
            raise Overloaded(f"the {self._what} under way are too large", _COME_BACK_SECONDS)
        self._bytes += size

    def release(self, size: int) -> None:
        """Such a message is done with."""
        self._bytes -= size


class Pace:
    """So many a second, and as many at once as come in a second: a token bucket."""

    def __init__(self, what: str, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._per_second = per_second
        self._most = max(per_second, 1.0)
        self._left = self._most
        self._clock = clock
        self._as_of = clock()

    def take(self) -> None:
        """Counts one. Raises Overloaded where it comes too soon."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._as_of) * self._per_second)
        self._as_of = now
        if self._left < 1.0:
            raise Overloaded(
                f"more than {self._per_second:g} {self._what} a second", (1.0 - self._left) / self._per_second
            )
        self._left -= 1.0
