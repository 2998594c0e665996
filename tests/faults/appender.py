"""A process that appends to a store through whatever its disk does: `python -m tests.faults.appender DATA_DIR GROUPS`.

It prints `acknowledged FIRST LAST` once events are durable as the store says, and `done` at the end. The checkpoints
that a server makes each second are made after each group here, so that they fail too.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from server.store import checkpoint
from server.store.errors import StoreDamaged, StoreUnavailable
from server.store.protocol import NewEvent
from server.store.sqlite import SqliteStore

_GROUP = 5
_TRIES = 200
_Result = TypeVar("_Result")


def event(seq: int) -> NewEvent:
    """The event that stands at `seq`: what is to be found there can be told from the number alone."""
    return NewEvent(
        at_us=seq,
        kind="decided",
        session_id=f"session-{seq % 17}",
        decision_id=f"{seq:016x}",
        request_key=seq.to_bytes(16, "big"),
        request_digest=b"digest",
        body=b'{"n": %d, "pad": "%s"}' % (seq, b"x" * (seq * 37 % 900)),
        private=b'{"salt": "%d"}' % seq,
    )


def say(line: str) -> None:
    """Tells the parent."""
    print(line, flush=True)


def _until_it_works(call: Callable[[], _Result]) -> _Result:
    for _ in range(_TRIES):
        try:
            return call()
        except (StoreUnavailable, OSError):
            time.sleep(0.002)
    raise SystemExit("the store never came back")


def _append(store: SqliteStore, groups: int) -> None:
    while store.last_seq < groups * _GROUP:
        first = store.last_seq + 1
        try:
            store.append([event(seq) for seq in range(first, first + _GROUP)])
        except StoreUnavailable:
            # The events may be in the log or not; recovering tells.
            _until_it_works(store.recover)
            continue
        say(f"acknowledged {first} {first + _GROUP - 1}")


def main() -> None:
    """Appends, closes, opens once more, appends."""
    data_dir, groups = Path(sys.argv[1]), int(sys.argv[2])
    # Before a second has passed there would be no checkpoint, and before 32 MiB none that begins the log anew.
    checkpoint._EVERY_SECONDS = 0.003
    checkpoint._WAL_PAGES = 8
    try:
        for upto in (groups // 2, groups):
            store = _until_it_works(lambda: SqliteStore.open(data_dir))
            _append(store, upto)
            store.close()
    except StoreDamaged as error:
        raise SystemExit(f"damaged: {error}") from error
    say("done")


if __name__ == "__main__":
    main()
