"""`pointsman doctor`."""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bandit.errors import InvalidInput
from pointsman import Client
from server.console import arguments, command, connect
from server.console.output import Output
from server.doctor import configuration, directory, environment, running
from server.doctor.environment import Environment
from server.doctor.finding import Finding, Severity
from server.words import plain

_DESCRIPTION = """Looks for the usual mistakes, and says what to do about each: in a configuration file, a data
directory, a running server, and what this command itself runs on. Without --config, --data-dir and --server it looks
at the server that the environment names. Exit status 0: nothing has to be done, warnings apart; 1: something has to;
2: bad usage."""


def add_doctor(subparsers: command.Subparsers) -> None:
    """Adds the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser("doctor", description=_DESCRIPTION)
    parser.add_argument("--config", metavar="FILE", type=Path, help="a configuration file to look at")
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="a data directory to look at")
    command.add_to_server(parser)
    parser.add_argument("--router", metavar="ID", type=arguments.word, help="of the server look at this router alone")
    parser.set_defaults(run=_doctor)


def _doctor(asked: argparse.Namespace) -> int:
    try:
        output = Output(asked.json)
        here = Environment.here()
        found = list(_findings(asked, here))
        output.json(msgspec.to_builtins({"environment": here, "findings": found}))
    except InvalidInput as error:
        print(f"pointsman {asked.command}: {plain(str(error))}", file=sys.stderr)
        return 2
    _show(here, found, output)
    return int(any(finding.severity is Severity.ERROR for finding in found))


def _findings(asked: argparse.Namespace, here: Environment) -> Iterator[Finding]:
    yield from environment.check(here)
    if asked.config is not None:
        yield from configuration.check(asked.config, time.time())
    if asked.data_dir is not None:
        yield from directory.check(asked.data_dir, served=asked.server is not None)
    if asked.server is not None or (asked.config is None and asked.data_dir is None):
        asked.server = command.server_of(asked)
        yield from _running(asked)


def _running(asked: argparse.Namespace) -> Iterator[Finding]:
    credentials, token = connect.credentials(asked), connect.token(asked)
    how = f"{'TLS' if credentials is not None else 'plaintext'}, {'with' if token else 'without'} a token"
    with Client(asked.server, timeout_seconds=asked.timeout, token=token, credentials=credentials) as client:
        yield from running.check(client, asked.server, asked.router or "", how=how, timeout_seconds=asked.timeout)


def _show(here: Environment, found: Sequence[Finding], output: Output) -> None:
    output.facts(here.facts())
    for finding in sorted(found, key=lambda finding: finding.severity is Severity.WARNING):
        output.line()
        error = finding.severity is Severity.ERROR
        output.line(f"{finding.severity.value} {finding.code}", style="bold red" if error else "bold yellow")
        told = [("where", finding.where), ("found", finding.found), ("do", finding.remedy)]
        output.facts([(name, plain(text)) for name, text in told])
    output.line()
    errors = sum(finding.severity is Severity.ERROR for finding in found)
    if not found:
        output.line("nothing found", style="green")
    else:
        output.line(f"{errors} to be done, {len(found) - errors} to be looked at", style="red" if errors else "yellow")
