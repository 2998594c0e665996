"""How a client reaches the service: plaintext or TLS, and whether a token may travel that way."""

import ipaddress
from urllib.parse import urlsplit

import grpc

# grpc waits a second before it dials again, longer than the retries of a call take; a restarted server is
# back sooner.
OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 2000)]

_ON_THIS_MACHINE = ("unix:", "unix-abstract:")


def credentials_of(
    target: str, *, token: str, credentials: grpc.ChannelCredentials | None, root_certificates: bytes | None
) -> grpc.ChannelCredentials | None:
    """The TLS credentials for a channel; None means plaintext.

    ValueError where both kinds are given, and where a token would travel in plaintext beyond this machine.
    """
    if root_certificates is not None:
        if credentials is not None:
            raise ValueError("give credentials or root_certificates: credentials bring root certificates of their own")
        return grpc.ssl_channel_credentials(root_certificates)
    if token and credentials is None and not is_loopback(target):
        raise ValueError(f"a token is not sent in plaintext to {target}: give root_certificates or credentials")
    return credentials


def may_be_token(token: str) -> bool:
    """Whether a header may carry it; grpc would quote another in its complaint."""
    return token.isascii() and token.isprintable()


def metadata(token: str) -> tuple[tuple[str, str], ...]:
    """What goes with every call."""
    return (("authorization", f"Bearer {token}"),) if token else ()


def is_loopback(target: str) -> bool:
    """Whether a grpc target is on this machine, as far as its name tells."""
    if target.startswith(_ON_THIS_MACHINE):
        return True
    # `HOST:PORT`, `dns:HOST:PORT`, `dns://AUTHORITY/HOST:PORT`, `ipv4:A:PORT` and `ipv6:[A]:PORT`.
    for scheme in ("dns:", "ipv4:", "ipv6:"):
        if target.startswith(scheme):
            target = target.removeprefix(scheme).rpartition("/")[2]
            break
    try:
        host = urlsplit(f"//{target}").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
