"""`pointsman export | import | check | backup`: the log as Parquet and back, whether it is whole, and a copy of it.

Formats of other projects are made of a folder of Parquet files, and made into one; what does so is given by the
command line, for it is no part of the service.

Exit status: 0; 1 where a server cannot be reached or refuses; 2 for bad usage or input; 3 where a log is damaged. Each
after one line that says what and where.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import grpc
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bandit import record
from bandit.configuration import Configuration
from bandit.errors import InvalidInput, PointsmanError
from pointsman.v1 import admin_pb2, admin_pb2_grpc, events_pb2_grpc
from pointsman.v1 import events_pb2 as pb
from server.archive import Archive, ArchiveError, pages, read
from server.console import connect
from server.console.output import Output
from server.convert import events as convert
from server.intake import Intake, Offered
from server.moving import move
from server.sessions import SessionCache
from server.store.backup import backup
from server.store.errors import StoreDamaged, StoreError
from server.store.place import Directory, Place, is_url, place_at
from server.store.protocol import EventReader, NewEvent, Problem, StoredEvent
from server.store.sqlite import DATABASE
from server.words import plain

_Subparsers: TypeAlias = "argparse._SubParsersAction[Any]"
_Command: TypeAlias = Callable[[argparse.Namespace, Output], None]

_Advance: TypeAlias = Callable[[int, int | None], None]
"""Told how much is done, and of how much, if that is known."""

_CACHED_SESSIONS = 10_000
_MESSAGE_BYTES = 1 << 20
_PARQUET = "parquet"


class Formats(Protocol):
    """The formats of other projects."""

    FORMATS: Sequence[str]
    """Their names."""

    def add_export_flags(self, parser: argparse.ArgumentParser) -> None:
        """Adds the flags of their own."""
        ...

    def add_import_flags(self, parser: argparse.ArgumentParser) -> None:
        """Adds the flags of their own."""
        ...

    def export(self, asked: argparse.Namespace, events: Path) -> Mapping[str, Any]:
        """Makes the file `asked.out` of a folder of events; what there is to say of it. Raises InvalidInput."""
        ...

    def convert(self, asked: argparse.Namespace, events: Path) -> Mapping[str, Any]:
        """Makes a folder of events of `asked.source`, for router `asked.router`; what there is to say of it.

        Raises InvalidInput; then the folder is not there.
        """
        ...


class _Damaged(Exception):
    """A log is not whole; the text says so in one line."""


def add_export(subparsers: _Subparsers, formats: Formats) -> None:
    """Adds `export`."""
    parser = _add(
        subparsers,
        "export",
        lambda asked, output: _export(asked, output, formats),
        "Writes the log: as Parquet files by day into the folder OUT, where what is there already is gone on from; or "
        "as one file OUT that other projects read.",
        formats,
    )
    parser.add_argument("out", metavar="OUT", type=Path)
    place = _add_place(parser, "to export")
    place.add_argument(
        "--events", metavar="DIR", type=Path, help="a folder of Parquet: an archive, an export, a simulated log"
    )
    parser.add_argument("--router", metavar="R", help="only this router's events; such an export is no whole log")
    formats.add_export_flags(parser)


def add_import(subparsers: _Subparsers, formats: Formats) -> None:
    """Adds `import`."""
    parser = _add(
        subparsers,
        "import",
        lambda asked, output: _import(asked, output, formats),
        "Takes the events of an export into a log. They keep their numbers, times and digests; those that are there "
        "already are skipped. Or takes decisions that somebody else logged, as a router of their own.",
        formats,
    )
    parser.add_argument(
        "source", metavar="IN", type=Path, help="what export wrote, a Parquet file of it, or another format's file"
    )
    place = _add_place(parser, "to import into")
    place.add_argument(
        "--events", metavar="DIR", type=Path, help="make a folder of Parquet of another format, for replay --events DIR"
    )
    parser.add_argument("--renumber", action="store_true", help="give the events the next numbers of the log")
    parser.add_argument(
        "--router", metavar="R", help="of another format: the router that is to be made of it (default imported)"
    )
    formats.add_import_flags(parser)


def add_check(subparsers: _Subparsers) -> None:
    """Adds `check`."""
    parser = subparsers.add_parser("check", help="is the log whole?", description="Verifies every event of a log.")
    parser.add_argument("data_dir", metavar="DATA_DIR", help="or the URL of a database: postgresql://…")
    parser.add_argument("--json", metavar="FILE", help="write the answer as JSON; - is standard output")
    parser.set_defaults(run=lambda asked: _run(asked, _check))


def add_move(subparsers: _Subparsers) -> None:
    """Adds `move`."""
    parser = subparsers.add_parser(
        "move",
        help="a log into PostgreSQL",
        description="Copies the log of a data directory into an empty database, for replicas to go on from there: the "
        "same events, the same chain, the same epochs. The directory stays as it is; no server may use it meanwhile.",
    )
    parser.add_argument("--from", metavar="DATA_DIR", dest="data_dir", type=Path, required=True)
    parser.add_argument("--to", metavar="URL", dest="store", required=True, help="postgresql://USER@HOST:PORT/DATABASE")
    parser.add_argument("--json", metavar="FILE", help="write the answer as JSON; - is standard output")
    parser.set_defaults(run=lambda asked: _run(asked, _move))


def add_backup(subparsers: _Subparsers) -> None:
    """Adds `backup`."""
    parser = subparsers.add_parser(
        "backup",
        help="a copy of the log",
        description="Copies a data directory, while a server writes to it too, and verifies the copy. What was "
        "acknowledged before is in it. It is a data directory itself: serve it, or put it in the place of a lost one.",
    )
    parser.add_argument("data_dir", metavar="DATA_DIR", type=Path)
    parser.add_argument("out", metavar="DEST", type=Path, help="the copy; it must not exist")
    parser.add_argument("--json", metavar="FILE", help="write the answer as JSON; - is standard output")
    parser.set_defaults(run=lambda asked: _run(asked, _backup))


def _add(
    subparsers: _Subparsers, name: str, command: _Command, description: str, formats: Formats
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=description, description=description)
    parser.add_argument("--format", choices=(_PARQUET, *formats.FORMATS), default=_PARQUET, help="parquet (default)")
    parser.add_argument("--json", metavar="FILE", help="write the answer as JSON; - is standard output")
    parser.set_defaults(run=lambda asked: _run(asked, command))
    return parser


def _add_place(parser: argparse.ArgumentParser, what: str) -> "argparse._MutuallyExclusiveGroup":
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--server", metavar="HOST:PORT", help=f"the running server {what}")
    connect.add_flags(parser)
    place.add_argument("--data-dir", metavar="DIR", type=Path, help=f"the data directory {what}")
    place.add_argument("--store", metavar="URL", help=f"the database {what}: postgresql://…")
    return place


def _run(asked: argparse.Namespace, command: _Command) -> int:
    try:
        command(asked, Output(asked.json))
        return 0
    except (_Damaged, StoreDamaged) as error:
        status, line = 3, str(error)
    except (PointsmanError, StoreError, ArchiveError, OSError, ValueError) as error:
        status, line = 2, str(error)
    except grpc.RpcError as error:
        status, line = 1, f"{error.code().name}: {error.details()} (server {asked.server})"
    print(f"pointsman {asked.command}: {plain(line)}", file=sys.stderr)
    return status


# --- export ------------------------------------------------------------------------------------------------------


def _export(asked: argparse.Namespace, output: Output, formats: Formats) -> None:
    if asked.format == _PARQUET:
        if asked.events:
            raise InvalidInput("--events", "is Parquet already; --format says what to make of it")
        taken, upto = _archive(asked, asked.out)
        output.json({"out": str(asked.out), "events": taken, "last_sequence": upto})
        output.line(f"{taken:,} events written to {asked.out}, up to number {upto:,}")
        return
    with contextlib.ExitStack() as stack:
        events = asked.events
        if events is None:
            events = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pointsman-")))
            _archive(asked, events)
        told = formats.export(asked, events)
    output.json({"out": str(asked.out), **told})
    output.line(f"{asked.out} written: {_in_words(told)}")


def _archive(asked: argparse.Namespace, folder: Path) -> tuple[int, int]:
    """Writes the events as Parquet: how many are new there, and the last one's number."""
    source = _of_server if asked.server else _of_directory
    archive = Archive(folder)
    try:
        with _Bar("events") as advance:
            began = archive.upto
            taken = archive.extend(source(asked, began), lambda upto: advance(upto, None))
            return taken, archive.upto
    finally:
        archive.close()


