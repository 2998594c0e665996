"""Numbers, times and foreign text as people read them, the same on the page, in the command line and over gRPC."""

import re
from datetime import UTC, datetime, timedelta

# Control characters, the marks that reverse the direction of text, and halves of characters that no encoding has.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """Text from outside on one line, with what is not to be printed spelt out."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def percent(share: float) -> str:
    """A probability, for people."""
    return f"{100 * share:.1f} %"


def dollars(amount: float) -> str:
    """An amount that was measured or computed, with as many digits as tell something."""
    size = abs(amount)
    digits = 2 if size >= 100 else 3 if size >= 0.01 or size == 0 else 5
    return f"{'-' if amount < 0 else ''}${size:,.{digits}f}"


def exact(amount: float) -> str:
    """An amount that somebody set."""
    return f"${amount:,.10g}"


def moment(at_us: int) -> str:
    """A time in UTC microseconds since 1970, to the second."""
    try:
        return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us):%Y-%m-%d %H:%M:%S} UTC"
    except OverflowError:
        return "?"
