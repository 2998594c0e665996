"""A log of decisions and what became of them, read from an archive's Parquet files, out of core.

The rows of the log are put together by DuckDB, session by session in the order in which sessions began, into files
beside; from there they are read in pieces. What counts of revised outcomes is the same as in `bandit.session`, which a
test holds against it.
"""

import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from bandit import record
from bandit.errors import InvalidInput
from bandit.events import RouterPut
from bandit.types import RouterSettings
from sim import duck, log_faults, log_sql
from sim.log_reader import Found, Reader, event
from sim.log_sql import Tables

_MEMORY_MB = 1_400
_MOST_ARMS = 200
_NEEDED = ("seq", "kind", "router", "session_id", "decision_id", "attempt", "arm", "propensity", "reason", "arms",
           "propensities", "features", "success", "cost_usd", *log_sql.TOKENS, "revision", "final", "body")  # fmt: skip


class Log(Reader, AbstractContextManager["Log"]):
    """The decisions in a folder of Parquet files, of one router.

    Close it, or use it as a context, for the files beside. Folders below that hold logs of their own (the seeds of
    `simulate --log`) are read one after the other.
    """

    events: int
    """How many there are."""
    decisions: int
    settings: RouterSettings
    """What the router was set to last."""

    def __init__(self, root: Path, *, router: str = "", threads: int = 1) -> None:
        """Raises InvalidInput naming `--events`, or `--router` where there are several and none is named."""
        self._folder = tempfile.TemporaryDirectory(prefix="pointsman-")
        beside = Path(self._folder.name)
        try:
            with duck.connect_out_of_core(beside, threads=threads, memory_mb=_MEMORY_MB) as connection:
                super().__init__(self._put_together(connection, root, router, Tables(folder=beside)))
        except duck.Error as error:
            self._folder.cleanup()
            raise InvalidInput("--events", f"{root} cannot be read: {_first_line(error)}") from error
        except BaseException:
            self._folder.cleanup()
            raise

    def close(self) -> None:
        """Removes what was put beside."""
        super().close()
        self._folder.cleanup()

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close()

    def _put_together(self, connection: duck.Connection, root: Path, router: str, tables: Tables) -> Found:
        connection.execute(log_sql.every(root))
        _check_columns(connection, root)
        router = _one_router(connection, router)
        connection.execute(log_sql.events(router))
        if fault := log_faults.first(connection):
            raise InvalidInput("--events", f"{root}: {fault}")
        lists = [tuple(arms) for (arms,) in connection.execute(log_sql.ARM_LISTS).fetchall()]
        arms = tuple(dict.fromkeys(str(arm) for arms in lists for arm in arms))
        if not arms:
            raise InvalidInput("--events", "there are no decisions")
        if any(len(set(offered)) < len(offered) for offered in lists):
            raise InvalidInput("--events", f"{root}: an arm is offered twice at a decision")
        if len(arms) > _MOST_ARMS:
            raise InvalidInput("--events", f"{len(arms)} arms were offered, more than {_MOST_ARMS}")
        for statement in log_sql.put_together(arms, one_list=len(lists) == 1, into=tables):
            connection.execute(statement)
        if twice := connection.execute(log_sql.TWICE).fetchall():
            raise InvalidInput("--events", f"{root}: event {twice[0][0]} is there twice")
        if not (sessions := _count(connection, "SELECT count(*) FROM sessions")):
            raise InvalidInput("--events", f"{root}: of no session all decisions are there")
        self.events = _count(connection, "SELECT count(*) FROM events")
        self.decisions = _count(connection, "SELECT count(*) FROM read_parquet(?)", tables.steps)
        self.settings = _settings(connection, router)
        return Found(
            root=root,
            router=router,
            tables=tables,
            arms=arms,
            sessions=sessions,
            torn_sessions=_count(connection, "SELECT count(*) FROM begun WHERE NOT whole"),
            longest=_count(connection, "SELECT max(place + gave_up::INT) + 1 FROM read_parquet(?)", tables.steps),
        )


def _check_columns(connection: duck.Connection, root: Path) -> None:
    there = {str(name) for name, *_ in connection.execute("DESCRIBE every").fetchall()}
    if missing := [name for name in _NEEDED if name not in there]:
        raise InvalidInput("--events", f"{root} has no column {missing[0]!r}: it is no archive of events")


def _one_router(connection: duck.Connection, named: str) -> str:
    there = [str(name) for (name,) in connection.execute("SELECT DISTINCT router FROM every ORDER BY 1").fetchall()]
    if named and named not in there:
        raise InvalidInput("--router", f"no events of {named!r}; there are those of {', '.join(there)}")
    if not named and len(there) > 1:
        raise InvalidInput("--router", f"name one of {', '.join(there)}")
    return named or (there[0] if there else "")


def _settings(connection: duck.Connection, router: str) -> RouterSettings:
    rows = connection.execute(
        f"SELECT {', '.join(record.LOGGED)} FROM events WHERE kind = 'router_put' ORDER BY log DESC, seq DESC LIMIT 1"
    ).fetchall()
    if not rows:
        return RouterSettings(id=router or "default")
    put = event(rows[0])
    assert isinstance(put, RouterPut)
    return put.settings


def _count(connection: duck.Connection, query: str, *files: Path) -> int:
    return int(connection.execute(query, [str(file) for file in files]).fetchall()[0][0])


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
