"""A command that talks to a server: the flags that all have, and how it ends.

Exit status: 0; 1 where the server cannot be reached or refuses, after one line with the status and the field; 2 for bad
usage or input, after one line that says what and where.
"""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from bandit.errors import InvalidInput
from pointsman import Client, field_violations
from pointsman.errors import code_of
from server.console import arguments, connect
from server.console.output import Output
from server.words import plain

_SERVER_VARIABLE = "POINTSMAN_SERVER"
_DEFAULT_SERVER = "127.0.0.1:50051"

Subparsers: TypeAlias = "argparse._SubParsersAction[Any]"
Command: TypeAlias = Callable[[argparse.Namespace, Client, Output], None]


def add(subparsers: Subparsers, name: str, command: Command, description: str) -> argparse.ArgumentParser:
    """A command with the flags that all have."""
    parser: argparse.ArgumentParser = subparsers.add_parser(name, description=description)
    add_to_server(parser)
    parser.add_argument("--router", metavar="ID", type=arguments.word, help="default: the router `default`")
    parser.set_defaults(run=lambda asked: _run(asked, command))
    return parser


def add_to_server(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say which server is asked, how, and where the answer goes."""
    parser.add_argument(
        "--server",
        metavar="HOST:PORT",
        type=_address,
        help=f"default: the variable {_SERVER_VARIABLE}, else {_DEFAULT_SERVER}",
    )
    connect.add_flags(parser)
    parser.add_argument("--timeout", metavar="SECONDS", type=arguments.deadline, default=5.0, help="of each call (5)")
    parser.add_argument(
        "--json", metavar="FILE", type=arguments.word, help="write the answer as JSON; - is standard output"
    )


class Refused(Exception):
    """The server said no, in one line."""


def _run(asked: argparse.Namespace, command: Command) -> int:
    try:
        asked.server = server_of(asked)
        output = Output(asked.json)
        credentials, token = connect.credentials(asked), connect.token(asked)
        with Client(asked.server, timeout_seconds=asked.timeout, token=token, credentials=credentials) as client:
            command(asked, client, output)
        return 0
    except InvalidInput as error:
        status, line = 2, str(error)
    except Refused as error:
        status, line = 1, str(error)
    except grpc.RpcError as error:
        status, line = 1, _refusal(error, asked.server)
    print(f"pointsman {asked.command}: {plain(line)}", file=sys.stderr)
    return status


def server_of(asked: argparse.Namespace) -> str:
    """The server that a command is about. Raises InvalidInput where the environment names none."""
    if asked.server:
        return str(asked.server)
    given = os.environ.get(_SERVER_VARIABLE)
    try:
        return _address(given) if given else _DEFAULT_SERVER
    except argparse.ArgumentTypeError as error:
        raise InvalidInput(_SERVER_VARIABLE, str(error)) from error


def _refusal(error: grpc.RpcError, server: str) -> str:
    """The status, what it says, and the fields that it names."""
    code = code_of(error)
    details = getattr(error, "details", None)
    said = (details() if callable(details) else None) or "no reason given"
    fields = ", ".join(field for field, _ in field_violations(error))
    line = f"{code.name}: {said}"
    if fields and not said.startswith(fields):
        line += f" ({fields})"
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        line += f" (server {server})"
    return line


def as_json(message: Message) -> dict[str, Any]:
    """A message by its fields' own names, all of them but those whose absence means something."""
    return dict(
        json_format.MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    )


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or len(port) > 5 or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return arguments.encodable(text)