def _in_words(told: Mapping[str, Any]) -> str:
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in told.items())


def _of_directory(asked: argparse.Namespace, after: int) -> Iterator[Sequence[StoredEvent]]:
    reader = _place(asked).reader()
    try:
        for page in pages(reader, after):
            yield [event for event in page if asked.router in (None, event.router)]
    finally:
        reader.close()


def _of_server(asked: argparse.Namespace, after: int) -> Iterator[Sequence[StoredEvent]]:
    request = pb.ExportEventsRequest(
        router=asked.router or "", all_routers=asked.router is None, from_sequence=after + 1
    )
    with _channel(asked) as channel:
        for chunk in events_pb2_grpc.EventsStub(channel).ExportEvents(request, metadata=connect.metadata(asked)):
            yield [convert.stored(event) for event in chunk.events]


# --- import ------------------------------------------------------------------------------------------------------


def _import(asked: argparse.Namespace, output: Output, formats: Formats) -> None:
    told: Mapping[str, Any] = {}
    with contextlib.ExitStack() as stack:
        if asked.format == _PARQUET:
            if asked.events or asked.router:
                flag = "--events" if asked.events else "--router"
                raise InvalidInput(flag, "is for other formats; these events are Parquet, and have a router")
        else:
            asked.router = asked.router or "imported"
            folder = asked.events
            if folder is None:
                _require_new(asked)
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pointsman-"))) / "events"
            told = formats.convert(asked, folder)
            if asked.events:
                output.json({"out": str(asked.events), **told})
                output.line(f"{asked.events} written: {_in_words(told)}")
                return
            asked.source, asked.renumber = folder, True
        into = _into_server if asked.server else _into_directory
        with _Bar("events") as advance:
            imported, skipped, last = into(asked, advance)
    output.json({**told, "imported": imported, "skipped": skipped, "last_sequence": last})
    output.line(f"{imported:,} events imported, {skipped:,} were there; the log ends at number {last:,}")


