"""`pointsman tokens create | list | revoke`: who may call a server, decided beside it.

The commands work on the file that the server reads, whether it runs or not. Exit status: 0; 2 for bad usage or input,
after one line that says what and where.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from bandit.errors import PointsmanError
from server import config
from server.auth.grants import Grant, Scope
from server.auth.token_file import FileTokens
from server.auth.tokens import Token, TokenStore, issue
from server.console import arguments
from server.console.output import Output
from server.store.errors import StoreError
from server.words import plain

_DAY_SECONDS = 86_400.0

_Command: TypeAlias = Callable[[argparse.Namespace, TokenStore, Output], None]


def add_tokens(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Adds `tokens`."""
    parser = subparsers.add_parser("tokens", description="Bearer tokens, by which a server knows its callers.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = _add(actions, "create", _create, "makes a token, and shows it this once")
    create.add_argument("name", metavar="NAME", type=arguments.word, help="whose it is, for people")
    create.add_argument(
        "--scope",
        metavar="SCOPE",
        type=_scope,
        action="append",
        required=True,
        help=f"what it is good for, once or more: {', '.join(Scope)}",
    )
    create.add_argument(
        "--router", metavar="ID", type=arguments.word, action="append", help="only on these routers (default: all)"
    )
    create.add_argument("--days", metavar="N", type=_positive, help="until it expires (default: never)")
    create.add_argument(
        "--sessions-per-second",
        metavar="N",
        type=_positive,
        help="that it may begin (default: limits.sessions_per_second)",
    )
    _add(actions, "list", _list, "who has which rights; not the tokens themselves")
    revoke = _add(actions, "revoke", _revoke, "ends a token, at a running server within a second")
    revoke.add_argument("id", metavar="ID", type=arguments.word)


def _add(
    actions: "argparse._SubParsersAction[Any]", name: str, command: _Command, what: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=what, description=what)
    parser.add_argument("--config", metavar="FILE", type=Path, help="of the server: says where its tokens are kept")
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="of the server (default pointsman-data)")
    parser.add_argument("--json", metavar="FILE", help="write the answer as JSON; - is standard output")
    parser.set_defaults(run=lambda asked: _run(asked, command))
    return parser


def _run(asked: argparse.Namespace, command: _Command) -> int:
    try:
        configuration = config.load(asked.config)
        data_dir = asked.data_dir or Path(configuration.service.data_dir)
        command(asked, FileTokens(configuration.security.tokens_path(data_dir)), Output(asked.json))
        return 0
    except (config.ConfigError, PointsmanError, StoreError) as error:
        print(f"pointsman tokens {asked.action}: {plain(str(error))}", file=sys.stderr)
        return 2


def _create(asked: argparse.Namespace, store: TokenStore, output: Output) -> None:
    now = time.time()
    grant = Grant(
        scopes=frozenset(asked.scope),
        routers=frozenset(asked.router) if asked.router else None,
        sessions_per_second=asked.sessions_per_second,
    )
    expires_us = int((now + asked.days * _DAY_SECONDS) * 1e6) if asked.days is not None else None
    given, token = issue(asked.name, grant, now_us=int(now * 1e6), expires_us=expires_us, entropy=os.urandom)
    store.add(token)
    output.json({**_told(token), "token": given})
    if asked.json != "-":
        # By itself on a line of its own, whatever the terminal's width, for whoever pipes it on.
        print(given)
        print(f"token {token.id} of {plain(asked.name)}; it is not shown again", file=sys.stderr)


def _list(asked: argparse.Namespace, store: TokenStore, output: Output) -> None:
    tokens = sorted(store.read().values(), key=lambda token: token.created_us)
    output.json({"tokens": [_told(token) for token in tokens]})
    if not tokens:
        output.line("there are no tokens")
        return
    output.table(
        ["id", "name", "scopes", "routers", "sessions/s", "made", "expires"],
        [
            [
                token.id,
                plain(token.name),
                ", ".join(_scopes(token)),
                "all" if token.grant.routers is None else plain(", ".join(sorted(token.grant.routers))),
                "" if token.grant.sessions_per_second is None else f"{token.grant.sessions_per_second:g}",
                _day(token.created_us),
                "never" if token.expires_us is None else _day(token.expires_us),
            ]
            for token in tokens
        ],
        words=4,
    )


def _revoke(asked: argparse.Namespace, store: TokenStore, output: Output) -> None:
    token = store.remove(asked.id)
    output.json(_told(token))
    output.line(f"token {token.id} of {plain(token.name)} is revoked")


def _told(token: Token) -> dict[str, Any]:
    """What may be known of a token."""
    return {
        "id": token.id,
        "name": token.name,
        "scopes": _scopes(token),
        "routers": sorted(token.grant.routers) if token.grant.routers is not None else None,
        "sessions_per_second": token.grant.sessions_per_second,
        "created": _iso(token.created_us),
        "expires": _iso(token.expires_us) if token.expires_us is not None else None,
    }


def _scopes(token: Token) -> list[str]:
    return [scope.value for scope in Scope if scope in token.grant.scopes]


def _iso(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="seconds")


def _day(at_us: int) -> str:
    return _iso(at_us)[:10]


def _scope(text: str) -> Scope:
    try:
        return Scope(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(Scope)}") from None


def _positive(text: str) -> float:
    value = arguments.number(text)
    if not 0 < value <= 1e5:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0, at most 100000")
    return value
