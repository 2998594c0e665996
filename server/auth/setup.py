"""How `pointsman serve` is guarded: flags over configuration, and what is missing or too open."""

import argparse
import ipaddress
import logging
from pathlib import Path

import msgspec

from bandit.errors import InvalidInput
from server.auth.tls import Tls
from server.config import Config, ConfigError, Security
from server.store.files import make_directory

_log = logging.getLogger(__name__)

_FLAGS = {"certificate": "tls_cert", "key": "tls_key", "client_ca": "tls_client_ca", "tokens": "tokens"}
"""Keys of [security] and the arguments that stand above them."""


def secured(configuration: Config, asked: argparse.Namespace) -> tuple[Config, Tls | None]:
    """The configuration with what flags say, and what the ports speak TLS with; None: they do not.

    Raises ConfigError naming the flag, or the key and its line.
    """
    given = {key: value for key, flag in _FLAGS.items() if (value := getattr(asked, flag)) is not None}
    security = msgspec.structs.replace(configuration.security, **given)
    try:
        security.require_whole()
        tls = Tls(security.tls) if security.tls is not None else None
    except InvalidInput as error:
        key = error.field.removeprefix("security.")
        if key in given:
            raise ConfigError(f"--{_FLAGS[key].replace('_', '-')}: {error.why}") from error
        raise ConfigError(f"{configuration.source.place(f'security.{key}')}: security.{key}: {error.why}") from error
    return msgspec.structs.replace(configuration, security=security), tls


def missing(security: Security) -> str:
    """What an address that others can reach needs and is not there; empty: nothing."""
    lacks = [] if security.tls is not None else ["TLS (certificate and key)"]
    if not security.tokens and security.client_ca is None:
        lacks.append("callers who are known (tokens, or client_ca)")
    return " and ".join(lacks)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is out of others' reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def keep_private(data_dir: Path) -> None:
    """Makes the data directory for its owner alone, or warns where others can read one that is there."""
    make_directory(data_dir, mode=0o700)
    mode = data_dir.stat().st_mode & 0o777
    if mode & 0o077:
        _log.warning("%s can be read by others (mode %o): chmod 700 it", data_dir, mode)
