"""A log of decisions and what became of them, read from an archive's Parquet files, out of core.

The rows of the log are put together by DuckDB, session by session in the order in which sessions began, into a file
beside; from there they are read in pieces, as rectangular arrays. What counts of revised outcomes is the same as in
`bandit.session`, which a test holds against it.
"""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from bandit import record
from bandit.errors import InvalidInput
from bandit.events import Event, RouterPut
from bandit.types import Features, Offer, Price, RouterSettings, Usage
from sim import duck, log_sql
from sim.world import Floats

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_MEMORY_MB = 900
_NUMBERS_IN_MEMORY = 4_000_000
"""Propensities of one piece."""
_MOST_ARMS = 200
_NEEDED = ("seq", "kind", "router", "session_id", "decision_id", "attempt", "arm", "propensity", "reason", "arms",
           "propensities", "features", "success", "cost_usd", "revision", "final", "body")  # fmt: skip


_features_decoder = msgspec.json.Decoder(Features)


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Sessions that began one after the other. A step is a decision: to begin an attempt, or to give up.

    Arrays have shape (n_sessions, n_steps, …); after a session's last step they are padded: `action` is -1 there.
    Actions are the positions of arms in the log's `arms`, and one more, the last, which is giving up.
    """

    first: int
    """Number of the first session, from 0."""
    action: Ints
    """What was done."""
    propensities: Floats
    """The probability of each action at the step, (…, n_arms + 1), sum 1; what was done had more than 0. Where a
    session was given up, the log does not tell the arms' apart: what is left stands evenly on those open."""
    open_arms: Bools
    """Arms that might have been taken, whatever their propensity, (…, n_arms)."""
    alarms: Ints
    """Alarms raised in the session before the step."""
    may_stop: Bools
    """Whether giving up is an answer: the attempt before was left with an alarm."""
    pinned: Bools
    """Whether the user had said which arm."""
    alarmed: Bools
    """Arms whose attempts in the session were left with an alarm before the step, (…, n_arms)."""
    features: Ints
    """Which of `known` the session has at the step."""
    known: tuple[Features, ...]
    """What sessions are known by, each once."""
    cost_usd: Floats
    """Dollars of the step, 0 for giving up; NaN where they were not told."""
    success: Floats
    """Success of the session, (n_sessions,); NaN where it was not told."""

    @property
    def there(self) -> Bools:
        """Where there is a step, (n_sessions, n_steps)."""
        return self.action >= 0

    @property
    def last(self) -> Ints:
        """Each session's last step, (n_sessions,)."""
        return np.asarray(self.there.sum(axis=1) - 1)


