"""How commands reach a server: TLS and tokens, from flags and the environment."""

import argparse
import os
from pathlib import Path

import grpc

from bandit.errors import InvalidInput
from pointsman import channels
from server.console import arguments

_TOKEN_VARIABLE = "POINTSMAN_TOKEN"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say how a server is reached."""
    parser.add_argument(
        "--token",
        metavar="TOKEN",
        type=arguments.word,
        help=f"bearer token (default: the variable {_TOKEN_VARIABLE}, which others on this machine do not see)",
    )
    parser.add_argument("--tls", action="store_true", help="TLS, with the authorities that this machine trusts")
    parser.add_argument("--tls-ca", metavar="FILE", type=Path, help="TLS, with the authorities in this file (PEM)")
    parser.add_argument("--tls-cert", metavar="FILE", type=Path, help="certificate to show to the server (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", type=Path, help="its key")


def token(asked: argparse.Namespace) -> str:
    """The bearer token; empty: none. Raises InvalidInput where it cannot be one, without quoting it."""
    given = str(asked.token or os.environ.get(_TOKEN_VARIABLE, ""))
    if not channels.may_be_token(given):
        raise InvalidInput("--token", f"it, or {_TOKEN_VARIABLE}, holds characters that no token has")
    return given


def credentials(asked: argparse.Namespace) -> grpc.ChannelCredentials | None:
    """What TLS to `asked.server` needs; None means plaintext.

    Raises InvalidInput naming the flag, also where the token would travel in plaintext beyond this machine.
    """
    if (asked.tls_cert is None) != (asked.tls_key is None):
        raise InvalidInput("--tls-cert" if asked.tls_key else "--tls-key", "required: a certificate and its key")
    files = [_read(flag, getattr(asked, flag)) for flag in ("tls_ca", "tls_key", "tls_cert")]
    given = grpc.ssl_channel_credentials(*files) if asked.tls or any(files) else None
    try:
        return channels.credentials_of(asked.server, token=token(asked), credentials=given, root_certificates=None)
    except ValueError as error:
        raise InvalidInput("--token", f"is not sent in plaintext to {asked.server}: give --tls or --tls-ca") from error


def channel(asked: argparse.Namespace, options: list[tuple[str, int]]) -> grpc.Channel:
    """A channel to `asked.server`. Raises InvalidInput as `credentials` does."""
    secured = credentials(asked)
    if secured is None:
        return grpc.insecure_channel(asked.server, options=options)
    return grpc.secure_channel(asked.server, secured, options=options)


def metadata(asked: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """What goes with each call."""
    return channels.metadata(token(asked))


def _read(flag: str, path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path is not None else None
    except OSError as error:
        raise InvalidInput(f"--{flag.replace('_', '-')}", f"{path} cannot be read: {error.strerror}") from error
