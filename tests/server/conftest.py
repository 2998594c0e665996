"""The real server, run as a process."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import grpc
import pytest

from pointsman.v1 import admin_pb2, admin_pb2_grpc, events_pb2_grpc, routing_pb2_grpc
from server.cli import main

UNIFORM = """
[router]
policy = "uniform"
seed = 7
[[arms]]
id = "a"
capabilities = ["vision"]
input_usd_per_million = 1.0
output_usd_per_million = 4.0
[[arms]]
id = "b"
[[arms]]
id = "c"
capabilities = ["vision", "browser"]
"""

_READY = re.compile(r"pointsman ready grpc=(\S+) http=(\S+)")


class Server:
    """One `pointsman serve`, from its ready line on."""

    def __init__(
        self,
        data_dir: Path,
        *flags: str,
        module: Sequence[str] = ("server.cli",),
        environment: Mapping[str, str] | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        """`module` is what to run, `environment` and `stderr` are those of the process; None: this one's."""
        self.data_dir = data_dir
        command = [sys.executable, "-m", *module, "serve", "--data-dir", str(data_dir)]
        for flag in ("--listen", "--http"):
            command += [] if flag in flags else [flag, "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [*command, *flags], stdout=subprocess.PIPE, text=True, env=environment, stderr=stderr
        )
        assert self.process.stdout is not None
        ready = _READY.match(self.process.stdout.readline())
        if ready is None:
            self.kill()
            raise AssertionError("the server never said that it is ready")
        self.grpc, self.http = ready.groups()
        self.channel = grpc.insecure_channel(self.grpc)
        self.routing = routing_pb2_grpc.RoutingStub(self.channel)
        self.admin = admin_pb2_grpc.AdminStub(self.channel)
        self.events = events_pb2_grpc.EventsStub(self.channel)

    def last_sequence(self) -> int:
        """The last event in the log, as the server tells it."""
        return self.admin.GetRouter(admin_pb2.GetRouterRequest()).router.last_sequence

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.reap()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.reap()

    def reap(self) -> int:
        """Waits for the end; the exit status."""
        if hasattr(self, "channel"):
            self.channel.close()
        status = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


Serve = Callable[..., Server]


@pytest.fixture(scope="session")
def serving() -> Iterator[Serve]:
    """Starts servers that end with the tests: serving(data_dir, config text or None, *flags)."""
    with ExitStack() as ending:

        def start(data_dir: Path, config: str | None = UNIFORM, *flags: str) -> Server:
            if config is not None:
                data_dir.mkdir(parents=True, exist_ok=True)
                file = data_dir.with_suffix(".toml")
                file.write_text(config)
                flags = ("--config", str(file), *flags)
            server = Server(data_dir, *flags)
            ending.callback(lambda: server.process.poll() is None and server.kill())
            return server

        yield start


@pytest.fixture(scope="module")
def server(serving: Serve, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server with three arms, a, b and c, and a uniform policy."""
    return serving(tmp_path_factory.mktemp("server") / "data")


@pytest.fixture(scope="session", autouse=True)
def _children_find_the_rooms() -> None:
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)


class Tokens:
    """`pointsman tokens` on a data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    def __call__(self, *arguments: str) -> dict:
        """A command's answer as JSON."""
        out = self.data_dir.with_name("answer.json")
        assert main(["tokens", *arguments, "--data-dir", str(self.data_dir), "--json", str(out)]) == 0
        return json.loads(out.read_text())

    def create(self, *scopes: str, routers: tuple[str, ...] = (), flags: tuple[str, ...] = ()) -> str:
        """A new token."""
        given = [argument for scope in scopes for argument in ("--scope", scope)]
        given += [argument for router in routers for argument in ("--router", router)]
        return self("create", "somebody", *given, *flags)["token"]

    def revoke(self, token: str) -> None:
        self("revoke", token.split("_")[1])


@pytest.fixture(scope="session")
def tokens_of() -> type[Tokens]:
    return Tokens
