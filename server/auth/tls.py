"""TLS for both ports, from files in PEM that are read again when they change."""

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Any

import grpc
import msgspec

from bandit.errors import InvalidInput

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where certificates and keys lie."""

    certificate: Path
    """The server's, with those that lead to its authority."""
    key: Path
    client_ca: Path | None = None
    """The authorities of callers' certificates. None: callers show none."""


class Tls:
    """What the ports speak TLS with.

    A certificate and key that have changed hold for connections made after it; other authorities take a restart, since
    a connection's checks are settled when the port is opened.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Raises InvalidInput whose field is `certificate`, `key` or `client_ca`."""
        self._files = files
        self._client_ca = None if files.client_ca is None else _read("client_ca", files.client_ca)
        self.for_http = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        """For the HTTP port. A browser or a health check that has no certificate is let in without."""
        if self._client_ca is not None:
            _load_authorities("client_ca", self.for_http, self._client_ca)
            self.for_http.verify_mode = ssl.CERT_OPTIONAL
        self._seen = self._look()
        self._latest = self._load()
        self._told = self._latest
        self._looking: asyncio.Task[None] | None = None

    def for_grpc(self) -> grpc.ServerCredentials:
        """For the gRPC port. With `client_ca` every caller has to show a certificate of theirs."""
        return grpc.dynamic_ssl_server_credentials(
            self._latest, self._fetch, require_client_authentication=self._client_ca is not None
        )

    async def start(self) -> None:
        """Begins to look for changed files."""
        self._looking = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Ends that."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def _fetch(self) -> Any:
        """Asked before each handshake, on a thread of grpc's: what has changed, or None."""
        latest = self._latest
        if latest is self._told:
            return None
        self._told = latest
        return latest

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if (found := self._look()) == self._seen:
                continue
            self._seen = found
            try:
                self._latest = self._load()
                _log.info("%s and its key were read again", self._files.certificate)
            except InvalidInput as error:
                # One of the two may be still to come; the old ones hold until they fit.
                _log.error("the certificate is not changed: %s", error)

    def _look(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(_version(path) for path in (self._files.certificate, self._files.key))

    def _load(self) -> Any:
        """Takes certificate and key into use for HTTP; as grpc wants them."""
        certificate, key = _read("certificate", self._files.certificate), _read("key", self._files.key)
        _load_authorities("certificate", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate)
        # Tried on another first: a context that is in use is left with half of a pair that does not fit.
        for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.for_http):
            try:
                # A password is given, or it would be asked for on the terminal.
                context.load_cert_chain(self._files.certificate, self._files.key, password="")
            except (OSError, ValueError) as error:
                fits = getattr(error, "reason", "") != "KEY_VALUES_MISMATCH"
                why = "holds no key in PEM, or one with a password" if fits else "is not that of the certificate"
                raise InvalidInput("key", f"{self._files.key} {why}") from error
        return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=self._client_ca)


def _version(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _read(field: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(field, f"{path} cannot be read: {error.strerror}") from error


def _load_authorities(field: str, context: ssl.SSLContext, pem: bytes) -> None:
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(field, "the file holds no certificate in PEM") from error