def _require_new(asked: argparse.Namespace) -> None:
    """That the router to be made of another format's decisions is not there: its settings would be lost."""
    if asked.server:
        with _channel(asked) as channel:
            listed = admin_pb2_grpc.AdminStub(channel).ListRouters(
                admin_pb2.ListRoutersRequest(), metadata=connect.metadata(asked)
            )
        there = any(router.id == asked.router for router in listed.routers)
    else:
        if asked.data_dir and not (asked.data_dir / DATABASE).exists():
            return
        reader = _place(asked).reader()
        try:
            there = asked.router in _configurations(reader)
        finally:
            reader.close()
    if there:
        raise InvalidInput("--router", f"there is a router {asked.router!r} already; name another one")


def _into_directory(asked: argparse.Namespace, advance: _Advance) -> tuple[int, int, int]:
    source = read(asked.source)
    first = next(source)  # nothing is created for a source that cannot be read
    place = _place(asked)
    store = place.open()
    try:
        sessions = SessionCache(store, _CACHED_SESSIONS)
        configurations: dict[str, Configuration] = _configurations(store)
        intake = Intake(store, sessions.get, lambda router: configurations.get(router, Configuration()))
        imported = skipped = 0
        for page in _chain(first, source):
            admitted = intake.admit([_offered(logged, renumber=asked.renumber) for logged in page], store.last_seq + 1)
            if admitted.news:
                store.append([news.logged for news in admitted.news])
            for news in admitted.news:
                router = news.logged.router
                configurations[router] = configurations.get(router, Configuration()).apply(news.event)
                if news.after is not None:
                    sessions.put(router, news.after)
            sessions.trim()
            imported += len(admitted.news)
            skipped += admitted.skipped
            advance(imported + skipped, None)
        return imported, skipped, store.last_seq
    finally:
        store.close()


def _configurations(reader: EventReader) -> dict[str, Configuration]:
    """Every router of the log as it says they are."""
    found: dict[str, Configuration] = {}
    for page in pages(reader, 0):
        for stored in page:
            if not stored.session_id:
                event = record.decode(stored.kind, stored.body, stored.private).event
                found[stored.router] = found.get(stored.router, Configuration()).apply(event)
    return found


