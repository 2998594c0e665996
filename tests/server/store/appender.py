"""A process that appends until it is killed: `python appender.py DATA_DIR`. Prints each acknowledged range."""

import sys
from pathlib import Path

from server.store.protocol import NewEvent
from server.store.sqlite import SqliteStore


def body(seq: int) -> bytes:
    return b'{"n": %d, "pad": "%s"}' % (seq, b"x" * (seq % 700))


def main() -> None:
    store = SqliteStore.open(Path(sys.argv[1]))
    print("open", flush=True)
    while True:
        last = store.last_seq
        group = range(last + 1, last + 2 + last % 5)
        store.append(
            [
                NewEvent(at_us=n, kind="decided", session_id=f"s{n % 97}", decision_id=f"{n:016x}", body=body(n))
                for n in group
            ]
        )
        print(group[0], group[-1], flush=True)


if __name__ == "__main__":
    main()
