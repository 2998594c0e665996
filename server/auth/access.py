"""Who calls, and what they may do.

A caller is known by a bearer token, or by a certificate that the configuration names. Where neither is asked for,
everybody may do everything.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Mapping
from contextvars import ContextVar

from bandit.errors import PointsmanError
from server.auth.grants import EVERYTHING, Grant, Scope
from server.auth.tokens import Token, TokenStore, parts
from server.ids import Clock
from server.overload import Pace
from server.store.errors import StoreError

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
"""How often the tokens are looked at: one that is revoked ends within about a second."""


class Unauthenticated(PointsmanError):
    """It is not known who calls."""


class Forbidden(PointsmanError):
    """The caller is known, and may not do this."""


class Caller:
    """Somebody who is known; the same object from call to call."""

    def __init__(
        self, name: str, grant: Grant, *, token_id: str = "", sessions_per_second: float | None = None
    ) -> None:
        """`name` is for people, and never a secret. `sessions_per_second`: where the grant does not say."""
        self.name = name
        self.grant = grant
        self.token_id = token_id
        """Of the token that they are known by; empty: by a certificate, or nothing was asked for."""
        pace = grant.sessions_per_second if grant.sessions_per_second is not None else sessions_per_second
        self._sessions = Pace("sessions of this caller", pace) if pace is not None else None

    def may(self, scope: Scope, router: str | None) -> bool:
        """Whether that is granted on a router; None asks for all routers at once."""
        return self.grant.allows(scope, router)

    def require(self, scope: Scope, router: str | None) -> None:
        """Raises Forbidden unless `may`."""
        if not self.may(scope, router):
            where = "all routers" if router is None else f"router {router!r}"
            raise Forbidden(f"{self.name} lacks the scope {scope.value!r} on {where}")

    def begin_session(self) -> None:
        """Counts a session that they begin. Raises Overloaded where they begin too many."""
        if self._sessions is not None:
            self._sessions.take()


calling: ContextVar[Caller] = ContextVar("calling")
"""Who made the call that is being answered."""


class Access:
    """Knows callers. Tokens are read again while it runs, so that what is revoked ends."""

    def __init__(
        self,
        tokens: TokenStore | None = None,
        certificates: Mapping[str, Grant] | None = None,
        *,
        sessions_per_second: float | None = None,
        clock: Clock = time.time,
    ) -> None:
        """`certificates`: what the holder of a certificate with that name may do. Without both, everybody may do
        everything. `sessions_per_second`: that a caller may begin, where its grant does not say; None: any number.

        Raises StoreError where the tokens cannot be read.
        """
        self._store = tokens
        self._clock = clock
        self._sessions_per_second = sessions_per_second
        self.anybody = self._caller("anybody", EVERYTHING) if tokens is None and certificates is None else None
        """Who calls where nothing is asked for; else None."""
        self._certified = {
            name: self._caller(f"certificate {name!r}", grant) for name, grant in (certificates or {}).items()
        }
        self._tokens: dict[str, tuple[Token, Caller]] = {}
        if tokens is not None:
            self._take_in(tokens.read())
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

    @property
    def knows_certificates(self) -> bool:
        """Whether a call without a token may still be let in, for its certificate."""
        return bool(self._certified)

    def identify(self, authorization: str | None, certificate_names: Collection[str] = ()) -> Caller:
        """Who calls, by the value of the one header `authorization` (None: there is none), and by the names in the
        certificate that they showed.

        A token that is given has to be good: no certificate stands in for it. Raises Unauthenticated.
        """
        if self.anybody is not None:
            return self.anybody
        if authorization is not None:
            return self._bearer(authorization)
        for name in certificate_names:
            if (caller := self._certified.get(name)) is not None:
                return caller
        wanted = "a bearer token" if self._store is not None else "a certificate that the configuration names"
        raise Unauthenticated(f"{wanted} is required")

    def still_knows(self, caller: Caller) -> bool:
        """Whether a caller who was known is still to be let in: for calls that last."""
        if not caller.token_id:
            return True
        token, known = self._tokens.get(caller.token_id, (None, None))
        return token is not None and known is caller and not self._expired(token)

    def _bearer(self, authorization: str) -> Caller:
        scheme, _, given = authorization.partition(" ")
        token_id, secret = parts(given)
        found = self._tokens.get(token_id) if scheme.lower() == "bearer" else None
        if found is None or not found[0].has(secret):
            raise Unauthenticated("the bearer token is not valid")
        token, caller = found
        if self._expired(token):
            raise Unauthenticated(f"token {token.id} has expired")
        return caller

    def _expired(self, token: Token) -> bool:
        return token.expires_us is not None and self._clock() * 1e6 >= token.expires_us

    def _caller(self, name: str, grant: Grant, token_id: str = "") -> Caller:
        return Caller(name, grant, token_id=token_id, sessions_per_second=self._sessions_per_second)

    def _take_in(self, tokens: Mapping[str, Token]) -> None:
        before = self._tokens
        self._tokens = {
            token_id: there
            if (there := before.get(token_id)) is not None and there[0] == token
            else (token, self._caller(f"token {token_id}", token.grant, token_id))
            for token_id, token in tokens.items()
        }

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
                _log.info("tokens were read again: there are %d", len(tokens))
                self._take_in(tokens)
