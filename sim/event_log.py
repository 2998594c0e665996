"""A run's events as the server's archive would have them: Parquet, one flat row an event."""

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from bandit import record
from bandit.events import Event, decision_of
from sim import duck

_PIECE = 50_000
_PIECE_BYTES = 64 << 20


def folder(root: Path, policy: str, seed: int) -> Path:
    """Where the events of a run go; the policy's name is percent-encoded."""
    return root / quote(policy, safe="") / f"seed-{seed}"


class EventLog:
    """Takes events in order, and writes them when it has many and when it is left; whole files only.

    There is no chain of digests over them: nobody has to believe a simulated log.
    """

    def __init__(self, target: Path, seed: int, *, router: str = "default") -> None:
        """The events are those of one router. Raises OSError where the folder `target` cannot be made."""
        target.mkdir(parents=True, exist_ok=True)
        self._target = target
        self._seed = seed
        self._router = router
        self._lines: list[bytes] = []
        self._size = 0
        self._last = 0

    def add(self, seq: int, at_us: int, event: Event, session_id: str) -> None:
        """Takes in the run's next event."""
        salt = hashlib.blake2b(f"{self._seed}\0{seq}".encode(), digest_size=record.SALT_BYTES, person=b"sim salt")
        kind, body, private = record.encode(event, salt=salt.digest())
        logged = record.Logged(
            seq=seq,
            at_us=at_us,
            kind=kind,
            router=self._router,
            session_id=session_id,
            decision_id=decision_of(event),
            request_key=b"",
            request_digest=b"",
            body=body,
            private=private,
            private_digest=b"",
            digest=b"",
        )
        self._lines.append(record.to_json(record.flatten(logged)))
        self._size += len(self._lines[-1])
        self._last = seq
        if len(self._lines) == _PIECE or self._size >= _PIECE_BYTES:
            self._write()

    def _write(self) -> None:
        lines, self._lines, self._size = self._lines, [], 0
        if not lines:
            return
        path = self._target / f"{self._last - len(lines) + 1:020}-{self._last:020}.parquet"
        source, temporary = path.with_suffix(".json.tmp"), path.with_suffix(".parquet.tmp")
        try:
            source.write_bytes(b"".join(lines))
            with duck.connect() as connection:
                connection.execute(record.to_parquet(str(source), str(temporary), max(map(len, lines))))
            temporary.replace(path)
        finally:
            source.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self._write()
