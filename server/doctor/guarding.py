"""Is a configured service guarded? Addresses, certificates, tokens."""

import stat
from collections.abc import Iterator
from pathlib import Path

from bandit.errors import InvalidInput
from server.auth import setup
from server.auth.tls import Tls, TlsFiles
from server.auth.token_file import FileTokens
from server.config import Config
from server.doctor import certificate
from server.doctor.finding import Finding, Severity
from server.store.errors import StoreError

_SOON_SECONDS = 30 * 86_400.0


def check(config: Config, now: float) -> Iterator[Finding]:
    """What is wrong at `now`, in seconds since 1970."""
    yield from _addresses(config)
    if config.security.tls is not None:
        yield from _tls(config, config.security.tls, now)
    if config.security.tokens:
        yield from _tokens(config)


def _addresses(config: Config) -> Iterator[Finding]:
    lacks = setup.missing(config.security)
    for key, address in (("listen", config.service.listen), ("http", config.service.http)):
        host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
        if lacks and not setup.is_loopback(host):
            yield Finding(
                code="address-unguarded",
                severity=Severity.ERROR,
                where=config.source.place(f"service.{key}"),
                found=f"{address} is in reach of others, without {lacks}; `serve` refuses it",
                remedy="set it in [security], or listen on 127.0.0.1 behind something that guards it",
            )


def _tls(config: Config, files: TlsFiles, now: float) -> Iterator[Finding]:
    try:
        Tls(files)
    except InvalidInput as error:
        yield Finding(
            code="tls-unusable",
            severity=Severity.ERROR,
            where=config.source.place(f"security.{error.field}"),
            found=f"{error.field}: {error.why}",
            remedy="name the certificate in PEM, with its chain, and the key that it was made for, without a password",
        )
        return
    if _others_may(files.key, stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        yield Finding(
            code="key-open",
            severity=Severity.ERROR,
            where=str(files.key),
            found=f"the key has mode {_mode(files.key):o}: others can take the server's place",
            remedy=f"chmod 600 {files.key}",
        )
    try:
        left = certificate.expires_at(files.certificate, files.key) - now
    except certificate.Unacceptable as error:
        yield Finding(
            code="certificate-expired" if error.expired else "certificate-refused",
            severity=Severity.ERROR,
            where=str(files.certificate),
            found=f"callers refuse it: {error}",
            remedy="get a new one for this server, and put it in the place of the old: it is read again while serving",
        )
        return
    if left < _SOON_SECONDS:
        yield Finding(
            code="certificate-ends-soon",
            severity=Severity.WARNING,
            where=str(files.certificate),
            found=f"it ends in {left / 86_400:.1f} days",
            remedy="renew it, and put it in the place of the old: it is read again while serving",
        )


def _tokens(config: Config) -> Iterator[Finding]:
    path = config.security.tokens_path(Path(config.service.data_dir))
    try:
        tokens = FileTokens(path).read()
    except StoreError as error:
        yield Finding(
            code="tokens-unusable",
            severity=Severity.ERROR,
            where=str(path),
            found=str(error),
            remedy="make it readable to the user that serves, and writable to nobody else; or restore it from a copy",
        )
        return
    if not tokens and not config.security.clients:
        yield Finding(
            code="no-tokens",
            severity=Severity.WARNING,
            where=str(path),
            found="callers need a token, and there is none",
            remedy="`pointsman tokens create NAME --scope route --scope reward`",
        )
    elif tokens and _others_may(path, stat.S_IRGRP | stat.S_IROTH):
        yield Finding(
            code="tokens-open",
            severity=Severity.ERROR,
            where=str(path),
            found=f"mode {_mode(path):o}: others can read who may call and what for (the tokens themselves are hashed)",
            remedy=f"chmod 600 {path}",
        )


def _others_may(path: Path, bits: int) -> bool:
    return bool(_mode(path) & bits)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
