"""What a caller would say of a certificate, without a network: a handshake in memory."""

import ssl
from pathlib import Path

_EXPIRED = 10
"""OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED."""


class Unacceptable(Exception):
    """A caller who trusts this very certificate would still refuse it; the text says why."""

    def __init__(self, why: str, *, expired: bool) -> None:
        super().__init__(why)
        self.expired = expired


def expires_at(certificate: Path, key: Path) -> float:
    """When it ends, in seconds since 1970. Raises Unacceptable.

    Both files must be known to fit each other. Whether an authority has signed it is not asked: which authorities
    callers trust is not known here.
    """
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key, password="")
    calling = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    calling.check_hostname = False
    calling.load_verify_locations(cadata=certificate.read_text(encoding="ascii"))
    calling.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    client = calling.wrap_bio(to_client, to_server)
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            _go_on(server)
        except ssl.SSLCertVerificationError as error:
            raise Unacceptable(error.verify_message, expired=error.verify_code == _EXPIRED) from error
    shown = client.getpeercert()
    assert shown, "a caller who verifies knows what it has verified"
    return ssl.cert_time_to_seconds(str(shown["notAfter"]))


def _go_on(server: ssl.SSLObject) -> None:
    try:
        server.do_handshake()
    except ssl.SSLWantReadError:
        return
