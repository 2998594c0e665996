"""Who calls, and what they may do.

A caller is known by a bearer token, or by a certificate that the configuration names. Where neither is asked for,
everybody may do everything.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Mapping

import msgspec

from bandit.errors import PointsmanError
from server.auth.grants import EVERYTHING, Grant, Scope
from server.auth.tokens import Token, TokenStore, id_of
from server.ids import Clock
from server.store.errors import StoreError

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
"""How often the tokens are looked at: one that is revoked ends within about a second."""


class Unauthenticated(PointsmanError):
    """It is not known who calls."""


class Forbidden(PointsmanError):
    """The caller is known, and may not do this."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who is known."""

    name: str
    """For people; never a secret."""
    grant: Grant
    token: Token | None = None
    """What they are known by; None: a certificate, or nothing is asked for."""

    def may(self, scope: Scope, router: str | None) -> bool:
        """Whether that is granted on a router; None asks for all routers at once."""
        return self.grant.allows(scope, router)

    def require(self, scope: Scope, router: str | None) -> None:
        """Raises Forbidden unless `may`."""
        if not self.may(scope, router):
            where = "all routers" if router is None else f"router {router!r}"
            raise Forbidden(f"{self.name} lacks the scope {scope.value!r} on {where}")


ANYBODY = Caller(name="anybody", grant=EVERYTHING)
"""Who calls where nothing is asked for."""


class Access:
    """Knows callers. Tokens are read again while it runs, so that what is revoked ends."""

    def __init__(
        self,
        tokens: TokenStore | None = None,
        certificates: Mapping[str, Grant] | None = None,
        *,
        clock: Clock = time.time,
    ) -> None:
        """`certificates`: what the holder of a certificate with that name may do. Without both, everybody may do
        everything. Raises StoreError where the tokens cannot be read."""
        self.open = tokens is None and certificates is None
        self._store = tokens
        self._clock = clock
        self._tokens = {} if tokens is None else dict(tokens.read())
        self._certified = {
            name: Caller(name=f"certificate {name!r}", grant=grant) for name, grant in (certificates or {}).items()
        }
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to look for changed tokens."""
        if self._store is not None:
            self._looking = asyncio.get_running_loop().create_task(self._look(self._store))

    async def stop(self) -> None:
        """Ends that."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def identify(self, authorization: str | None, certificate_names: Collection[str] = ()) -> Caller:
        """Who calls, by the value of the one header `authorization` (None: there is none), and by the names in the
        certificate that they showed.

        A token that is given has to be good: no certificate stands in for it. Raises Unauthenticated.
        """
        if self.open:
            return ANYBODY
        if authorization is not None:
            return self._bearer(authorization)
        for name in certificate_names:
            if (caller := self._certified.get(name)) is not None:
                return caller
        wanted = "a bearer token" if self._store is not None else "a certificate that is named in the configuration"
        raise Unauthenticated(f"{wanted} is required")

    def still(self, caller: Caller) -> bool:
        """Whether the caller is still to be let in, for calls that last."""
        token = caller.token
        return token is None or (self._tokens.get(token.id) == token and not self._expired(token))

    def _bearer(self, authorization: str) -> Caller:
        scheme, _, given = authorization.partition(" ")
        token = self._tokens.get(id_of(given)) if scheme.lower() == "bearer" else None
        if token is None or not token.is_of(given):
            raise Unauthenticated("the bearer token is not valid")
        if self._expired(token):
            raise Unauthenticated(f"token {token.id} has expired")
        return Caller(name=f"token {token.id}", grant=token.grant, token=token)

    def _expired(self, token: Token) -> bool:
        return token.expires_us is not None and self._clock() * 1e6 >= token.expires_us

    async def _look(self, store: TokenStore) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                tokens = await loop.run_in_executor(None, store.read_again)
            except StoreError as error:
                # Those that were read last go on to hold: an outage of their store is no reason to lock everybody out.
                _log.error("tokens cannot be read: %s", error)
                continue
            if tokens is not None:
                _log.info("tokens were read again: %d", len(tokens))
                self._tokens = dict(tokens)