def _chain(first: list[record.Logged], rest: Iterator[list[record.Logged]]) -> Iterator[list[record.Logged]]:
    yield first
    yield from rest


def _offered(logged: record.Logged, *, renumber: bool) -> Offered:
    try:
        event = NewEvent(**{name: value for name, value in logged.items() if name not in ("seq", "digest")})  # type: ignore[arg-type]
    except ValueError as error:
        raise InvalidInput("IN", str(error)) from error
    if renumber:
        return Offered(seq=0, event=event)
    return Offered(seq=logged["seq"], event=event, digest=logged["digest"])


def _into_server(asked: argparse.Namespace, advance: _Advance) -> tuple[int, int, int]:
    source = read(asked.source)
    first = next(source)

    def requests() -> Iterator[pb.ImportEventsRequest]:
        sent = size = 0
        request = pb.ImportEventsRequest()
        for page in _chain(first, source):
            for logged in page:
                event = convert.message(StoredEvent(**logged))
                if asked.renumber:
                    event.sequence, event.digest = 0, b""
                length = event.ByteSize()
                if request.events and size + length > _MESSAGE_BYTES:
                    yield request
                    advance(sent, None)
                    request, size = pb.ImportEventsRequest(), 0
                request.events.append(event)
                sent += 1
                size += length
        yield request

    with _channel(asked) as channel:
        answer = events_pb2_grpc.EventsStub(channel).ImportEvents(requests(), metadata=connect.metadata(asked))
    return answer.imported, answer.skipped, answer.last_sequence


# --- check -------------------------------------------------------------------------------------------------------


def _check(asked: argparse.Namespace, output: Output) -> None:
    events = 0
    problems: list[Problem] = []
    place = place_at(asked.data_dir) if is_url(asked.data_dir) else Directory(Path(asked.data_dir))
    try:
        reader = place.reader()
        try:
            events = reader.last_seq
            with _Bar("events verified") as advance:
                problems = reader.verify(advance)
        finally:
            reader.close()
    except StoreDamaged as error:
        problems = [Problem(error.seq, error.what)]
    output.json(
        {
            "data_dir": str(place),
            "whole": not problems,
            "events": events,
            "problems": [{"sequence": problem.seq, "what": problem.what} for problem in problems],
        }
    )
    for problem in problems:
        output.line(f"event {problem.seq}: {problem.what}" if problem.seq is not None else problem.what)
    if problems:
        raise _Damaged(f"{place} is damaged: {len(problems)} problems")
    output.line(f"{place} is whole: {events:,} events")


# --- move --------------------------------------------------------------------------------------------------------


def _move(asked: argparse.Namespace, output: Output) -> None:
    place = place_at(asked.store)
    with _Bar("events") as advance:
        moved = move(asked.data_dir, place, lambda _what, done, of: advance(done, of))
    output.json(
        {
            "from": str(asked.data_dir),
            "to": str(place),
            "events": moved.events,
            "digest": moved.digest.hex(),
            "epochs": moved.epochs,
        }
    )
    output.line(f"{moved.events:,} events and {moved.epochs:,} epochs are in {place}, and verified")


# --- backup ------------------------------------------------------------------------------------------------------


def _backup(asked: argparse.Namespace, output: Output) -> None:
    with _Bar("pages copied, events verified") as advance:
        events = backup(asked.data_dir, asked.out, advance)
    output.json({"data_dir": str(asked.data_dir), "out": str(asked.out), "events": events})
    output.line(f"{asked.out} is a whole copy of {asked.data_dir}: {events:,} events")


# --- what they share ---------------------------------------------------------------------------------------------


def _place(asked: argparse.Namespace) -> Place:
    """The place that `--store` or `--data-dir` names."""
    return place_at(asked.store) if asked.store else Directory(asked.data_dir)


def _channel(asked: argparse.Namespace) -> AbstractContextManager[grpc.Channel]:
    # An event may be as large as the request that it came from, and a little larger.
    return connect.channel(asked, [("grpc.max_receive_message_length", -1)])


class _Bar:
    """A progress bar on standard error, where that is a terminal."""

    def __init__(self, what: str) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task(what, total=None)

    def __enter__(self) -> Callable[[int, int | None], None]:
        self._progress.start()
        return lambda done, total: self._progress.update(self._bar, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
