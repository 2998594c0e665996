"""The names in a certificate that a caller showed, by which the configuration may know them."""

from collections.abc import Iterable, Mapping
from typing import Any


def names_of_call(authenticated: Mapping[str, Iterable[bytes]]) -> list[str]:
    """The names as grpc tells them (`ServicerContext.auth_context`): alternative names, then the common name."""
    keys = ("x509_subject_alternative_name", "x509_common_name")
    return [name.decode("utf-8", "replace") for key in keys for name in authenticated.get(key, ())]


def names_of_peer(certificate: Mapping[str, Any] | None) -> list[str]:
    """The names as `ssl.SSLSocket.getpeercert` tells them, in the same order; none without a certificate."""
    certificate = certificate or {}
    alternative = [name for _, name in certificate.get("subjectAltName", ())]
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    return alternative + [name for key, name in subject if key == "commonName"]
