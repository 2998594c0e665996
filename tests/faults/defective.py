"""A server with a defect, to see that the checker finds it: `python -m tests.faults.defective NAME serve …`."""

import sys
from collections.abc import Callable

from bandit import session
from server import cli, rounds, sessions


def _forgets_repeats() -> None:
    """Every request is new."""
    rounds.Round._stored = lambda self, repeat: None  # type: ignore[method-assign]


def _keeps_what_was_lost() -> None:
    """What could not be written goes on to be believed."""
    sessions.SessionCache.clear = lambda self: None  # type: ignore[method-assign]


def _never_ends() -> None:
    """A session goes on after its end."""
    session._require_open = lambda one: None


DEFECTS: dict[str, Callable[[], None]] = {
    "forgets-repeats": _forgets_repeats,
    "keeps-what-was-lost": _keeps_what_was_lost,
    "never-ends": _never_ends,
}

if __name__ == "__main__":
    DEFECTS[sys.argv[1]]()
    sys.exit(cli.main(sys.argv[2:]))
