"""Ids the service makes: decisions, sessions without a name, and the keys by which repeats are found."""

from collections.abc import Callable
from hashlib import blake2b

import msgspec

Clock = Callable[[], float]
"""Seconds since 1970, as `time.time`; it may jump."""

Entropy = Callable[[int], bytes]
"""So many random bytes, as `os.urandom`."""

_RANDOM_BITS = 80
_STEP_BYTES = 4


class Repeat(msgspec.Struct, frozen=True):
    """How a repeated request is known: by the key that it shares, and by the digest in which it must be equal."""

    key: bytes
    digest: bytes


class DecisionIds:
    """Time-ordered ids: 48 bits of milliseconds and 80 of randomness, in hex.

    Within one process each is greater than the one before, even where the clock jumps back.
    """

    def __init__(self, clock: Clock, entropy: Entropy) -> None:
        self._clock = clock
        self._entropy = entropy
        self._last = 0

    def next(self) -> str:
        """A new id."""
        now = int(self._clock() * 1000) << _RANDOM_BITS
        if now > self._last:
            self._last = now | int.from_bytes(self._entropy(_RANDOM_BITS // 8), "big")
        else:
            self._last += 1 + int.from_bytes(self._entropy(_STEP_BYTES), "big")
        return f"{self._last:032x}"


def derived_session_id(router: str, request_id: str) -> str:
    """The id of a session that was not named, from the request that began it: a repeat gets the same."""
    return blake2b(f"{router}\0{request_id}".encode(), digest_size=16, person=b"pm session").hexdigest()


def repeat(router: str, method: str, request_id: str, message: bytes) -> Repeat | None:
    """How to know a repeat of this request; None without a request id, for then nothing is a repeat.

    `message` is the request serialised canonically: equal messages give equal bytes.
    """
    if not request_id:
        return None
    key = blake2b(f"{router}\0{method}\0{request_id}".encode(), digest_size=16, person=b"pm request").digest()
    return Repeat(key, blake2b(message, digest_size=16, person=b"pm message").digest())