class Logged(Protocol):
    """Sessions that were logged, in the order in which they began."""

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms that were ever offered."""
        ...

    @property
    def sessions(self) -> int:
        """How many there are."""
        ...

    @property
    def longest(self) -> int:
        """The most steps of a session."""
        ...

    def pieces(self, at: Sequence[int]) -> Iterator[Piece]:
        """The sessions, cut at the numbers `at` and wherever memory demands it."""
        ...


class Log(AbstractContextManager["Log"]):
    """The decisions in a folder of Parquet files, of one router.

    Close it, or use it as a context, for the file beside. Folders below that hold logs of their own (the seeds of
    `simulate --log`) are read one after the other.
    """

    def __init__(self, root: Path, *, router: str = "", threads: int = 1) -> None:
        """Raises InvalidInput naming `--events`, or `--router` where there are several and none is named."""
        self._folder = tempfile.TemporaryDirectory(prefix="pointsman-")
        try:
            self._duck = duck.connect_out_of_core(Path(self._folder.name), threads=threads, memory_mb=_MEMORY_MB)
            self._duck.execute(log_sql.view(root))
            self._check_columns(root)
            self.router = self._one_router(router)
            self._duck.execute(f"CREATE VIEW events AS SELECT * FROM every WHERE router = {duck.quoted(self.router)}")
            self._read()
        except duck.Error as error:
            self.close()
            raise InvalidInput("--events", f"{root} cannot be read: {_first_line(error)}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Removes what was put beside."""
        if hasattr(self, "_duck"):
            self._duck.close()
        self._folder.cleanup()

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close()

    def _check_columns(self, root: Path) -> None:
        there = {str(name) for name, *_ in self._duck.execute("DESCRIBE every").fetchall()}
        if missing := [name for name in _NEEDED if name not in there]:
            raise InvalidInput("--events", f"{root} has no column {missing[0]!r}: it is no archive of events")

    def _one_router(self, named: str) -> str:
        there = [str(name) for (name,) in self._duck.execute("SELECT DISTINCT router FROM every ORDER BY 1").fetchall()]
        if named and named not in there:
            raise InvalidInput("--router", f"no events of {named!r}; there are those of {', '.join(there)}")
        if not named and len(there) > 1:
            raise InvalidInput("--router", f"name one of {', '.join(there)}")
        return named or (there[0] if there else "")

    def _read(self) -> None:
        lists = [tuple(arms) for (arms,) in self._duck.execute(log_sql.ARM_LISTS).fetchall()]
        self.arms = tuple(dict.fromkeys(str(arm) for arms in lists for arm in arms))
        if not self.arms:
            raise InvalidInput("--events", "there are no decisions")
        if len(self.arms) > _MOST_ARMS:
            raise InvalidInput("--events", f"{len(self.arms)} arms were offered, more than {_MOST_ARMS}")
        self._steps = Path(self._folder.name) / "steps.parquet"
        for statement in log_sql.steps(self.arms, one_list=len(lists) == 1, target=self._steps):
            self._duck.execute(statement)
        self.events = int(self._duck.execute("SELECT count(*) FROM events").fetchall()[0][0])
        self.settings = self._settings()
        """What the router was set to last."""
        self.sessions, self.decisions, self.longest = self._shape()
        self._offers: dict[str, tuple[Offer, ...]] = {}

    def _settings(self) -> RouterSettings:
        rows = self._duck.execute(
            f"SELECT {', '.join(record.LOGGED)} FROM events WHERE kind = 'router_put' "
            "ORDER BY log DESC, seq DESC LIMIT 1"
        ).fetchall()
        if not rows:
            return RouterSettings(id=self.router or "default")
        event = _event(rows[0])
        assert isinstance(event, RouterPut)
        return event.settings

    def _shape(self) -> tuple[int, int, int]:
        (row,) = self._duck.execute(
            "SELECT count(DISTINCT session), count(*), max(place + gave_up::INT) + 1 FROM read_parquet(?)",
            [str(self._steps)],
        ).fetchall()
        return int(row[0]), int(row[1]), int(row[2])

    def pieces(self, at: Sequence[int]) -> Iterator[Piece]:
        """The sessions, cut at the numbers `at` and wherever memory demands it."""
        most = max(1, _NUMBERS_IN_MEMORY // (self.longest * (len(self.arms) + 1)))
        cuts = sorted({0, self.sessions, *(cut for cut in at if 0 < cut < self.sessions)})
        for begin, end in itertools.pairwise(cuts):
            for first in range(begin, end, most):
                yield self._piece(first, min(first + most, end))

    def _piece(self, first: int, end: int) -> Piece:
        columns = self._duck.execute(
            "SELECT * FROM read_parquet(?) WHERE session >= ? AND session < ? ORDER BY session, place",
            [str(self._steps), first, end],
        ).fetchnumpy()
        return self._arrange(first, end - first, {name: _plain(values) for name, values in columns.items()})

    def _arrange(self, first: int, n: int, rows: dict[str, Any]) -> Piece:
        k = len(self.arms)
        i, t = rows["session"] - first, rows["place"].astype(np.int64)
        steps = int(t.max(initial=0)) + 2
        p = np.zeros((n, steps, k + 1))
        p[i, t, :k] = np.stack([rows[f"p{arm}"] for arm in range(k)], axis=1)
        action = np.full((n, steps), -1)
        action[i, t] = rows["arm"]
        open_arms = np.zeros((n, steps, k), bool)
        open_arms[i, t] = self._open(rows, p[i, t, :k])
        alarm = np.zeros((n, steps), bool)
        alarm[i, t] = rows["alarm"]
        cost = np.zeros((n, steps))
        cost[i, t] = self._dollars(rows)
        features = np.zeros((n, steps), np.int64)
        features[i, t], known = _coded(rows["features"])
        pinned = np.zeros((n, steps), bool)
        pinned[i, t] = rows["pinned"]
        stop = np.zeros((n, steps))
        stop[i, t + 1] = rows["stop"]
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
        of_arm = np.zeros((n, steps, k), bool)
        raised = np.nonzero(alarm)
        of_arm[(*raised, action[raised])] = True
        earlier = np.concatenate((np.zeros((n, 1, k), bool), np.cumsum(of_arm, axis=1)[:, :-1] > 0), axis=1)
        alarms = np.concatenate((np.zeros((n, 1), np.int64), np.cumsum(alarm, axis=1)[:, :-1]), axis=1)
        success = np.full(n, np.nan)
        final = rows["ends"]
        success[i[final]] = rows["success"][final]
        # Left for good with an alarm, and nobody says otherwise: it did not resolve.
        success[gi] = np.where(np.isnan(success[gi]), 0.0, success[gi])
        longest = int((action >= 0).sum(axis=1).max(initial=1))
        return Piece(
            first=first,
            action=action[:, :longest],
            propensities=p[:, :longest],
            open_arms=open_arms[:, :longest],
            alarms=alarms[:, :longest],
            may_stop=np.concatenate((np.zeros((n, 1), bool), alarm[:, :-1]), axis=1)[:, :longest],
            pinned=pinned[:, :longest],
            alarmed=earlier[:, :longest],
            features=features[:, :longest],
            known=known,
            cost_usd=cost[:, :longest],
            success=success,
        )

    def _open(self, rows: dict[str, Any], p: Floats) -> Bools:
        """Arms that might have been taken: those with a chance, and where the policy gave some of them none, those that
        nothing ruled out."""
        found = p > 0.0
        offers = rows["offers"]
        for row in np.flatnonzero(offers != None):  # noqa: E711 - an array of objects
            for offer in self._offered(offers[row]):
                if offer.bar is None:
                    found[row, self.arms.index(offer.arm)] = True
        return np.asarray(found)

    def _offered(self, text: str) -> tuple[Offer, ...]:
        if (offers := self._offers.get(text)) is None:
            try:
                offers = self._offers[text] = msgspec.json.decode(text, type=tuple[Offer, ...])
            except msgspec.MsgspecError as error:
                raise InvalidInput("--events", f"a decision's offers are not readable: {error}") from error
        return offers

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
        return next((offer.price for offer in self._offered(offers) if offer.arm == arm), None)

    def events_of(self, first: int, end: int) -> Iterator[tuple[int, Event]]:
        """The events of the sessions from number `first` up to before `end`, with the session's number: those of a
        session together and in order."""
        rows = self._duck.execute(
            f"SELECT session, {', '.join(record.LOGGED)} FROM events JOIN ("
            "SELECT DISTINCT log, session_id, session FROM read_parquet(?) WHERE session >= ? AND session < ?"
            ") USING (log, session_id) ORDER BY session, seq",
            [str(self._steps), first, end],
        )
        while batch := rows.fetchmany(2_000):
            for session, *values in batch:
                yield int(session), _event(values)

    def events_until(self, session: int) -> Iterator[tuple[int, int, str, Event]]:
        """All events before that session's first, in order: a number, when it happened, its session's id, the event."""
        rows = self._duck.execute(
            f"SELECT log, {', '.join(record.LOGGED)} FROM events WHERE (log, seq) < ("
            "SELECT (log, min(first_seq)) FROM read_parquet(?) WHERE session = ? GROUP BY log) ORDER BY log, seq",
            [str(self._steps), session],
        )
        number = 0
        while batch := rows.fetchmany(2_000):
            for log, *values in batch:
                number += 1
                logged = record.unflatten(values)
                # Sessions of different logs may have the same id.
                name = f"{log}\0{logged['session_id']}" if log and logged["session_id"] else logged["session_id"]
                yield number, logged["at_us"], name, _event(values)


def _event(values: Sequence[Any]) -> Event:
    try:
        logged = record.unflatten(values)
        return record.decode(logged["kind"], logged["body"], logged["private"]).event
    except ValueError as error:
        raise InvalidInput("--events", f"event {values[0]}: {error}") from error


def _coded(texts: Sequence[str | None]) -> tuple[Ints, tuple[Features, ...]]:
    """Which of the different features each text holds, and these."""
    codes: dict[str | None, int] = {}
    at = np.array([codes.setdefault(text, len(codes)) for text in texts], np.int64)
    try:
        return at, tuple(_features_decoder.decode(text) if text else {} for text in codes)
    except msgspec.MsgspecError as error:
        raise InvalidInput("--events", f"features are not readable: {error}") from error


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


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
