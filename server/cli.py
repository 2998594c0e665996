"""The command line: `pointsman serve`, and the commands that other modules bring."""

import argparse
import asyncio
import importlib
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, NoReturn

_ELSEWHERE = {
    "simulate": ("sim.cli", "add_simulate", "run policies on recorded or simulated sessions"),
    "replay": ("sim.replay_cli", "add_replay", "how other policies would have done on a log, and whether they pass"),
    "demo": ("sim.demo", "add_demo", "a server and a fleet of simulated agents, and what was saved"),
    "status": ("server.console.cli", "add_status", "every router of a server, and whether it is learning"),
    "arms": ("server.console.arms", "add_arms", "the arms of a router, their prices and what is down"),
    "policies": ("server.console.policies", "add_policies", "who decides and who is tried: shadow, canary, promotion"),
    "mode": ("server.console.policies", "add_mode", "who decides, and whether it learns"),
    "select": ("server.console.cli", "add_select", "which arm takes this session, and why"),
    "reward": ("server.console.cli", "add_reward", "tell how an attempt or a session went"),
    "escalate": ("server.console.cli", "add_escalate", "leave the running attempt: which arm next"),
    "explain": ("server.console.cli", "add_explain", "why this model: a decision or a session in words"),
    "doctor": ("server.doctor.cli", "add_doctor", "the usual mistakes, found, and what to do about them"),
    "tokens": ("server.auth.commands", "add_tokens", "bearer tokens: who may call a server, and what they may do"),
    "export": ("server.log_commands", "add_export", "the log as Parquet or for other projects"),
    "import": ("server.log_commands", "add_import", "an export, or other projects' logged decisions, into a log"),
    "move": ("server.log_commands", "add_move", "a log from a data directory into PostgreSQL"),
    "check": ("server.log_commands", "add_check", "is the log in a data directory whole?"),
    "backup": ("server.log_commands", "add_backup", "a whole copy of a data directory, of a running server's too"),
}
"""Commands of other modules: module, function that adds it to the subparsers, help. Imported only when asked for."""

_WITH = {"export": "sim.formats.commands", "import": "sim.formats.commands"}
"""What a command of one room needs of the other, given to its function: they do not know each other."""


class _Parser(argparse.ArgumentParser):
    """Bad usage is one line and exit 2."""

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        from server.words import plain

        self.exit(2, f"{self.prog}: {plain(message)}\n")


class _UsageError(Exception):
    """Bad usage or input, in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status."""
    # grpc tells people about its forking on standard error, where they look for what went wrong.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # Between fork and exec of the fitter, grpc would start its threads anew in the child, and now and then wait for
    # them forever, and with it the server. Nothing here forks without an exec.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _Parser(prog="pointsman", description="Routes coding-agent sessions to the model worth its price.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands)
    for name, (module, function, help_text) in _ELSEWHERE.items():
        if given[:1] == [name]:
            needed = [importlib.import_module(_WITH[name])] if name in _WITH else []
            getattr(importlib.import_module(module), function)(commands, *needed)
        else:
            commands.add_parser(name, help=help_text)
    asked = parser.parse_args(given)
    try:
        status = int(asked.run(asked))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Nobody reads on, `| head` for instance. What is still buffered must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except _UsageError as error:
        print(f"pointsman {asked.command}: {error}", file=sys.stderr)
        return 2


def _add_serve(commands: "argparse._SubParsersAction[_Parser]") -> None:
    serve = commands.add_parser("serve", help="run the service")
    serve.add_argument("--config", metavar="FILE", type=Path, help="configuration in TOML (default: bundled)")
    serve.add_argument("--listen", metavar="HOST:PORT", help="gRPC address; port 0 picks one (default 127.0.0.1:50051)")
    serve.add_argument("--http", metavar="HOST:PORT", help="HTTP address; port 0 picks one (default 127.0.0.1:8080)")
    serve.add_argument("--data-dir", metavar="DIR", type=Path, help="where the log is kept (default pointsman-data)")
    serve.add_argument(
        "--store",
        metavar="URL",
        help="keep the log in PostgreSQL, for several replicas: postgresql://USER@HOST:PORT/DATABASE "
        "(or in the environment variable POINTSMAN_STORE)",
    )
    serve.add_argument("--tls-cert", metavar="FILE", help="certificate of the server, PEM: TLS on both ports")
    serve.add_argument("--tls-key", metavar="FILE", help="its key")
    serve.add_argument("--tls-client-ca", metavar="FILE", help="authorities of callers' certificates: mTLS")
    serve.add_argument("--tokens", action="store_true", default=None, help="callers need a token (`pointsman tokens`)")
    serve.add_argument(
        "--insecure", action="store_true", help="allow addresses other than loopback, without TLS and authentication"
    )
    serve.set_defaults(run=_serve)


def _serve(asked: argparse.Namespace) -> int:
    # Imported here: other commands need neither grpc nor the store.
    from bandit.errors import PointsmanError
    from server import app, config
    from server.auth import setup
    from server.store.errors import StoreDamaged, StoreError
    from server.store.place import URL_VARIABLE, Directory, place_at
    from server.telemetry import logs

    logs.write()
    try:
        configuration, tls = setup.secured(config.load(asked.config), asked)
    except config.ConfigError as error:
        raise _UsageError(str(error)) from error
    service = configuration.service
    logs.write_as(service.log_format)
    unguarded = "" if asked.insecure else setup.missing(configuration.security)
    listen = app.Address(*_address("--listen", asked.listen or service.listen, unguarded))
    http = app.Address(*_address("--http", asked.http or service.http, unguarded))
    data_dir = asked.data_dir if asked.data_dir is not None else Path(service.data_dir)
    os.environ[URL_VARIABLE] = url = asked.store or os.environ.get(URL_VARIABLE, "")
    try:
        place = place_at(url) if url else Directory(data_dir)
    except StoreError as error:
        raise _UsageError(f"--store: {error}") from error
    if configuration.bundled:
        arms = len(configuration.routers[0].arms)
        print(f"no --config: router 'default' with the bundled catalogue of {arms} arms", file=sys.stderr)
    try:
        setup.keep_private(data_dir)
        _run(app.run(configuration, place, listen=listen, http=http, data_dir=data_dir, tls=tls))
    except StoreDamaged as error:
        print(f"pointsman serve: {place}: {error}", file=sys.stderr)
        return 3
    except (StoreError, PointsmanError, OSError) as error:
        raise _UsageError(str(error)) from error
    return 0


def _run(service: Coroutine[Any, Any, None]) -> None:
    """Under uvloop where there is one: a sixth less time a call."""
    if sys.platform == "win32":
        asyncio.run(service)
    else:
        import uvloop

        uvloop.run(service)


def _address(flag: str, given: str, unguarded: str) -> tuple[str, int]:
    """Host and port; `unguarded` says what an address that is not loopback would lack."""
    from server.auth.setup import is_loopback

    host, colon, port = given.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise _UsageError(f"{flag}: {given!r} is not HOST:PORT")
    if unguarded and not is_loopback(host):
        raise _UsageError(f"{flag}: {host} is not loopback and needs {unguarded} in [security], or else --insecure")
    return host, int(port)


if __name__ == "__main__":
    sys.exit(main())
