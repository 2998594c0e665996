"""A log that has been put together, read in pieces as arrays, or event by event."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from bandit import record
from bandit.errors import InvalidInput
from bandit.events import Event
from bandit.types import Features, Offer, Price, Usage
from sim import duck, log_sql
from sim.log_sql import Tables
from sim.piece import Bools, Ints, Piece
from sim.world import Floats

_MEMORY_MB = 300
_NUMBERS_IN_PIECE = 300_000
"""Propensities of one piece: what is worked out for it stays in a processor's cache."""

_features_decoder = msgspec.json.Decoder(Features)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Where a log is, and how much there is of it."""

    root: Path
    router: str
    tables: Tables
    arms: tuple[str, ...]
    """All that were ever offered."""
    sessions: int
    torn_sessions: int
    """More of which not all decisions are there, and which are left out: days are missing, or it begins in the midst
    of them."""
    longest: int
    """The most steps of a session."""


class Reader:
    """Reads a log that was put together. Pickled, it is another reader of the same files, which must still be there."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._tables = found.tables
        self.arms, self.sessions, self.longest = found.arms, found.sessions, found.longest
        self.torn_sessions = found.torn_sessions
        self._features: dict[int, Features] = {}

    def __reduce__(self) -> tuple[type["Reader"], tuple[Found]]:
        return Reader, (self._found,)

    @functools.cached_property
    def _duck(self) -> duck.Connection:
        found = self._found
        connection = duck.connect_out_of_core(found.tables.folder, threads=1, memory_mb=_MEMORY_MB)
        connection.execute(log_sql.every(found.root))
        connection.execute(log_sql.events(found.router))
        return connection

    def close(self) -> None:
        """Reads no more."""
        if "_duck" in vars(self):
            self._duck.close()

    @property
    def largest_piece(self) -> int:
        """Sessions that are read together at most."""
        return max(1, _NUMBERS_IN_PIECE // (self.longest * (len(self.arms) + 1)))

    def begun_by(self, router: str, seq: int) -> int:
        """Sessions that had begun by an event's sequence number, if they are that router's."""
        if router != self._found.router:
            return 0
        query = "SELECT count(*) FROM read_parquet(?) WHERE first_seq <= ?"
        return int(self._duck.execute(query, [str(self._tables.sessions), seq]).fetchall()[0][0])

    def piece(self, first: int, end: int) -> Piece:
        """The sessions from number `first` up to before `end`, of which there must be one.

        Raises InvalidInput where the log, or what was put together of it, is not there.
        """
        if not self._tables.steps.is_file():
            raise InvalidInput("--ray", f"{self._tables.folder} is not there: set TMPDIR to what all machines share")
        columns = self._duck.execute(
            "SELECT * FROM read_parquet(?) WHERE session >= ? AND session < ?", [str(self._tables.steps), first, end]
        ).fetchnumpy()
        return self._arrange(first, end - first, {name: _plain(values) for name, values in columns.items()})

    def _known(self, codes: Ints) -> tuple[Features, ...]:
        wanted = codes.tolist()
        if missing := [code for code in wanted if code not in self._features]:
            rows = self._duck.execute(
                "SELECT code, features FROM read_parquet(?) SEMI JOIN (SELECT unnest(?) AS code) USING (code)",
                [str(self._tables.features), missing],
            ).fetchall()
            try:
                self._features |= {code: _features_decoder.decode(text) if text else {} for code, text in rows}
            except msgspec.MsgspecError as error:
                raise InvalidInput("--events", f"features are not readable: {error}") from error
        # Those of one piece are kept for the next: there may be many in a log.
        self._features = {code: self._features[code] for code in wanted}
        return tuple(self._features.values())

    def _arrange(self, first: int, n: int, rows: dict[str, Any]) -> Piece:
        k = len(self.arms)
        i, t = rows["session"] - first, rows["place"]
        steps = int((t + rows["gave_up"]).max()) + 1
        p = np.zeros((n, steps, k + 1), order="F")
        for arm in range(k):
            p[i, t, arm] = rows[f"p{arm}"]
        action = np.full((n, steps), -1, order="F")
        action[i, t] = rows["arm"]
        open_arms = p[:, :, :k] > 0.0
        self._add_open(open_arms, i, t, rows["offers"])
        alarm = _grid(n, steps, i, t, rows["alarm"])
        cost = _grid(n, steps, i, t, self._dollars(rows))
        codes, known = np.unique_inverse(rows["code"])
        features = _grid(n, steps, i, t, known)
        pinned = _grid(n, steps, i, t, rows["pinned"])
        follows = t + 1 < steps
        stop = _grid(n, steps, i[follows], t[follows] + 1, rows["stop"][follows])
        gave_up = np.flatnonzero(rows["gave_up"])
        gi, gt = i[gave_up], t[gave_up] + 1
        action[gi, gt] = k
        features[gi, gt] = features[gi, gt - 1]
        # What was open before is open still, but for the arm that has been tried since.
        open_arms[gi, gt] = open_arms[gi, gt - 1]
        open_arms[gi, gt, action[gi, gt - 1]] = False
        p[gi, gt, :k] = open_arms[gi, gt] / np.maximum(open_arms[gi, gt].sum(axis=1, keepdims=True), 1)
        p[:, :, k] = stop
        p[:, :, :k] *= (1.0 - stop)[:, :, None]
        of_arm = np.zeros((n, steps, k), bool, order="F")
        raised = np.nonzero(alarm)
        of_arm[(*raised, action[raised])] = True
        may_stop = np.zeros_like(alarm)
        may_stop[:, 1:] = alarm[:, :-1]
        success = np.full(n, np.nan)
        final = rows["ends"]
        success[i[final]] = rows["success"][final]
        # Left for good with an alarm, and nobody says otherwise: it did not resolve.
        success[gi] = np.where(np.isnan(success[gi]), 0.0, success[gi])
        return Piece(
            numbers=np.arange(first, first + n),
            action=action,
            propensities=p,
            open_arms=open_arms,
            alarms=_before(alarm.astype(np.int64)),
            may_stop=may_stop,
            pinned=pinned,
            alarmed=_before(of_arm),
            features=features,
            known=self._known(codes),
            cost_usd=cost,
            success=success,
        )

    def _add_open(self, open_arms: Bools, i: Ints, t: Ints, offers: Any) -> None:
        """Where the policy gave some arms no chance, those that nothing ruled out might have been taken too."""
        for row in np.flatnonzero(offers != None):  # noqa: E711 - an array of objects
            for offer in _offered(offers[row]):
                if offer.bar is None:
                    open_arms[i[row], t[row], self.arms.index(offer.arm)] = True

    def _dollars(self, rows: dict[str, Any]) -> Floats:
        """Dollars as told, or from the tokens at the prices of the decision."""
        cost = np.array(rows["cost_usd"], float)
        for row in np.flatnonzero(np.isnan(cost) & ~np.isnan(rows["input_tokens"])):
            tokens = {name: float(np.nan_to_num(rows[name][row])) for name in log_sql.TOKENS}
            price = self._price(rows["priced"][row], self.arms[rows["arm"][row]])
            if price is not None:
                cost[row] = price.dollars(Usage(**tokens))
        return cost

    def _price(self, offers: str | None, arm: str) -> Price | None:
        if offers is None:
            return None
        return next((offer.price for offer in _offered(offers) if offer.arm == arm), None)

    def events_of(self, first: int, end: int) -> Iterator[tuple[int, Event]]:
        """The events of the sessions from number `first` up to before `end`, with the session's number: those of a
        session together and in order."""
        rows = self._duck.execute(
            f"SELECT session, {', '.join(record.LOGGED)} FROM events JOIN ("
            "SELECT log, session_id, session FROM read_parquet(?) WHERE session >= ? AND session < ?"
            ") USING (log, session_id) ORDER BY session, seq",
            [str(self._tables.sessions), first, end],
        )
        while batch := rows.fetchmany(2_000):
            for session, *values in batch:
                yield int(session), event(values)

    def events_until(self, session: int) -> Iterator[tuple[int, int, str, Event]]:
        """All events before that session's first, in order: a number, when it happened, its session's id, the event."""
        rows = self._duck.execute(
            f"SELECT log, {', '.join(record.LOGGED)} FROM events WHERE (log, seq) < ("
            "SELECT (log, first_seq) FROM read_parquet(?) WHERE session = ?) ORDER BY log, seq",
            [str(self._tables.sessions), session],
        )
        number = 0
        while batch := rows.fetchmany(2_000):
            for log, *values in batch:
                number += 1
                logged = record.unflatten(values)
                # Sessions of different logs may have the same id.
                name = f"{log}\0{logged['session_id']}" if log and logged["session_id"] else logged["session_id"]
                yield number, logged["at_us"], name, event(values)


def event(values: Sequence[Any]) -> Event:
    """The event of a row, whose columns are `record.LOGGED`. Raises InvalidInput naming `--events`."""
    try:
        logged = record.unflatten(values)
        return record.decode(logged["kind"], logged["body"], logged["private"]).event
    except ValueError as error:
        raise InvalidInput("--events", f"event {values[0]}: {error}") from error


@functools.lru_cache(maxsize=4096)
def _offered(text: str) -> tuple[Offer, ...]:
    try:
        return msgspec.json.decode(text, type=tuple[Offer, ...])
    except msgspec.MsgspecError as error:
        raise InvalidInput("--events", f"a decision's offers are not readable: {error}") from error


def _grid(n: int, steps: int, i: Ints, t: Ints, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values at their sessions and steps, shape (n, steps); 0 elsewhere."""
    grid = np.zeros((n, steps), values.dtype, order="F")
    grid[i, t] = values
    return grid


def _before(marks: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Sums over the steps before each, or whether any was; shape as `marks`, (n_sessions, n_steps, …)."""
    before = np.zeros_like(marks)
    for step in range(1, marks.shape[1]):
        before[:, step] = before[:, step - 1] + marks[:, step - 1]
    return before


def _plain(values: Any) -> Any:
    """A column without its mask: missing numbers are NaN, missing texts None."""
    if not isinstance(values, np.ma.MaskedArray):
        return values
    plain = np.ma.getdata(values)
    # Integers are never missing here.
    if plain.dtype.kind not in "if":
        plain = plain.astype(object)
    if plain.dtype.kind != "i":
        plain[np.ma.getmaskarray(values)] = np.nan if plain.dtype.kind == "f" else None
    return plain
