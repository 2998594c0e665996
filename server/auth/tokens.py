"""Bearer tokens: secrets of 256 random bits, of which only salted digests are kept.

A token reads ``pointsman_ID_SECRET``. The id is no secret: it finds the record, whose digest then is compared. Digests
of so many random bits cannot be searched, so no slow hash is needed.
"""

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import blake2b
from typing import Protocol

import msgspec

from server.auth.grants import Grant
from server.ids import Entropy

_PREFIX = "pointsman"
_ID_BYTES = 6
_SALT_BYTES = 16
_SECRET_BYTES = 32


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token as it is kept: nothing in it lets anybody in."""

    id: str
    name: str
    """Whose it is, for people."""
    grant: Grant
    created_us: int
    expires_us: int | None = None
    salt: bytes
    digest: bytes
    """Of the secret, keyed with the salt."""

    def has(self, secret: str) -> bool:
        """Whether this is its secret. Takes the same time wherever they differ."""
        return hmac.compare_digest(_digest(secret, self.salt), self.digest)


class TokenStore(Protocol):
    """Where tokens are kept. Several servers and commands may use it at once."""

    def read(self) -> Mapping[str, Token]:
        """All tokens by id. Raises StoreError."""
        ...

    def read_again(self) -> Mapping[str, Token] | None:
        """As `read`, or None where nothing has changed since it was last read through this object: cheap to ask."""
        ...

    def add(self, token: Token) -> None:
        """Keeps a new token, durably. Raises StoreError."""
        ...

    def remove(self, token_id: str) -> Token:
        """Forgets a token, durably. Raises Unknown and StoreError."""
        ...


def issue(name: str, grant: Grant, *, now_us: int, expires_us: int | None, entropy: Entropy) -> tuple[str, Token]:
    """A new token: what its owner is given, and what is kept."""
    token_id = entropy(_ID_BYTES).hex()
    secret = urlsafe_b64encode(entropy(_SECRET_BYTES)).rstrip(b"=").decode()
    salt = entropy(_SALT_BYTES)
    kept = Token(
        id=token_id,
        name=name,
        grant=grant,
        created_us=now_us,
        expires_us=expires_us,
        salt=salt,
        digest=_digest(secret, salt),
    )
    return f"{_PREFIX}_{token_id}_{secret}", kept


def parts(given: str) -> tuple[str, str]:
    """Id and secret of a token; of what is none, an id that no token has."""
    prefix, _, rest = given.partition("_")
    token_id, _, secret = rest.partition("_")
    return (token_id, secret) if prefix == _PREFIX else ("", "")


def _digest(secret: str, salt: bytes) -> bytes:
    # Whatever came in a header: what cannot be encoded is no secret of ours.
    return blake2b(secret.encode("utf-8", "replace"), key=salt, digest_size=32, person=b"pm token").digest()
